package vm

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

const (
	consoleMax = 8 << 20 // bytes of console that are kept in memory; at least half of it
	lineMax    = 4 << 10 // bytes of one line in an error
)

// console is what the guest has shown. Its bytes are the guest's: foreign.
type console struct {
	text    []byte // the end of the console, at most consoleMax bytes
	seen    int    // where the next find starts in text
	scanned int    // up to where text was searched for faults
	fault   string // the line that says that the machine is lost
}

// faults are texts after which a machine answers nothing any more. They may be at
// any place of a line, as the kernel puts a time stamp before them; a shell's
// prompt only at its start.
var faults = []struct {
	text  string
	start bool
}{
	{text: "Kernel panic - not syncing"},                                // kernel/panic.c
	{text: "ward-init: halt"},                                           // our init, by the profile's choice
	{text: "ward-init: the machine is switched off:"},                   // our init, when there is no root
	{text: "You are in emergency mode"},                                 // systemd's sulogin
	{text: "You are in rescue mode"},                                    // the same for rescue.target
	{text: "Cannot open access to console, the root account is locked"}, // sulogin without a root password
	{text: "(initramfs)", start: true},                                  // initramfs-tools' shell
	{text: "Entering emergency mode"},                                   // dracut
	{text: "No bootable option or device was found"},                    // OVMF without a shell, and
	{text: "UEFI Interactive Shell v"},                                  // with one: nothing else was bootable
	{text: "No bootable device"},                                        // SeaBIOS
	{text: "EFI stub: ERROR"},                                           // the kernel's UEFI stub
}

// write appends what the guest has shown.
func (c *console) write(p []byte) {
	c.text = append(c.text, p...)
	// Cut by half of it at a time: moving all of it for every line would take longer
	// than the guest takes to write.
	if len(c.text) > consoleMax {
		over := len(c.text) - consoleMax/2
		c.text = append(c.text[:0], c.text[over:]...)
		c.seen = max(0, c.seen-over)
		c.scanned = max(0, c.scanned-over)
	}
	// Only whole lines are judged, so that the reason at a line's end is in the error.
	for {
		i := bytes.IndexByte(c.text[c.scanned:], '\n')
		if i < 0 {
			break
		}
		c.judge(c.text[c.scanned : c.scanned+i])
		c.scanned += i + 1
	}
}

// quiet is called when the guest has shown nothing more for a while: its last line
// will not end, as a prompt or the last word of a machine that died has it.
func (c *console) quiet() { c.judge(c.text[c.scanned:]) }

// judge notes the first fault.
func (c *console) judge(line []byte) {
	if c.fault != "" || len(line) == 0 {
		return
	}
	s := clean(line)
	for _, f := range faults {
		if strings.HasPrefix(s, f.text) || !f.start && strings.Contains(s, f.text) {
			c.fault = s
			return
		}
	}
}

// faulty returns the fault as an error.
func (c *console) faulty() error {
	if c.fault == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrLost, c.fault)
}

// find returns the first match after the last one, and nil when there is none.
// Only ended lines count: half a line may match otherwise than the whole one.
func (c *console) find(r *regexp.Regexp) []string {
	end := bytes.LastIndexByte(c.text, '\n') + 1
	if end <= c.seen {
		return nil
	}
	at := r.FindSubmatchIndex(c.text[c.seen:end])
	if at == nil {
		return nil
	}
	match := make([]string, len(at)/2)
	for i := range match {
		if at[2*i] >= 0 {
			match[i] = string(c.text[c.seen+at[2*i] : c.seen+at[2*i+1]])
		}
	}
	c.seen += at[1]
	return match
}

// last returns the last n lines that hold something.
func (c *console) last(n int) []string {
	var lines []string
	rest := c.text
	for len(rest) > 0 && len(lines) < n {
		i := bytes.LastIndexByte(rest, '\n')
		if s := clean(rest[i+1:]); s != "" {
			lines = append(lines, s)
		}
		rest = rest[:max(i, 0)]
	}
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	return lines
}

// escapes are terminal control sequences, ECMA-48: CSI, OSC and two-byte ones.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_=>c78()]`)

// clean makes a line of the guest fit for a terminal and a log of ours.
func clean(line []byte) string {
	if len(line) > lineMax {
		line = line[:lineMax]
	}
	s := escapes.ReplaceAllString(string(line), "")
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, s), " \t")
}

// tail keeps the last max bytes written to it.
type tail struct {
	max  int
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.max; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.data) }
