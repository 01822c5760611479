package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"
)

// Step is one part of applying a config. It may run again at any time: what is
// right already it leaves alone.
type Step struct {
	Name string
	// Always runs it on every boot: it makes something that does not outlast one.
	Always bool
	// Hint is what a person can do when it fails.
	Hint string
	Run  func(context.Context) error
}

// StepError says which step failed, why, and what can be done.
type StepError struct {
	Step string
	Err  error
	Hint string
}

func (e *StepError) Error() string {
	s := "apply: " + e.Step + ": " + e.Err.Error()
	if e.Hint != "" && !strings.Contains(s, "hint:") {
		s += "\nhint: " + e.Hint
	}
	return s
}

func (e *StepError) Unwrap() error { return e.Err }

// stamp records that a step is done for the inputs with that digest.
type stamp struct {
	Step   string    `json:"step"`
	Inputs string    `json:"inputs"`
	Time   time.Time `json:"time"`
}

// stamper keeps the stamps of one machine.
type stamper struct {
	root   *os.Root
	inputs string // digest of the config, the image's facts and the profile
	now    func() time.Time
}

func (s *stamper) path(step string) string {
	return path.Join(StampDir, strings.NewReplacer("/", "-", " ", "-", ":", "").Replace(step)+".json")
}

// done tells whether the step has been done for these inputs. A stamp that
// cannot be read does not count: running a step again does no harm.
func (s *stamper) done(step string) bool {
	b, err := s.root.ReadFile(s.path(step))
	if err != nil {
		return false
	}
	var st stamp
	return decodeStrict(s.path(step), b, &st) == nil && st.Step == step && st.Inputs == s.inputs
}

// mark stamps a step. Everything that the step wrote is on the disk before the
// stamp is: a stamp without its work would never be repaired.
func (s *stamper) mark(step string) error {
	if err := syncAll(s.root); err != nil {
		return err
	}
	return writeJSON(s.root, s.path(step), stamp{Step: step, Inputs: s.inputs, Time: s.now().UTC()}, 0o600)
}

// forget removes the stamps of steps that no longer exist.
func (s *stamper) forget(steps []Step) error {
	keep := map[string]bool{}
	for _, st := range steps {
		keep[path.Base(s.path(st.Name))] = true
	}
	d, err := s.root.Open(StampDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !keep[name] {
			err = errors.Join(err, s.root.Remove(path.Join(StampDir, name)))
		}
	}
	return err
}

// runSteps runs what is not done, in order, and stops at the first failure.
func runSteps(ctx context.Context, steps []Step, s *stamper, log *slog.Logger) error {
	for _, st := range steps {
		if !st.Always && s.done(st.Name) {
			log.Debug("step unchanged", "step", st.Name)
			continue
		}
		start := time.Now()
		log.Info("step started", "step", st.Name)
		err := st.Run(ctx)
		if err == nil && !st.Always {
			err = s.mark(st.Name)
		}
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return &StepError{Step: st.Name, Err: err, Hint: st.Hint}
		}
		log.Info("step done", "step", st.Name, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// errHint adds a line of advice to an error.
func errHint(err error, format string, a ...any) error {
	return fmt.Errorf("%w\nhint: %s", err, fmt.Sprintf(format, a...))
}
