// Package qemutests boots real images in QEMU and proves what they do. It has
// tests only. WARD_IMAGE_DIR names the output folder of ward build (default
// out/debian-12). With QEMU_TESTS=require, as in CI, a test that cannot run fails;
// otherwise it skips and says why.
//
//	make qemu RUN=Tamper/sshd
package qemutests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// cannot ends a test that lacks something: a failure where tests are required.
func cannot(t *testing.T, format string, v ...any) {
	t.Helper()
	if os.Getenv("QEMU_TESTS") == "require" {
		t.Fatalf(format, v...)
	}
	t.Skipf(format, v...)
}

var opened struct {
	once  sync.Once
	image *proof.Image
	err   error
}

// image is the image under test, its files compared with its manifest once.
func image(t *testing.T) *proof.Image {
	t.Helper()
	if err := vm.Missing(); err != nil {
		cannot(t, "%v", err)
	}
	dir := os.Getenv("WARD_IMAGE_DIR")
	if dir == "" {
		dir = "../out/debian-12"
	}
	opened.once.Do(func() { opened.image, opened.err = proof.OpenImage(dir) })
	if opened.err != nil {
		cannot(t, "%v", opened.err)
	}
	return opened.image
}

// slots bounds the machines that run at once: two have the memory and the
// processors of a small CI runner to themselves.
var slots = make(chan struct{}, 2)

// start starts a machine that ends with the test. Its console is kept with the
// test's artifacts, and its last lines are printed when the test fails.
func start(t *testing.T, c vm.Config) *vm.VM {
	t.Helper()
	select {
	case slots <- struct{}{}:
	case <-t.Context().Done():
		t.Fatal("no place for another machine")
	}
	release := sync.OnceFunc(func() { <-slots })
	t.Cleanup(release)
	c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	c.ConsoleLog = filepath.Join(artifacts(t), fmt.Sprintf("console-%d.log", time.Now().UnixNano()))
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// The place is free when the machine ends, not when the test does: a test that
	// starts a second machine after the first would else wait for itself.
	go func() {
		<-m.Done()
		release()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range m.Tail(vm.TailLines) {
				t.Log("console | " + line)
			}
		}
		if err := m.Close(); err != nil {
			t.Errorf("close the machine: %v", err)
		}
	})
	return m
}

// artifacts is where a test leaves what helps to understand a failure:
// WARD_ARTIFACTS, or a folder that goes with the test.
func artifacts(t *testing.T) string {
	t.Helper()
	base := os.Getenv("WARD_ARTIFACTS")
	if base == "" {
		return t.TempDir()
	}
	dir := filepath.Join(base, t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fixture makes the keys, people and lab of one machine.
func fixture(t *testing.T) *proof.Fixture {
	t.Helper()
	f, err := proof.NewFixture(t.Context(), t.TempDir(), image(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// verdict waits for the report of a boot other than before.
func verdict(t *testing.T, m *vm.VM, before string) *evidence.Report {
	t.Helper()
	r, err := proof.NextVerdict(t.Context(), m, proof.BootTime, before)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// allPass fails the test with every finding that did not pass.
func allPass(t *testing.T, r *evidence.Report) {
	t.Helper()
	if r.Applied != "done" {
		t.Errorf("apply: %s", r.Applied)
	}
	if len(r.Findings) == 0 {
		t.Error("the report has no findings")
	}
	for _, f := range r.Findings {
		if f.Status != control.Pass {
			t.Error(proof.Line(f))
		}
	}
}

// findings are a report's findings about one control.
func findings(r *evidence.Report, id string) []control.Finding {
	var own []control.Finding
	for _, f := range r.Findings {
		if f.Control == id {
			own = append(own, f)
		}
	}
	return own
}

// within is a context that ends after d under KVM, and eight times d without.
func within(t *testing.T, m *vm.VM, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), m.Timeout(d), fmt.Errorf("not within %s: %w", m.Timeout(d), context.DeadlineExceeded))
	t.Cleanup(cancel)
	return ctx
}

// powerDown ends a machine by its power button.
func powerDown(t *testing.T, m *vm.VM) {
	t.Helper()
	if err := m.PowerDown(within(t, m, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// rootShell opens a shell of root that ends with the test.
func rootShell(t *testing.T, m *vm.VM, f *proof.Fixture) *vm.RootShell {
	t.Helper()
	shell, client, err := proof.Root(within(t, m, 30*time.Second), m, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return shell
}

// run runs a script as root that must succeed, and returns what it printed.
func run(t *testing.T, m *vm.VM, root *vm.RootShell, script string) string {
	t.Helper()
	return runFor(t, m, root, time.Minute, script)
}

// runFor is run for what may take that long on a machine with KVM.
func runFor(t *testing.T, m *vm.VM, root *vm.RootShell, limit time.Duration, script string) string {
	t.Helper()
	out, code, err := root.Run(within(t, m, limit), script)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", script, code, out)
	}
	return out
}
