package qemutests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// The machine that most tests share: booted for the first time with the right
// key, powered off cleanly. Nobody writes to its disk again; who needs it boots
// an overlay of it.
var shared struct {
	once    sync.Once
	dir     string
	fixture *proof.Fixture
	disk    string // its disk after the first boot
	facts   facts
	proof   *evidence.Proof // only when the end-to-end test made the machine
	console string
	took    time.Duration // from the start of its first boot to its first verdict
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.fixture != nil {
		shared.fixture.Close()
	}
	if netSet.fixture != nil {
		netSet.fixture.Close()
	}
	for _, dir := range []string{shared.dir, netSet.scratch} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// TestEndToEnd is ward test: first boot, verdict, logins from outside, a file on
// PHI, reboot, verdict, the file is still there.
func TestEndToEnd(t *testing.T) {
	makeShared(t, func(dir string) error {
		o := options(t, filepath.Join(dir, "machine"))
		o.Report, o.Fixture, o.Inspect = filepath.Join(artifacts(t), "report"), shared.fixture, inspect
		result, err := proof.Run(t.Context(), o)
		if result != nil {
			shared.proof = result.Proof
			for _, p := range result.Proof.Parts[:min(1, len(result.Proof.Parts))] {
				shared.took = p.Report.Time.Sub(result.Proof.Started)
			}
		}
		for _, name := range []string{"report.json", "junit.xml", "report.html", "console.log"} {
			info, e := os.Stat(filepath.Join(o.Report, name))
			if e != nil {
				t.Error(e)
			} else if info.Size() == 0 {
				t.Errorf("%s is empty", name)
			}
		}
		if text, e := os.ReadFile(filepath.Join(o.Report, "console.log")); e == nil {
			shared.console = string(text)
		}
		return err
	})
	if shared.err != nil {
		t.Error(shared.err)
	}
	if shared.proof == nil {
		t.FailNow()
	}
	for _, p := range shared.proof.Parts {
		if len(p.All()) == 0 {
			t.Errorf("%s: looked at nothing", p.Name)
		}
		for _, f := range p.All() {
			if f.Status != control.Pass {
				t.Errorf("%s: %s", p.Name, proof.Line(f))
			}
		}
	}
	if len(shared.proof.Parts) < 4 {
		t.FailNow() // it did not come to its end: the rest would only say so again
	}
	seen(t)
}

// seen looks for promises of their own in what the end-to-end test saw.
func seen(t *testing.T) {
	part := func(t *testing.T, name string) evidence.Part {
		for _, p := range shared.proof.Parts {
			if p.Name == name {
				return p
			}
		}
		t.Fatalf("the proof has no part %q", name)
		return evidence.Part{}
	}
	t.Run("FileSurvivesReboot", func(t *testing.T) {
		f := part(t, "what outlasts a reboot").Findings
		if len(f) != 1 || f[0].Status != control.Pass || len(f[0].Got) != 48 {
			t.Errorf("findings = %+v, want the 48 characters that were written", f)
		}
	})
	t.Run("OutsideView", func(t *testing.T) {
		got := map[string]int{}
		for _, f := range part(t, "from outside").Findings {
			got[f.Got]++
		}
		for _, want := range []string{"in", "refused", "cut off", "refused, not even offered"} {
			if got[want] == 0 {
				t.Errorf("no login was %q: %v", want, got)
			}
		}
	})
	t.Run("TwoBoots", func(t *testing.T) {
		first, second := part(t, "first boot").Report, part(t, "after reboot").Report
		if first.BootID == second.BootID || first.Machine != second.Machine || first.Machine == "" {
			t.Errorf("boots %s and %s of machines %s and %s, want two boots of one", first.BootID, second.BootID, first.Machine, second.Machine)
		}
		if len(second.Findings) != len(first.Findings) {
			t.Errorf("%d findings, then %d", len(first.Findings), len(second.Findings))
		}
		for _, r := range []*evidence.Report{first, second} {
			if r.Init == nil || len(r.Init.Volumes) != 1 {
				t.Errorf("init left no word of its volume: %+v", r.Init)
			}
		}
		if second.Init != nil && len(second.Init.Volumes) == 1 && second.Init.Volumes[0].State != "opened" {
			t.Errorf("init on the second boot: %+v, want that it opened the volume", second.Init.Volumes[0])
		}
	})
	t.Run("ShutdownDetachesCleanly", func(t *testing.T) {
		// What systemd says when a device or a mount cannot be let go (systemd,
		// src/shutdown/shutdown.c and src/core/job.c).
		for _, bad := range []string{"Failed unmounting", "Failed to unmount", "Could not detach DM", "Failed to finalize", "not all file systems", "A stop job is running"} {
			for line := range strings.Lines(shared.console) {
				if strings.Contains(strings.ToLower(line), strings.ToLower(bad)) {
					t.Errorf("the console says: %s", strings.TrimSpace(line))
				}
			}
		}
		if !strings.Contains(shared.console, "reboot: Power down") {
			t.Error("the console does not say that the machine powered down")
		}
	})
	t.Run("NothingWaits", func(t *testing.T) {
		if len(shared.facts.blame) == 0 {
			t.Fatal("systemd-analyze blame said nothing")
		}
		// A job that waits for a device that never comes does so for 90 s, systemd's
		// DefaultTimeoutStartSec, and says so on the console after the first few.
		if line := regexp.MustCompile(`(?m)^.*(?:A start job is running|Timed out waiting for device|Job .*\.device/start timed out).*$`).FindString(shared.console); line != "" {
			t.Errorf("the console says: %s", line)
		}
	})
	t.Run("Premises", func(t *testing.T) {
		for _, c := range premises {
			if out := shared.facts.looks[c.command]; !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s printed no %q:\n%s", c.command, c.want, out)
			}
		}
	})
	t.Run("DeviceLooksNormal", func(t *testing.T) {
		for _, c := range normal {
			if out := shared.facts.looks[c.command]; !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s printed no %q:\n%s", c.command, c.want, out)
			}
		}
	})
}

