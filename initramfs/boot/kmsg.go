package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxKmsg is less than LOG_LINE_MAX of the kernel, which cuts longer records.
const maxKmsg = 900

// ratelimit is the kernel's limit on writes to /dev/kmsg: ten lines in five
// seconds would drop the reason of a failed boot.
const ratelimit = "/proc/sys/kernel/printk_devkmsg"

// openKmsg gives a logger to the kernel log, and so to every console. restore
// puts back the kernel's rate limit for the system that follows.
func openKmsg(path string) (log *slog.Logger, level *slog.LevelVar, restore func(), err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	old, readErr := os.ReadFile(ratelimit)
	restore = func() {}
	if readErr == nil && os.WriteFile(ratelimit, []byte("on\n"), 0) == nil {
		restore = func() { _ = os.WriteFile(ratelimit, old, 0) }
	}
	level = &slog.LevelVar{}
	return slog.New(&kmsgHandler{out: f, level: level, mu: &sync.Mutex{}}), level, restore, nil
}

// kmsgHandler writes one record of the kernel log per message:
// "<PRIORITY>ward-init: message key=value".
type kmsgHandler struct {
	out   interface{ Write([]byte) (int, error) }
	level slog.Leveler
	attrs string
	mu    *sync.Mutex
}

func (h *kmsgHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *kmsgHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("ward-init: ")
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return true
	})
	// One failure is one line, whatever a message from elsewhere holds.
	text := strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ReplaceAll(b.String(), "\n", "; "))
	if len(text) > maxKmsg {
		text = text[:maxKmsg] + "..."
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintf(h.out, "<%d>%s\n", priority(r.Level), text)
	return err
}

// priority is the syslog level; facility 1 (user) tells the journal that it is
// not the kernel that speaks.
func priority(l slog.Level) int {
	const user = 1 << 3
	switch {
	case l >= slog.LevelError:
		return user | 3
	case l >= slog.LevelWarn:
		return user | 4
	case l >= slog.LevelInfo:
		return user | 6
	}
	return user | 7
}

func writeAttr(b *strings.Builder, a slog.Attr) {
	if a.Equal(slog.Attr{}) {
		return
	}
	v := a.Value.Resolve().String()
	if strings.ContainsAny(v, " \"=") || v == "" {
		v = fmt.Sprintf("%q", v)
	}
	b.WriteString(" " + a.Key + "=" + v)
}

func (h *kmsgHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.attrs)
	for _, a := range attrs {
		writeAttr(&b, a)
	}
	c := *h
	c.attrs = b.String()
	return &c
}

func (h *kmsgHandler) WithGroup(string) slog.Handler { return h }
