package profiles

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// calendarWords are the shorthands of systemd.time(7).
var calendarWords = []string{"minutely", "hourly", "daily", "monthly", "weekly", "yearly", "annually", "quarterly", "semiannually"}

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// calendarField is one number, range or repetition: 7, 1..5, 0/15.
var calendarField = regexp.MustCompile(`^([0-9]+)(?:\.\.([0-9]+))?(?:/([0-9]+))?$`)

// checkCalendar says what is wrong with a calendar event of systemd.time(7). It
// knows the forms that people use, not all of them: what it refuses may be
// written plainer, and what it accepts systemd accepts (a test asks it).
func checkCalendar(s string) error {
	bad := func(part string) error {
		return fmt.Errorf("%q is not a calendar event such as daily or \"Mon..Fri *-*-* 01:00:00\": %q does not fit", s, part)
	}
	words := strings.Fields(s)
	if len(words) == 0 {
		return bad("")
	}
	if len(words) == 1 && slices.Contains(calendarWords, strings.ToLower(words[0])) {
		return nil
	}
	if isWeekdays(words[0]) {
		words = words[1:]
	} else if words[0][0] >= 'A' {
		return bad(words[0])
	}
	if len(words) > 0 && strings.Contains(words[0], "-") {
		if !isDate(words[0]) {
			return bad(words[0])
		}
		words = words[1:]
	}
	if len(words) > 0 && strings.Contains(words[0], ":") {
		if !isTime(words[0]) {
			return bad(words[0])
		}
		words = words[1:]
	}
	if len(words) == 1 && words[0] == "UTC" && !isWeekdays(s) {
		words = nil
	}
	if len(words) > 0 {
		return bad(words[0])
	}
	return nil
}

func isWeekdays(s string) bool {
	for part := range strings.SplitSeq(strings.ToLower(s), ",") {
		for day := range strings.SplitSeq(part, "..") {
			full := slices.ContainsFunc(weekdays, func(w string) bool {
				if day == w {
					return true
				}
				i := slices.Index(weekdays, w)
				return day == strings.ToLower(time.Weekday((i+1)%7).String())
			})
			if !full {
				return false
			}
		}
		if strings.Count(part, "..") > 1 {
			return false
		}
	}
	return true
}

// isDate reads year-month-day and month-day.
func isDate(s string) bool {
	parts := strings.Split(s, "-")
	limits := [][2]int{{1970, 2199}, {1, 12}, {1, 31}}
	if len(parts) < 2 || len(parts) > 3 {
		return false
	}
	return allInRange(parts, limits[3-len(parts):])
}

// isTime reads hour:minute and hour:minute:second.
func isTime(s string) bool {
	parts := strings.Split(s, ":")
	return len(parts) >= 2 && len(parts) <= 3 && allInRange(parts, [][2]int{{0, 23}, {0, 59}, {0, 59}})
}

func allInRange(parts []string, limits [][2]int) bool {
	for i, part := range parts {
		for one := range strings.SplitSeq(part, ",") {
			if !inRange(one, limits[i][0], limits[i][1]) {
				return false
			}
		}
	}
	return true
}

func inRange(s string, lo, hi int) bool {
	if s == "*" {
		return true
	}
	s = strings.TrimPrefix(s, "*/")
	m := calendarField.FindStringSubmatch(s)
	if m == nil {
		return false
	}
	from, err := strconv.Atoi(m[1])
	if err != nil || from < lo || from > hi {
		return false
	}
	if m[2] != "" {
		if to, err := strconv.Atoi(m[2]); err != nil || to < from || to > hi {
			return false
		}
	}
	if m[3] != "" {
		if step, err := strconv.Atoi(m[3]); err != nil || step < 1 || step > hi {
			return false
		}
	}
	return true
}
