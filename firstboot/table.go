package firstboot

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"ward/profiles/control"
	"ward/profiles/evidence"
)

// Counts tells how many findings have each status.
func Counts(r *evidence.Report) map[control.Status]int {
	n := map[control.Status]int{}
	for _, f := range r.Findings {
		n[f.Status]++
	}
	return n
}

// Summary is a report in one line.
func Summary(r *evidence.Report) string {
	n := Counts(r)
	s := fmt.Sprintf("ward: verify %s: %d pass, %d fail, %d unknown, %d waived", r.Verdict(),
		n[control.Pass], n[control.Fail], n[control.Unknown], n[control.Waived])
	if r.Applied != "done" {
		s += "; apply: " + firstLine(r.Applied)
	}
	return s
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// cut keeps a cell readable.
func cut(s string, max int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= max {
		return s
	}
	return string([]rune(s)[:max-1]) + "…"
}

// PrintTable prints a report for people: what is not right comes with what was
// wanted and what was found.
func PrintTable(w io.Writer, r *evidence.Report) {
	width := 0
	for _, f := range r.Findings {
		width = max(width, min(40, utf8.RuneCountInString(f.Setting)))
	}
	last := ""
	for _, f := range r.Findings {
		if f.Control != last {
			if last != "" {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s: %s (%s)\n", f.Control, f.Title, strings.Join(f.Refs, ", "))
			last = f.Control
		}
		seen := cut(f.Got, 80)
		fmt.Fprintf(w, "  %-7s  %-*s", f.Status, width, cut(f.Setting, 40))
		switch {
		case f.Status == control.Pass:
			fmt.Fprintf(w, "  %s\n", seen)
		default:
			fmt.Fprintf(w, "  want %s\n", cut(f.Want, 100))
			pad := strings.Repeat(" ", 11+width)
			fmt.Fprintf(w, "%s  got  %s\n", pad, seen)
			if f.Err != "" {
				fmt.Fprintf(w, "%s  why  %s\n", pad, cut(f.Err, 200))
			}
			if f.Waiver != nil {
				fmt.Fprintf(w, "%s  waiver: %s (%s, until %s)\n", pad, f.Waiver.Reason, f.Waiver.Owner, f.Waiver.Expires)
			}
		}
	}
	if len(r.Findings) > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, Summary(r))
}

// ExitCode is wardctl verify's: 0 all pass, 1 a fail, 2 an unknown.
func ExitCode(s control.Status) int {
	switch s {
	case control.Pass:
		return 0
	case control.Fail:
		return 1
	}
	return 2
}
