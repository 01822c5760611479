//go:build nightly

// Package arm64 bakes an image for arm64 on this host, whatever its processor is, and
// boots it. Emulating both takes long: it runs by itself, with make nightly.
package arm64

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ward/builder"
	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles/control"
)

// perBoot is how long one boot with all it does may take under KVM; without it eight
// times as long. arm64 under TCG was not seen to be faster than amd64.
const perBoot = 5 * time.Minute

// TestArm64 bakes debian-12-arm64 and proves it as ward test does: first boot, verdict,
// logins from outside, reboot, verdict again.
func TestArm64(t *testing.T) {
	if err := vm.MissingFor("arm64"); err != nil {
		t.Fatal(err)
	}
	ward, err := filepath.Abs("../../.bin/ward")
	if err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("WARD_ARM64_DIR") // an image that is there already
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "debian-12-arm64")
		out, err := exec.CommandContext(t.Context(), ward, "build", "../../images/arm64/debian-12-arm64.yaml", "-o", dir).CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := builder.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if arch, err := m.Arch(); err != nil || arch != "arm64" {
		t.Fatalf("the image is for %q (%v)", arch, err)
	}
	report := filepath.Join(t.ArtifactDir(), "report")
	result, err := proof.Run(t.Context(), proof.Options{Dir: dir, Report: report, Out: t.Output(), BootTime: perBoot})
	if err != nil {
		if console, e := os.ReadFile(filepath.Join(report, "console.log")); e == nil {
			t.Logf("console:\n%s", console)
		}
		if errors.Is(err, proof.ErrNotProved) {
			t.Errorf("%v", err)
		} else {
			t.Fatal(err)
		}
	}
	if v := result.Proof.Verdict(); v != control.Pass {
		t.Errorf("the verdict is %s, want %s", v, control.Pass)
	}
}
