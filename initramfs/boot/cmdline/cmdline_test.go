package cmdline

import (
	"strings"
	"testing"
)

func TestGet(t *testing.T) {
	l := Parse(`BOOT_IMAGE=/vmlinuz root=PARTUUID=1234-02 ro quiet ward.timeout=5 a="b c" "d=e f" ward.timeout=7 x-y=1 empty= -- root=no`)
	for _, c := range []struct {
		name, want string
		ok         bool
	}{
		{"root", "PARTUUID=1234-02", true}, // the value may hold another equals sign
		{"ward.timeout", "7", true},        // the last one counts
		{"a", "b c", true},
		{"d", "e f", true},
		{"x_y", "1", true}, {"x-y", "1", true},
		{"empty", "", true},
		{"quiet", "", false}, // a flag has no value
		{"none", "", false},
	} {
		if got, ok := l.Get(c.name); got != c.want || ok != c.ok {
			t.Errorf("Get(%q) = %q, %v, want %q, %v", c.name, got, ok, c.want, c.ok)
		}
	}
	if !l.Has("quiet") || l.Has("no") {
		t.Errorf("Has(quiet), Has(no) = %v, %v, want true, false", l.Has("quiet"), l.Has("no"))
	}
}

func TestLast(t *testing.T) {
	for line, want := range map[string]string{"ro": "ro", "rw": "rw", "ro rw": "rw", "rw ro": "ro", "": "", "rw -- ro": "rw"} {
		if got := Parse(line).Last("ro", "rw"); got != want {
			t.Errorf("Parse(%q).Last = %q, want %q", line, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`root=PARTUUID=1 "a b=c" -- init`)
	f.Add(`"`)
	f.Fuzz(func(t *testing.T, s string) {
		l := Parse(s)
		for _, w := range l.words {
			if w.name == "" || strings.Contains(w.name, "-") {
				t.Errorf("Parse(%q) has a parameter named %q", s, w.name)
			}
			if !l.Has(w.name) {
				t.Errorf("Parse(%q) does not find its own %q", s, w.name)
			}
		}
	})
}
