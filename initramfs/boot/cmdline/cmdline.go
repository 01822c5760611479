// Package cmdline splits the kernel line, /proc/cmdline, as the kernel does:
// words are separated by blanks, double quotes keep blanks, hyphens and
// underscores in names are the same, and the last of several equal names counts.
// https://docs.kernel.org/admin-guide/kernel-parameters.html
package cmdline

import "strings"

// maxBytes is more than COMMAND_LINE_SIZE of any architecture (x86: 2048).
const maxBytes = 64 << 10

// Line is a parsed kernel line.
type Line struct {
	words []word
}

type word struct {
	name, value string
	hasValue    bool
}

// Parse never fails: what does not fit is ignored, as the kernel ignores it.
// Words after "--" belong to init and are left out.
func Parse(s string) Line {
	if len(s) > maxBytes {
		s = s[:maxBytes]
	}
	var l Line
	for _, w := range split(s) {
		if w == "--" {
			break
		}
		name, value, has := strings.Cut(w, "=")
		name = strings.ReplaceAll(name, "-", "_")
		if name != "" {
			l.words = append(l.words, word{name, value, has})
		}
	}
	return l
}

func split(s string) []string {
	var out []string
	var b strings.Builder
	quoted, any := false, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			quoted, any = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == 0):
			if any {
				out = append(out, b.String())
				b.Reset()
				any = false
			}
		default:
			b.WriteByte(c)
			any = true
		}
	}
	if any {
		out = append(out, b.String())
	}
	return out
}

// Get returns the value of the last parameter with that name that has one.
func (l Line) Get(name string) (string, bool) {
	name = strings.ReplaceAll(name, "-", "_")
	for i := len(l.words) - 1; i >= 0; i-- {
		if l.words[i].name == name && l.words[i].hasValue {
			return l.words[i].value, true
		}
	}
	return "", false
}

// Has tells whether the parameter is there, with or without a value.
func (l Line) Has(name string) bool {
	return l.index(name) >= 0
}

// Last tells which of two contradicting flags comes last ("ro", "rw"); "" if none is there.
func (l Line) Last(a, b string) string {
	i, j := l.index(a), l.index(b)
	switch {
	case i < 0 && j < 0:
		return ""
	case i > j:
		return a
	}
	return b
}

func (l Line) index(name string) int {
	name = strings.ReplaceAll(name, "-", "_")
	for i := len(l.words) - 1; i >= 0; i-- {
		if l.words[i].name == name {
			return i
		}
	}
	return -1
}
