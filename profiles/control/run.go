package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ward/profiles"
)

// Apply makes every setting of c so, in order, and stops at the first that
// cannot be.
func Apply(ctx context.Context, c Control, t *Target) error {
	for _, s := range c.Settings {
		if err := s.Apply(ctx, t); err != nil {
			return fmt.Errorf("%s: %s: %w", c.ID, s.Name(), err)
		}
	}
	return nil
}

// Verify checks every setting of every control and never stops early.
func Verify(ctx context.Context, controls []Control, m *Machine, now time.Time) []Finding {
	var findings []Finding
	for _, c := range controls {
		for _, s := range c.Settings {
			findings = append(findings, look(ctx, c, s, m, now))
		}
	}
	return findings
}

func look(ctx context.Context, c Control, s Setting, m *Machine, now time.Time) Finding {
	f := Finding{Control: c.ID, Title: c.Title, Setting: s.Name(), Refs: c.Refs, Want: s.Want()}
	start := time.Now()
	got, err := s.Check(ctx, m)
	f.TookMS = time.Since(start).Milliseconds()
	f.Got = got
	switch {
	case err != nil:
		f.Status, f.Err = Unknown, err.Error()
	case got == s.Want():
		f.Status = Pass
	default:
		f.Status = Fail
	}
	if f.Status != Pass {
		if w := waiver(m.Profile, c.ID, now); w != nil {
			f.Status, f.Waiver = Waived, w
		}
	}
	return f
}

// waiver returns the waiver of a control that still counts on that day.
func waiver(p *profiles.Profile, id string, now time.Time) *profiles.Waiver {
	i := slices.IndexFunc(p.Waivers, func(w profiles.Waiver) bool {
		return w.Control == id && now.UTC().Format(time.DateOnly) < w.Expires
	})
	if i < 0 {
		return nil
	}
	return &p.Waivers[i]
}
