package kmod

// Glob tells whether s matches a pattern with '*', '?' and '[a-z]', as
// fnmatch(3) without flags: unlike path.Match, '*' also matches a slash, and a
// comma or colon has no meaning. It takes at most len(pattern)*len(s) steps.
func Glob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, mark = p, i
				p++
				continue
			}
			if width, ok := matchOne(pattern[p:], s[i]); ok {
				p += width
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne matches c against the first element of a pattern that does not start
// with '*', and gives that element's width. A bracket that never closes is a
// plain character.
func matchOne(p string, c byte) (width int, ok bool) {
	switch p[0] {
	case '?':
		return 1, true
	case '[':
		end := 1
		if end < len(p) && p[end] == '!' {
			end++
		}
		first := end
		for end < len(p) && (p[end] != ']' || end == first) {
			end++
		}
		if end == len(p) {
			return 1, c == '['
		}
		return end + 1, inSet(p[first:end], c) != (p[1] == '!')
	}
	return 1, p[0] == c
}

func inSet(set string, c byte) bool {
	for k := 0; k < len(set); k++ {
		if k+2 < len(set) && set[k+1] == '-' {
			if set[k] <= c && c <= set[k+2] {
				return true
			}
			k += 2
			continue
		}
		if set[k] == c {
			return true
		}
	}
	return false
}
