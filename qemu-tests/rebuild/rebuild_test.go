// Package rebuild shows that an image can be made again: from its lock, in
// another folder, from another cache, without a network, without root, after the
// cache was damaged or builds were killed, with the same bytes. It starts no machine.
package rebuild

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder"
	"ward/qemu-tests/lookalike/rpm"
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
func TestReproducibleOffline(t *testing.T) { twice(t, "debian-12", func() {}) }

// TestReproducibleOfflineRocky does the same with rpm packages, of the look-alike of
// Rocky's repositories, which is gone before the second build.
func TestReproducibleOfflineRocky(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the repository is made as root")
	}
	dir := t.TempDir()
	a, err := rpm.MakeIn(t.Context(), slog.New(slog.DiscardHandler), dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(a.Dir)))
	defer server.Close()
	file := filepath.Join(dir, "rocky.yaml")
	if err := rpm.WriteImage(file, server.URL, a.Keyring); err != nil {
		t.Fatal(err)
	}
	twice(t, file, func() {
		server.Close()
		if err := os.RemoveAll(a.Dir); err != nil {
			t.Fatal(err)
		}
	})
}

// twice builds an image from one lock twice; gone is called between the two.
func twice(t *testing.T, image string, gone func()) {
	w, dir := ward(t), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	run(t, w, "lock", image, "-o", path("image.lock"))
	run(t, w, "build", image, "--locked", path("image.lock"), "--cache", path("cache-a"), "-o", path("a/image"))
	run(t, w, "store", "export", path("image.lock"), path("packages.tar"), "--cache", path("cache-a"))
	run(t, w, "store", "import", path("packages.tar"), "--cache", path("cache-b"))
	gone()

	offline := []string{"unshare", "--net", "--", w, "build", image, "--locked", path("image.lock"), "--offline",
		"--cache", path("cache-b"), "-o", path("elsewhere/b")}
	if os.Geteuid() != 0 {
		t.Fatal("a network namespace without a route needs root here")
	}
	if out, err := exec.Command("unshare", "--net", "--", "ip", "route").CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("the namespace has a route: %s %v", out, err)
	}
	run(t, offline...)

	a, errA := builder.ReadManifest(path("a/image"))
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
