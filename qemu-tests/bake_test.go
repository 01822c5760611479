package qemutests

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ward/builder/proof"
)

// bakeWith bakes the image under test with another profile, the text of its file,
// and with further arguments of ward build.
func bakeWith(t *testing.T, profile string, more ...string) *proof.Image {
	t.Helper()
	return bake(t, image(t).Manifest.Image, profile, more...)
}

// bake bakes an image, named as ward build does, with a profile, the text of its file,
// and with further arguments of ward build.
func bake(t *testing.T, name, profile string, more ...string) *proof.Image {
	t.Helper()
	const ward = "../.bin/ward"
	if _, err := os.Stat(ward); err != nil {
		cannot(t, "%v: make build first", err)
	}
	dir := t.TempDir()
	file, out := filepath.Join(dir, "profile.yaml"), filepath.Join(dir, "image")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.CommandContext(t.Context(), ward, append([]string{"build", name, "--profile", file, "-o", out}, more...)...).CombinedOutput(); err != nil {
		t.Fatalf("ward build: %v\n%s", err, text)
	}
	i, err := proof.OpenImage(out)
	if err != nil {
		t.Fatal(err)
	}
	return i
}
