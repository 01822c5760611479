package vm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"ward/profiles/evidence"
)

// TailLines is how many console lines an error carries.
const TailLines = 40

// ErrLost is in every error of a wait that ended because the machine itself
// cannot answer any more: it panicked, halted or ended.
var ErrLost = errors.New("machine lost")

// A WaitError says what was waited for, why the wait ended, and what the console
// showed last.
type WaitError struct {
	For   string   // "verdict"
	Cause error    // wraps ErrLost, context.DeadlineExceeded, ...
	Lines []string // the last TailLines console lines
}

func (e *WaitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wait for %s: %v", e.For, e.Cause)
	if len(e.Lines) == 0 {
		b.WriteString("\nthe console showed nothing")
		return b.String()
	}
	fmt.Fprintf(&b, "\nlast %d console lines:", len(e.Lines))
	for _, l := range e.Lines {
		b.WriteString("\n  | " + l)
	}
	return b.String()
}

func (e *WaitError) Unwrap() error { return e.Cause }

// Expect waits until the ended lines of the console match re and returns the
// match with its submatches. The next Expect looks at what follows the match.
func (m *VM) Expect(ctx context.Context, re string) ([]string, error) {
	r, err := regexp.Compile(re)
	if err != nil {
		return nil, fmt.Errorf("expect: %w", err)
	}
	var match []string
	err = m.wait(ctx, fmt.Sprintf("console line %q", re), func() (bool, error) {
		match = m.console.find(r)
		return match != nil, nil
	}, false)
	return match, err
}

// Verdict waits for the next report that the machine writes to its verdict port.
func (m *VM) Verdict(ctx context.Context) (*evidence.Report, error) {
	var report *evidence.Report
	err := m.wait(ctx, "verdict", func() (bool, error) {
		var err error
		report, err = m.port0.next()
		return report != nil, err
	}, true)
	return report, err
}

// WaitReset waits until the guest has been reset more than seen times since Start.
func (m *VM) WaitReset(ctx context.Context, seen int) error {
	return m.wait(ctx, "reset", func() (bool, error) { return m.resets > seen, nil }, true)
}

// Resets is how often the guest has been reset since Start.
func (m *VM) Resets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resets
}

// Wait waits until QEMU has ended by itself: the guest powered off.
func (m *VM) Wait(ctx context.Context) error {
	err := m.wait(ctx, "power off", func() (bool, error) {
		if m.ended && m.endErr == nil {
			return true, nil
		}
		return false, nil
	}, true)
	return err
}

// Err is why the machine is lost, with the console; nil while it is not.
func (m *VM) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.lost(); err != nil {
		return &WaitError{For: "nothing", Cause: err, Lines: m.console.last(TailLines)}
	}
	return nil
}

// Tail returns the last n console lines, without control sequences.
func (m *VM) Tail(n int) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console.last(n)
}

// ConsoleText is what the console has shown; of a very long one the end.
func (m *VM) ConsoleText() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.console.text)
}

// wait runs ready at every change until it is true or the machine is lost. With
// lostFirst a lost machine wins over a ready one.
func (m *VM) wait(ctx context.Context, what string, ready func() (bool, error), lostFirst bool) error {
	for {
		m.mu.Lock()
		changed := m.changed
		if lostFirst {
			// A clean end is no loss to who waits for the end.
			if err := m.console.faulty(); err != nil {
				lines := m.console.last(TailLines)
				m.mu.Unlock()
				return &WaitError{what, err, lines}
			}
		}
		ok, err := ready()
		if err == nil && !ok {
			err = m.lost()
		}
		lines := m.console.last(TailLines)
		m.mu.Unlock()
		if err != nil {
			return &WaitError{what, err, lines}
		}
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			m.mu.Lock()
			lines := m.console.last(TailLines)
			m.mu.Unlock()
			return &WaitError{what, context.Cause(ctx), lines}
		}
	}
}

// lost says why the machine cannot answer any more. m.mu is held.
func (m *VM) lost() error {
	if err := m.console.faulty(); err != nil {
		return err
	}
	if !m.ended {
		return nil
	}
	reason := "the guest powered off"
	if m.reason != "" {
		reason = "qemu ended: " + m.reason
	}
	if m.endErr != nil {
		reason = fmt.Sprintf("qemu ended: %v", m.endErr)
		if s := strings.TrimSpace(m.stderr.String()); s != "" {
			reason += ": " + s
		}
	}
	return fmt.Errorf("%w: %s", ErrLost, reason)
}

// update changes what waits look at and wakes them.
func (m *VM) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}
