package vm

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

func TestSilence(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		spoke time.Duration // after the start; 0: before it
		tried int
		want  bool
	}{
		"nothing":                    {0, 0, true},
		"what was before the reset":  {time.Second, 0, true},
		"it speaks":                  {5 * time.Second, 2, false},
		"silent thrice already":      {0, silentResets, false},
		"silent once more and again": {0, silentResets - 1, true},
	} {
		s := silence{began: now, spoke: now.Add(c.spoke), tried: c.tried}
		if got := s.lasts(); got != c.want {
			t.Errorf("%s: lasts() = %v, want %v", name, got, c.want)
		}
	}
}

// A guest whose firmware is silent is reset, and the log says why.
func TestWake(t *testing.T) {
	ours, qemu := net.Pipe()
	defer qemu.Close()
	asked := make(chan string, 2)
	go func() {
		in := bufio.NewScanner(qemu)
		for in.Scan() {
			asked <- in.Text()
			qemu.Write([]byte("{\"return\": {}}\n"))
		}
	}()
	var log bytes.Buffer
	m := &VM{cfg: Config{Firmware: "uefi", Log: slog.New(slog.NewTextHandler(&log, nil))}, accel: "kvm", changed: make(chan struct{})}
	var err error
	if m.qmp, err = newMonitor(t.Context(), ours, m.event); err != nil {
		t.Fatal(err)
	}
	defer m.qmp.close()
	<-asked // qmp_capabilities
	m.silence.began = time.Now()
	m.wake()
	if got := <-asked; !strings.Contains(got, "system_reset") || !strings.Contains(log.String(), "the firmware shows nothing and is reset") {
		t.Errorf("qemu was asked %s, the log says %s", got, log.String())
	}
	m.ended = true
	m.wake()
	select {
	case got := <-asked:
		t.Errorf("a guest that has ended is asked for %s", got)
	default:
	}
}
