// Package proof is what `ward test` does: it boots an image as a throw-away
// machine with a throw-away key, throw-away people and a lab of real servers
// around it, takes the machine's own verdict, tries the logins from outside,
// reboots it and looks again. It answers "proved" only if every finding passed
// every time; whatever else happens is an error.
package proof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ward/builder/vm"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// Options say what to test.
type Options struct {
	Dir     string       // output folder of ward build
	Report  string       // folder for report.json, junit.xml, report.html and console.log; empty: none is written
	Version string       // of ward, for the report
	Out     io.Writer    // progress, a line for each step; nil: none
	Log     *slog.Logger // nil: none

	// Fixture is used instead of a new one, and is not closed.
	Fixture *Fixture
	// State keeps the machine's disk, see vm.Config; empty: it is thrown away.
	State string
	// Adjust changes the machine before it starts.
	Adjust func(*vm.Config)
	// Inspect looks at the machine when all is done, before it powers off.
	Inspect func(context.Context, *vm.VM, *Fixture) error
	// BootTime is how long one boot with all it does may take under KVM, and
	// without it eight times as long; 0: 3 minutes.
	BootTime time.Duration
}

// Result is what a test showed.
type Result struct {
	Proof *evidence.Proof
}

// ErrNotProved is in the error of a test that ran to its end with a finding
// that did not pass.
var ErrNotProved = errors.New("not proved")

// BootTime is how long one boot with everything it does may take under KVM;
// without it the limit is eight times as long.
const BootTime = 3 * time.Minute

// Run tests an image. With an error other than ErrNotProved the test did not run
// to its end; the documents are written as far as it got.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.BootTime == 0 {
		o.BootTime = BootTime
	}
	t := &test{Options: o, started: time.Now()}
	image, err := OpenImage(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := vm.MissingFor(image.Arch); err != nil {
		return nil, err
	}
	t.image = image
	t.proof = &evidence.Proof{
		Version: evidence.ReportVersion, Tool: o.Version, Started: t.started.UTC().Truncate(time.Second),
		Image: image.Manifest.Image, Digest: image.Manifest.Digest,
	}
	err = t.run(ctx)
	t.proof.Finished = time.Now().UTC().Truncate(time.Second)
	if err == nil {
		err = t.judge()
	}
	if e := t.write(); e != nil {
		err = errors.Join(err, e)
	}
	return &Result{Proof: t.proof}, err
}

type test struct {
	Options
	started time.Time
	image   *Image
	proof   *evidence.Proof
	console []byte
}

// say prints a line of progress with the time since the start.
func (t *test) say(format string, v ...any) {
	fmt.Fprintf(t.Out, "%7.1fs  %s\n", time.Since(t.started).Seconds(), fmt.Sprintf(format, v...))
}