func options(t *testing.T, state string) proof.Options {
	return proof.Options{
		Dir: image(t).Dir, Version: "qemu-tests", State: state, Out: t.Output(), Log: slog.New(slog.DiscardHandler),
	}
}

// makeShared makes the shared machine once, in its own way.
func makeShared(t *testing.T, how func(dir string) error) {
	t.Helper()
	i := image(t)
	shared.once.Do(func() {
		slots <- struct{}{}
		defer func() { <-slots }()
		shared.err = func() error {
			var err error
			if shared.dir, err = os.MkdirTemp("", "ward-qemu-"); err != nil {
				return err
			}
			// The tests' own contexts end before the next test needs the lab.
			shared.fixture, err = proof.NewFixture(context.WithoutCancel(t.Context()), shared.dir, i, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			shared.disk = filepath.Join(shared.dir, "machine", "disk.qcow2")
			return how(shared.dir)
		}()
	})
}

// machine makes sure of the shared machine, in the shortest way when the
// end-to-end test has not run.
func machine(t *testing.T) {
	t.Helper()
	makeShared(t, func(dir string) error {
		c := shared.fixture.VM(image(t))
		c.State = filepath.Join(dir, "machine")
		began := time.Now()
		m, err := vm.Start(t.Context(), c)
		if err != nil {
			return err
		}
		defer m.Close()
		r, err := proof.NextVerdict(t.Context(), m, proof.BootTime, "")
		if err != nil {
			return err
		}
		shared.took = time.Since(began)
		if r.Applied != "done" {
			return fmt.Errorf("the first boot's work is not done: %s", r.Applied)
		}
		if err := inspect(t.Context(), m, shared.fixture); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), m.Timeout(time.Minute))
		defer cancel()
		return m.PowerDown(ctx)
	})
	// What did not pass is the end-to-end test's to report; the machine is there.
	if shared.err != nil && !errors.Is(shared.err, proof.ErrNotProved) || shared.facts.machineID == "" {
		t.Fatalf("the machine that this test needs: %v", shared.err)
	}
}

// reboot starts the shared machine again, on an overlay of its disk, and waits
// for its verdict. adjust changes the machine before it starts; nil: nothing.
func reboot(t *testing.T, adjust func(*vm.Config)) (*vm.VM, *proof.Fixture, *evidence.Report) {
	t.Helper()
	machine(t)
	c := shared.fixture.VM(image(t))
	c.Image = shared.disk
	if adjust != nil {
		adjust(&c)
	}
	m := start(t, c)
	return m, shared.fixture, verdict(t, m, "")
}
