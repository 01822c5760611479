package vm

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFaults(t *testing.T) {
	for _, line := range []string{
		"[    6.415656] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
		"ward-init: halt: the policy is on_failure=halt and phi-data: locked",
		"ward-init: the machine is switched off: root: no device with PARTUUID=0 appeared in 1m0s",
		"You are in emergency mode. After logging in, type \"journalctl -xb\" to view",
		"Cannot open access to console, the root account is locked.",
		"(initramfs) ",
		"BdsDxe: No bootable option or device was found.",
		"\x1b[2J\x1b[01;01H\x1b[01;01HUEFI Interactive Shell v2.2\r",
		"\x1b[1;31mNo bootable device.\x1b[0m",
	} {
		for _, end := range []string{"\n", "\r\n", ""} { // also when the line never ends
			c := &console{}
			c.write([]byte("before\n"))
			c.write([]byte(line + end))
			if end == "" {
				if err := c.faulty(); err != nil {
					t.Errorf("%q: fault %v before the line has ended", line, err)
				}
				c.quiet()
			}
			if err := c.faulty(); !errors.Is(err, ErrLost) {
				t.Errorf("%q: fault %v, want ErrLost", line+end, err)
			}
		}
		// In two pieces, at every place.
		for i := range len(line) {
			c := &console{}
			c.write([]byte(line[:i]))
			c.write([]byte(line[i:] + "\n"))
			if err := c.faulty(); err == nil || !strings.HasSuffix(err.Error(), clean([]byte(line))) {
				t.Errorf("%q cut at %d: fault %v, want the whole line", line, i, err)
			}
		}
	}
	for _, line := range []string{
		"kernel.panic = 30",
		"[    0.1] Command line: root=PARTUUID=x panic=30",
		"Starting emergency.target - not",
		"see (initramfs) in the manual",
		"ward-init: phi-data is not open (locked): no key",
		"Reached target Multi-User System",
	} {
		c := &console{}
		c.write([]byte(line + "\n"))
		if err := c.faulty(); err != nil {
			t.Errorf("%q: fault %v, want none", line, err)
		}
	}
}

func TestConsoleKeepsItsEnd(t *testing.T) {
	c := &console{}
	for i := range 3 * consoleMax / 100 {
		c.write(fmt.Appendf(nil, "%098d\n", i))
	}
	c.write([]byte("the last line\n"))
	if len(c.text) > consoleMax {
		t.Errorf("%d bytes are kept, more than %d", len(c.text), consoleMax)
	}
	if c.find(regexp.MustCompile("the last (line)")) == nil {
		t.Error("the last line is not found")
	}
	if got := c.last(1); !slices.Equal(got, []string{"the last line"}) {
		t.Errorf("last(1) = %q", got)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                              "plain",
		"\x1b[0;32m  OK  \x1b[0m] Started\r": "  OK  ] Started",
		"\x1b]0;title\x07text":               "text",
		"bell\x07 and \x00nul\xff":           "bell and nul",
		"\x1b[=3h\x1b[2Jcleared":             "cleared",
		strings.Repeat("x", 2*lineMax):       strings.Repeat("x", lineMax),
		"tabs\tstay":                         "tabs\tstay",
	} {
		if got := clean([]byte(in)); got != want {
			t.Errorf("clean(%.40q) = %.40q, want %.40q", in, got, want)
		}
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("a\x1b[0mb\nKernel panic - not syncing: x\n"), 7)
	f.Add([]byte("\x1b]0;\n\r\n\xff"), 2)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		at = max(0, min(at, len(data)))
		whole, pieces := &console{}, &console{}
		whole.write(data)
		pieces.write(data[:at])
		pieces.write(data[at:])
		if !slices.Equal(whole.last(5), pieces.last(5)) {
			t.Errorf("cut at %d: %q, whole %q", at, pieces.last(5), whole.last(5))
		}
		if whole.fault != pieces.fault {
			t.Errorf("cut at %d: fault %q, whole %q", at, pieces.fault, whole.fault)
		}
		for _, line := range whole.last(1000) {
			if strings.ContainsAny(line, "\x1b\x07\r\n\x00") || len(line) > 2*lineMax {
				t.Errorf("last() has %q", line)
			}
		}
	})
}

func TestReports(t *testing.T) {
	const one = `{"version":1,"tool":"t","time":"2026-01-01T00:00:00Z","boot_id":"b","applied":"done","findings":[]}`
	r := &reports{}
	for i := range len(one) {
		r.write([]byte(one[i : i+1])) // byte by byte
	}
	if got, err := r.next(); got != nil || err != nil {
		t.Errorf("next() of half a line = %v, %v", got, err)
	}
	r.write([]byte("\n\n" + one + "\nnot JSON\n" + one[:20]))
	for range 2 {
		if got, err := r.next(); err != nil || got == nil || got.BootID != "b" {
			t.Errorf("next() = %v, %v, want the report", got, err)
		}
	}
	if _, err := r.next(); err == nil || !strings.Contains(err.Error(), "verdict port: report: invalid character") {
		t.Errorf("next() of what is no report = %v", err)
	}
	// A machine that is reset in the middle of a line does not spoil the next one.
	r.reset()
	r.write([]byte(one + "\n"))
	if got, err := r.next(); err != nil || got == nil {
		t.Errorf("next() after a reset = %v, %v", got, err)
	}
	r.write(bytes.Repeat([]byte("x"), reportMax+1))
	if _, err := r.next(); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("next() of an endless line = %v", err)
	}
	r = &reports{}
	r.write(bytes.Repeat([]byte("{}\n"), reportsMax+1))
	for range reportsMax + 1 {
		r.waiting = r.waiting[1:]
	}
	if _, err := r.next(); err == nil || !strings.Contains(err.Error(), "nobody read") {
		t.Errorf("next() after a flood = %v", err)
	}
}

func TestHostPort(t *testing.T) {
	const info = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n" +
		"  TCP[HOST_FORWARD]  17       127.0.0.1 33445       10.0.2.15    22     0     0\n" +
		"  TCP[HOST_FORWARD]  18       127.0.0.1 33446       10.0.2.15   443     0     0\n"
	if got, err := hostPort(info, 22); got != 33445 || err != nil {
		t.Errorf("hostPort(22) = %d, %v", got, err)
	}
	for _, text := range []string{"", strings.ReplaceAll(info, "33445", "99999"), strings.ReplaceAll(info, "    22 ", "    23 ")} {
		if got, err := hostPort(text, 22); err == nil {
			t.Errorf("hostPort(%q) = %d, want an error", text, got)
		}
	}
}

func TestFindFirmware(t *testing.T) {
	for _, f := range firmware {
		code, vars, err := findFirmware(firmware, func(name string) bool { return name == f.code || name == f.vars })
		if code != f.code || vars != f.vars || err != nil {
			t.Errorf("findFirmware = %s, %s, %v, want %s, %s", code, vars, err, f.code, f.vars)
		}
	}
	// Code without variables is none.
	_, _, err := findFirmware(firmware, func(name string) bool { return name == firmware[0].code })
	if err == nil || !strings.Contains(err.Error(), "hint:") || !strings.Contains(err.Error(), "ovmf") {
		t.Errorf("findFirmware = %v, want the packages", err)
	}
}
