package main

import (
	"strings"
	"testing"
)

const console = `[    2.100000] Run /init as init process
[    2.400000] EXT4-fs (vdb): mounted filesystem without journal.
[    2.750500] EXT4-fs (vda1): mounted filesystem with ordered data mode.
[    3.300000] bench: the real init runs, phi-data is open
`

func TestTimes(t *testing.T) {
	s, err := times(console, true)
	if err != nil || s.root != 650 || s.switched != 1200 {
		t.Errorf("times = %+v, %v, want root after 650 and the switch after 1200", s, err)
	}
	if _, err := times(console, false); err == nil || !strings.Contains(err.Error(), "the volume is open") {
		t.Errorf("times = %v, want that a volume is open which nobody opens", err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"is open", "is not open", "the volume is not open"},
		{"Run /init", "Run", "no line that matches"},
	} {
		if _, err := times(strings.Replace(console, c.old, c.new, 1), true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("times = %v, want an error with %q", err, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	s := series{samples: []sample{{root: 9}, {root: 1}, {root: 5}}}
	if m, text := s.median(func(x sample) int { return x.root }); m != 5 || text != "5 (1-9)" {
		t.Errorf("median = %d, %q, want 5 (1-9)", m, text)
	}
}
