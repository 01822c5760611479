package rebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRootless installs and builds as root and as an ordinary user with subordinate
// ids, from one lock, and compares the bytes. The user exists in a mount namespace of the test's own
// alone: nothing is changed on the host.
func TestRootless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the test itself needs root, to be root once and another user once")
	}
	w := newWorld(t)
	w.locked()
	profile := w.profile("rootless")
	want, _ := w.build(profile, "as-root")

	const id = "61234"
	etc := map[string]string{
		"passwd": "warduser:x:" + id + ":" + id + "::/nonexistent:/bin/sh\n", "group": "warduser:x:" + id + ":\n",
		"subuid": "warduser:3000000:65536\n", "subgid": "warduser:3000000:65536\n",
	}
	var mount strings.Builder
	mount.WriteString("set -eu\n")
	for name, line := range etc {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil && name != "subuid" && name != "subgid" {
			t.Fatal(err)
		}
		if strings.Contains(string(text), ":"+id+":") || strings.Contains(string(text), "warduser") {
			t.Fatalf("/etc/%s has the user already", name)
		}
		if err := os.WriteFile(w.path(name), append(text, line...), 0o644); err != nil {
			t.Fatal(err)
		}
		mount.WriteString("mount --bind " + w.path(name) + " /etc/" + name + "\n")
	}
	// The user's own folder, with the packages, not installed, that root's build took.
	home := w.path("home")
	run(t, "mkdir", "-p", home+"/cache")
	run(t, "cp", "--archive", "--reflink=auto", filepath.Join(w.cache, "store"), home+"/cache/")
	run(t, "chown", "-R", id+":"+id, home)
	for dir := w.dir; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		run(t, "chmod", "a+x", dir)
	}
	// The programs, where the user may read them.
	run(t, "mkdir", "-p", home+"/bin")
	for _, name := range []string{"ward", "wardctl", "ward-init", "ward-init-net"} {
		run(t, "cp", filepath.Join(filepath.Dir(w.ward), name), home+"/bin/")
	}
	mount.WriteString(`exec setpriv --reuid=` + id + ` --regid=` + id + ` --clear-groups -- env HOME=` + home + ` "$@"` + "\n")
	run(t, "unshare", "--mount", "--propagation", "private", "--", "sh", "-c", mount.String(), "sh",
		home+"/bin/ward", "build", w.image, "--profile", profile, "--cache", home+"/cache", "-o", home+"/out", "--locked", w.lock, "--offline")
	w.same(want, w.verified("home/out"))
	for _, name := range []string{"disk.qcow2", "manifest.json"} {
		info, err := os.Stat(filepath.Join(home, "out", name))
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
