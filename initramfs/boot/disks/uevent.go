package disks

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Event is one message of the kernel about a device,
// Documentation/ABI/testing/sysfs-uevent.
type Event struct {
	Action string
	Env    map[string]string
}

// maxUevent is UEVENT_BUFFER_SIZE of the kernel and its header.
const maxUevent = 8 << 10

// ErrOverrun says that the kernel dropped messages: the reader must look at
// sysfs again.
var ErrOverrun = errors.New("uevents were lost")

// Listener receives the kernel's uevents.
type Listener struct{ fd int }

// Listen opens the socket. What happens after it returns is not missed.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	// A burst at start (one message per device and partition) must fit. Without
	// the right to exceed rmem_max the default stays; an overrun is then noticed.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket: bind: %w", err)
	}
	return &Listener{fd}, nil
}

// Next waits for an event. ErrOverrun can be returned any number of times; after
// another error the listener is of no more use.
func (l *Listener) Next() (Event, error) {
	buf := make([]byte, maxUevent)
	for {
		n, from, err := unix.Recvfrom(l.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return Event{}, ErrOverrun
		case err != nil:
			return Event{}, fmt.Errorf("uevent socket: %w", err)
		}
		// Port 0 is the kernel; a program may send to the group, too.
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue
		}
		if e, ok := parseUevent(buf[:n]); ok {
			return e, nil
		}
	}
}

// Close ends a pending Next.
func (l *Listener) Close() error {
	_ = unix.Shutdown(l.fd, unix.SHUT_RDWR)
	return unix.Close(l.fd)
}

// parseUevent reads "ACTION@DEVPATH\0NAME=VALUE\0...".
func parseUevent(b []byte) (Event, bool) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || !bytes.ContainsRune(head, '@') {
		return Event{}, false
	}
	e := Event{Env: map[string]string{}}
	for _, kv := range bytes.Split(rest, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok {
			e.Env[k] = v
		}
	}
	e.Action = e.Env["ACTION"]
	return e, e.Action != "" && e.Env["DEVPATH"] != ""
}
