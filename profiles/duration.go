package profiles

import (
	"fmt"
	"time"
)

// Duration is a time.Duration written as Go writes it: "4h", "15m".
type Duration time.Duration

// UnmarshalText reads "4h" and the like.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 4h or 15m", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the duration as Go writes it.
func (d Duration) String() string { return time.Duration(d).String() }
