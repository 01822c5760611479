package rebuild

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder"
)

// world is a cache, an image file and an output of their own. The image has one
// format: what these tests are about does not depend on the formats, and a build
// with cached packages takes seconds.
type world struct {
	t                       *testing.T
	ward, dir, cache, image string
	lock                    string // file that builds are locked to; empty: they are not
}

const smallImage = `name: debian-12
distro: debian
release: "12"
arch: amd64
disk: {esp: 256MiB, root: 2GiB, phi: 64MiB}
formats: [qcow2]
modules: virtio
kernel_args: [no_timer_check]
`

// newWorld takes installed packages from the user's own cache if they are there;
// a build that needs others installs them.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ward: ward(t), dir: t.TempDir()}
	w.cache, w.image = w.path("cache"), w.path("debian-12.yaml")
	if err := os.WriteFile(w.image, []byte(smallImage), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.cache, 0o700); err != nil {
		t.Fatal(err)
	}
	own, err := builder.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := filepath.Glob(filepath.Join(own, "packages-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := os.Stat(e); err == nil && info.IsDir() {
			run(t, "cp", "--archive", "--reflink=auto", e, w.cache)
		}
	}
	return w
}

// locked has builds install the packages of a lock, which are the same each time:
// those that are in the cache now, from the cache's store.
func (w *world) locked() {
	w.t.Helper()
	lock := w.path("image.lock")
	run(w.t, w.ward, "lock", w.image, "--cache", w.cache, "-o", lock)
	w.lock = lock
	w.remove("packages")
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// profile writes a profile that differs from every other one by its name,
// so that nothing but packages, their file system and initramfs is in the cache for it.
func (w *world) profile(what string) string {
	w.t.Helper()
	id := strings.ReplaceAll(what, " ", "-")
	name := w.path(id + ".yaml")
	text := fmt.Sprintf("name: %s\ndescription: %s\nextends: hipaa\n", id, what)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return name
}

func (w *world) argv(profile, out string) []string {
	argv := []string{w.ward, "build", w.image, "--profile", profile, "--cache", w.cache, "-o", w.path(out)}
	if w.lock != "" {
		argv = append(argv, "--locked", w.lock)
	}
	return argv
}

// build builds to the end, and checks every byte of the output. It returns what
// was said.
func (w *world) build(profile, out string) (*builder.Manifest, string) {
	w.t.Helper()
	said := run(w.t, w.argv(profile, out)...)
	return w.verified(out), said
}

func (w *world) verified(out string) *builder.Manifest {
	w.t.Helper()
	m, _, err := builder.VerifyOutput(w.t.Context(), w.path(out), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// same fails unless both images have the same bytes.
func (w *world) same(a, b *builder.Manifest) {
	w.t.Helper()
	if len(a.Files) == 0 || len(a.Files) != len(b.Files) {
		w.t.Errorf("%d and %d files", len(a.Files), len(b.Files))
	}
	for name, f := range a.Files {
		if f != b.Files[name] {
			w.t.Errorf("%s: %+v and %+v", name, f, b.Files[name])
		}
	}
}

// forget removes the finished systems from the cache.
func (w *world) forget() { w.remove("system") }

// remove removes the entries of a kind from the cache.
func (w *world) remove(kind string) {
	w.t.Helper()
	entries, err := filepath.Glob(filepath.Join(w.cache, kind+"-*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e, ".lock") {
			if err := os.RemoveAll(e); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// noHalf fails when something unfinished lies in the cache or beside the output.
func (w *world) noHalf() {
	w.t.Helper()
	for _, dir := range []string{w.cache, w.dir} {
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil {
			w.t.Fatal(err)
		}
		if len(left) > 0 {
			w.t.Errorf("unfinished: %q", left)
		}
	}
}

// quiet waits until no process works in the world and nothing is mounted in it.
func (w *world) quiet() {
	w.t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if left = append(w.processes(), w.mounts()...); len(left) == 0 {
			return
		}
	}
	w.t.Fatalf("ten seconds later there are still:\n%s", strings.Join(left, "\n"))
}

// processes are those that have the world's folder in their arguments.
func (w *world) processes() []string {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(all) == 0 {
		w.t.Fatalf("no processes in /proc (%v)", err)
	}
	var left []string
	for _, name := range all {
		text, err := os.ReadFile(name)
		if err == nil && bytes.Contains(text, []byte(w.dir)) {
			left = append(left, name+": "+string(bytes.ReplaceAll(text, []byte{0}, []byte(" "))))
		}
	}
	return left
}

func (w *world) mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	var left []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, w.dir) {
			left = append(left, line)
		}
	}
	return left
}

// flip changes one byte in the middle of the first file that the pattern names.
func flip(t *testing.T, pattern string) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no such file (%v)", pattern, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil || len(data) == 0 {
		t.Fatalf("%s: %d bytes, %v", names[0], len(data), err)
	}
	f, err := os.OpenFile(names[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := len(data) / 2
	for data[at] == 0 && at < len(data)-1 {
		at++ // in a hole nothing would be lost
	}
	if _, err := f.WriteAt([]byte{data[at] ^ 1}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// start starts a build and returns it with what it says.
func (w *world) start(profile, out string) (*exec.Cmd, *bytes.Buffer) {
	w.t.Helper()
	argv := w.argv(profile, out)
	cmd := exec.CommandContext(w.t.Context(), argv[0], argv[1:]...)
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	return cmd, said
}