func (t *test) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "ward-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fixture := t.Fixture
	if fixture == nil {
		if fixture, err = NewFixture(ctx, dir, t.image, t.Log); err != nil {
			return err
		}
		defer fixture.Close()
	}
	t.say("throw-away key, people, machine config, log, backup and time server are there")

	config := fixture.VM(t.image)
	config.State, config.Log = t.State, t.Log
	if config.State == "" {
		config.State = filepath.Join(dir, "machine")
	}
	if t.Adjust != nil {
		t.Adjust(&config)
	}
	m, err := vm.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		t.console = []byte(m.ConsoleText())
		m.Close()
	}()
	t.proof.Where = "QEMU, " + m.Accel()
	t.say("the machine starts (QEMU, %s)", m.Accel())

	first, err := t.verdict(ctx, m, "first boot", "")
	if err != nil {
		return err
	}
	if first.Applied != "done" {
		// Nobody can log in before apply is done: sshd waits for it.
		return fmt.Errorf("%w: the first boot's work is not done: %s\nlast %d console lines:\n  | %s",
			ErrNotProved, first.Applied, vm.TailLines, strings.Join(m.Tail(vm.TailLines), "\n  | "))
	}
	t.say("logins from outside")
	findings, err := Outside(ctx, m, fixture, &t.image.Profile)
	if len(findings) > 0 {
		t.proof.Parts = append(t.proof.Parts, evidence.Part{Name: "from outside", Findings: findings})
	}
	if err != nil {
		return err
	}
	t.failures(findings)
	files, err := t.leave(ctx, m, fixture)
	if err != nil {
		return err
	}
	t.say("a file is on each PHI volume; the machine reboots")
	if err := Reboot(ctx, m, fixture); err != nil {
		return err
	}
	if _, err := t.verdict(ctx, m, "after reboot", first.BootID); err != nil {
		return err
	}
	var there []control.Finding
	for _, file := range files {
		finding, err := t.find(ctx, m, fixture, file)
		if err != nil {
			return err
		}
		there = append(there, finding)
	}
	t.proof.Parts = append(t.proof.Parts, evidence.Part{Name: "what outlasts a reboot", Findings: there})
	t.failures(there)
	if t.Inspect != nil {
		if err := t.Inspect(ctx, m, fixture); err != nil {
			return err
		}
	}
	t.say("the machine powers off")
	limited, cancel := context.WithTimeout(ctx, m.Timeout(time.Minute))
	defer cancel()
	return m.PowerDown(limited)
}

// verdict waits for the machine's report of a boot that is not the one before.
func (t *test) verdict(ctx context.Context, m *vm.VM, name, before string) (*evidence.Report, error) {
	r, err := NextVerdict(ctx, m, t.BootTime, before)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if want := t.image.Manifest.Digest; r.Digest != want {
		return nil, fmt.Errorf("%s: the report is about image %q, this one is %q", name, r.Digest, want)
	}
	t.proof.Parts = append(t.proof.Parts, evidence.Part{Name: name, Report: r})
	var n [4]int
	for _, f := range r.Findings {
		n[f.Status]++
	}
	t.say("%s: %s (%d pass, %d fail, %d unknown, %d waived)", name, r.Verdict(), n[control.Pass], n[control.Fail], n[control.Unknown], n[control.Waived])
	if r.Applied != "done" {
		t.say("  apply: %s", r.Applied)
	}
	t.failures(r.Findings)
	return r, nil
}

// NextVerdict waits for the first report of a boot other than before; empty: of
// any. limit is as Options.BootTime.
func NextVerdict(ctx context.Context, m *vm.VM, limit time.Duration, before string) (*evidence.Report, error) {
	limit = m.Timeout(limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("none within %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	for {
		r, err := m.Verdict(ctx)
		if err != nil || r.BootID != before {
			return r, err
		}
	}
}

// failures prints what did not pass.
func (t *test) failures(findings []control.Finding) {
	for _, f := range findings {
		if f.Status != control.Pass {
			t.say("  %s", Line(f))
		}
	}
}

// Line is a finding on one line.
func Line(f control.Finding) string {
	s := fmt.Sprintf("%-7s %s: %s: got %.200q, want %.200q", f.Status, f.Control, f.Setting, f.Got, f.Want)
	if f.Err != "" {
		s += fmt.Sprintf(" (%.300s)", f.Err)
	}
	if f.Waiver != nil {
		s += fmt.Sprintf(" (waived by %s until %s: %s)", f.Waiver.Owner, f.Waiver.Expires, f.Waiver.Reason)
	}
	return strings.ReplaceAll(s, "\n", " ")
}

// judge turns a verdict that is no pass into an error.
func (t *test) judge() error {
	n := t.proof.Counts()
	total := n[0] + n[1] + n[2] + n[3]
	if v := t.proof.Verdict(); v != control.Pass {
		return fmt.Errorf("%w: %s: of %d findings %d fail and %d are unknown", ErrNotProved, t.image.Manifest.Image, total, n[control.Fail], n[control.Unknown])
	}
	t.say("proved: %d of %d findings pass, %d waived", n[control.Pass], total, n[control.Waived])
	return nil
}
