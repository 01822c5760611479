package qemutests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder"
	"ward/builder/cache"
	"ward/builder/proof"
	"ward/builder/vm"
)

// TestLostMachines runs ward test on machines that never answer: each is an
// error with the console's last lines, at once where the console says that all
// is lost, and never a pass.
func TestLostMachines(t *testing.T) {
	t.Parallel()
	i := image(t)
	direct := func(line string) func(*vm.Config) {
		return func(c *vm.Config) {
			*c = withoutFirmware(*c, i)
			c.Append = line
		}
	}
	missing := strings.NewReplacer("root=PARTUUID=", "root=PARTUUID=00000000-0000-4000-8000-000000000000 was=").Replace(i.Manifest.Cmdline)
	for _, c := range []struct {
		name   string
		adjust func(*vm.Config)
		limit  time.Duration // of one boot
		want   error
		says   string // in the error
	}{
		// A kernel without an init and without a root panics.
		{"Panic", direct(strings.ReplaceAll(i.Manifest.Cmdline, "panic=30", "") + " rdinit=/no/such init=/no/such root=/dev/no"), proof.BootTime, vm.ErrLost, "Kernel panic - not syncing"},
		{"RootIsMissing", direct(missing), proof.BootTime, vm.ErrLost, "ward-init: the machine is switched off: root: no device"},
		{"NothingToBoot", func(c *vm.Config) { c.Image = blank(t) }, proof.BootTime, vm.ErrLost, "UEFI Interactive Shell"},
		// A machine without a word: only the limit ends the wait.
		{"Silent", func(c *vm.Config) { c.Firmware, c.Image = "bios", blank(t); c.Extra = []string{"-S"} }, time.Second, context.DeadlineExceeded, "none within"},
		// One that powers off by itself has not answered either.
		{"PowersOff", direct(i.Manifest.Cmdline + " systemd.unit=poweroff.target"), proof.BootTime, vm.ErrLost, "qemu ended: guest-shutdown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			slots <- struct{}{}
			defer func() { <-slots }()
			dir := filepath.Join(artifacts(t), "report")
			began := time.Now()
			var progress bytes.Buffer
			result, err := proof.Run(t.Context(), proof.Options{
				Dir: i.Dir, Report: dir, Version: "qemu-tests", Adjust: c.adjust, BootTime: c.limit, Out: &progress, Log: slog.New(slog.DiscardHandler),
			})
			took := time.Since(began)
			if err == nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("Run() = %v, want %v with %q", err, c.want, c.says)
			}
			if c.name != "Silent" && !strings.Contains(err.Error(), "console lines:\n  | ") {
				t.Errorf("the error lacks the console: %v", err)
			}
			if c.name == "Silent" && !strings.Contains(err.Error(), "the console showed nothing") {
				t.Errorf("the error does not say that the console was silent: %v", err)
			}
			if result == nil || result.Proof.Verdict().String() == "pass" {
				t.Error("the proof says pass")
			}
			junit, e := os.ReadFile(filepath.Join(dir, "junit.xml"))
			if e != nil || !strings.Contains(string(junit), `errors="1"`) {
				t.Errorf("junit.xml: %v, %s", e, junit)
			}
			if c.want == vm.ErrLost && took > c.limit {
				t.Errorf("it took %s, longer than a boot may take with KVM: the end was not noticed at once", took)
			}
			t.Logf("%s: %.300s", took.Round(time.Millisecond), err)
		})
	}
}

// TestChangedImage refuses an image whose bytes are not the manifest's.
func TestChangedImage(t *testing.T) {
	i := image(t)
	dir := t.TempDir()
	m := *i.Manifest
	m.Files = map[string]builder.File{}
	for name, f := range i.Manifest.Files {
		m.Files[name] = f
		if name != "disk.qcow2" {
			if err := os.Symlink(absolute(t, filepath.Join(i.Dir, name)), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.qcow2"), []byte("QFI\xfbsomething else"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := cache.Sum(filepath.Join(dir, "disk.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = proof.Run(t.Context(), proof.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "disk.qcow2: sha256 is "+sum) {
		t.Errorf("Run() = %v, want the file that differs", err)
	}
}

// blank makes an empty disk.
func blank(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "blank.raw")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	name, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
