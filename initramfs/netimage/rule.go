package netimage

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rule says which disk of a machine is meant. The zero Rule is none.
type Rule struct {
	// Kind is blank (the only disk without data), serial, wwn or size.
	Kind     string
	Value    string // serial, wwn
	Min, Max int64  // size, bytes
}

// ParseRule reads
//
//	blank   serial:S   wwn:W   size:MIN-MAX   size:MIN-   size:N
//
// where sizes are such as 480GB or 1TiB.
func ParseRule(s string) (Rule, error) {
	kind, value, has := strings.Cut(s, ":")
	r := Rule{Kind: kind, Value: value}
	switch {
	case kind == "blank" && !has:
		return r, nil
	case (kind == "serial" || kind == "wwn") && value != "" && len(value) < 256:
		return r, nil
	case kind == "size" && value != "":
		low, high, span := strings.Cut(value, "-")
		var err error
		if r.Min, err = parseSize(low); err != nil {
			return Rule{}, err
		}
		switch {
		case !span:
			r.Max = r.Min
		case high == "":
			r.Max = math.MaxInt64
		default:
			if r.Max, err = parseSize(high); err != nil {
				return Rule{}, err
			}
		}
		if r.Max < r.Min {
			return Rule{}, fmt.Errorf("disk rule %q: the range is empty", s)
		}
		return r, nil
	}
	return Rule{}, fmt.Errorf("disk rule %q: want blank, serial:S, wwn:W or size:MIN-MAX", s)
}

// units are powers of 1000, which disks are sold in, and of 1024.
var units = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"", 1},
}

func parseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/u.factor {
			break
		}
		return n * u.factor, nil
	}
	return 0, fmt.Errorf("disk rule: size %q: want a number such as 480GB or 1TiB", s)
}

func (r Rule) String() string {
	switch r.Kind {
	case "serial", "wwn":
		return r.Kind + ":" + r.Value
	case "size":
		if r.Max == math.MaxInt64 {
			return fmt.Sprintf("size:%d-", r.Min)
		}
		return fmt.Sprintf("size:%d-%d", r.Min, r.Max)
	}
	return r.Kind
}
