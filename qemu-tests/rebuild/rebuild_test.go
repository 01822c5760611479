// Package rebuild shows that an image can be made again: from its lock, in
// another folder, from another cache, without a network, without root, after the
// cache was damaged or builds were killed, with the same bytes. It starts no machine.
package rebuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder"
)

// ward is the command that make build left.
func ward(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.bin/ward")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatalf("%v: make build first", err)
		}
		t.Skipf("%v: make build first", err)
	}
	return path
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	t.Logf("%s\n%s", strings.Join(argv, " "), out)
	if err != nil {
		t.Fatalf("%s: %v", argv[0], err)
	}
	return string(out)
}

// TestReproducibleOffline builds from one lock twice: once with the network and
// once in a network namespace that has no route, from an imported store.
func TestReproducibleOffline(t *testing.T) {
	w, dir := ward(t), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	run(t, w, "lock", "debian-12", "-o", path("debian-12.lock"))
	run(t, w, "build", "debian-12", "--locked", path("debian-12.lock"), "--cache", path("cache-a"), "-o", path("a/debian-12"))
	run(t, w, "store", "export", path("debian-12.lock"), path("packages.tar"), "--cache", path("cache-a"))
	run(t, w, "store", "import", path("packages.tar"), "--cache", path("cache-b"))

	offline := []string{"unshare", "--net", "--", w, "build", "debian-12", "--locked", path("debian-12.lock"), "--offline",
		"--cache", path("cache-b"), "-o", path("elsewhere/b")}
	if os.Geteuid() != 0 {
		t.Fatal("a network namespace without a route needs root here")
	}
	if out, err := exec.Command("unshare", "--net", "--", "ip", "route").CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("the namespace has a route: %s %v", out, err)
	}
	run(t, offline...)

	a, errA := builder.ReadManifest(path("a/debian-12"))
	b, errB := builder.ReadManifest(path("elsewhere/b"))
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if err := b.Verify(path("elsewhere/b")); err != nil {
		t.Error(err)
	}
	if len(a.Files) == 0 || a.Digest != b.Digest {
		t.Errorf("digests of the inputs: %s and %s, of %d files", a.Digest, b.Digest, len(a.Files))
	}
	for name, file := range a.Files {
		if file != b.Files[name] {
			t.Errorf("%s: %+v and %+v", name, file, b.Files[name])
		}
	}
}

// An incomplete store is named, and nothing is asked of the network for it.
func TestOfflineSaysWhatIsMissing(t *testing.T) {
	w, dir := ward(t), t.TempDir()
	lock := filepath.Join(dir, "debian-12.lock")
	run(t, w, "lock", "debian-12", "-o", lock)
	out, err := exec.Command(w, "build", "debian-12", "--locked", lock, "--offline", "--cache", filepath.Join(dir, "empty"), "-o", filepath.Join(dir, "out")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lacks") || !strings.Contains(string(out), "ward store import") {
		t.Errorf("ward build --offline with an empty store = %v, %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "out")); !os.IsNotExist(err) {
		t.Errorf("an output folder is there: %v", err)
	}
}
