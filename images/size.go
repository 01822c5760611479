package images

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes, written with a binary unit: "512MiB", "2GiB".
type Size int64

// Units of sizes.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// maxSize is larger than any disk that one machine has.
const maxSize = 1024 * TiB

// UnmarshalText reads "512MiB" and the like. Decimal units and plain numbers are
// refused: half the readers of "512M" mean something else by it.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n <= 0 || n > int64(maxSize/u.size) {
			return fmt.Errorf("is %q, want a whole number before %s", text, u.name)
		}
		*s = Size(n) * u.size
		return nil
	}
	return fmt.Errorf("is %q, want a size such as 512MiB or 2GiB", text)
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s >= u.size && s%u.size == 0 {
			return fmt.Sprintf("%d%s", s/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Bytes is the size as a plain number.
func (s Size) Bytes() int64 { return int64(s) }
