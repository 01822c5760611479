package builder

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/cache"
	"ward/builder/registry/registrytest"
	"ward/images"
	"ward/profiles"
)

// An image goes to a registry and comes back as it was, and only if it was signed
// with the key that is asked for.
func TestRegistryImage(t *testing.T) {
	host, blobs := registrytest.Serve(t)
	ref := "oci+http://" + host + "/ward/clinic:v1"
	signer, verifier := signers(t)
	_, stranger := signers(t)
	dir, m := output(t, signer)
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := PushOutput(t.Context(), dir, ref, stranger, nil); err == nil || !strings.Contains(err.Error(), "was made with the key") {
		t.Errorf("push with another key: %v, want it refused", err)
	}
	if _, is, err := PushOutput(t.Context(), dir, ref, verifier, nil); err != nil || is != Checked {
		t.Fatalf("push: %q, %v", is, err)
	}

	to := filepath.Join(t.TempDir(), "out", "clinic")
	got, is, err := PullOutput(t.Context(), ref, to, verifier, nil)
	if err != nil || is != Checked || got.Digest != m.Digest {
		t.Fatalf("pull: %v, %q, %v", got, is, err)
	}
	if err := got.unchanged(to, false); err != nil {
		t.Errorf("a build would not take the pulled image for up to date: %v", err)
	}
	if _, err := os.Stat(filepath.Join(to, "notes.txt")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is no part of the image was pushed (%v)", err)
	}
	if _, _, err := PullOutput(t.Context(), ref, to, verifier, nil); err != nil {
		t.Errorf("pull over the former one: %v", err)
	}

	refused := filepath.Join(t.TempDir(), "refused")
	if _, _, err := PullOutput(t.Context(), ref, refused, stranger, nil); err == nil || !strings.Contains(err.Error(), "was made with the key") {
		t.Errorf("pull with another key: %v, want it refused", err)
	}
	n := 0
	err = filepath.WalkDir(blobs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && string(data) == "bytes of vmlinuz" {
			n++
			err = os.WriteFile(path, []byte("Bytes of vmlinuz"), 0o600)
		}
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("changed %d blobs, %v", n, err)
	}
	if _, _, err := PullOutput(t.Context(), ref, refused, nil, nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("pull of a changed blob: %v, want it refused", err)
	}
	left, err := os.ReadDir(filepath.Dir(refused))
	if err != nil || len(left) != 0 {
		t.Errorf("a refused pull leaves %v, %v", left, err)
	}
}

// Packages that one machine installed are another's, with the time at which they
// were made, so that both make the same image.
func TestRegistryCache(t *testing.T) {
	host, _ := registrytest.Serve(t)
	machine := func(remote string) *build {
		b, err := newBuild(Options{
			Image: &images.Image{Name: "clinic", Distro: "debian", Release: "12", Arch: "amd64"}, Profile: &profiles.Profile{}, Cache: t.TempDir(), Output: filepath.Join(t.TempDir(), "clinic"),
			Remote: remote, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Binaries.Ward = os.Args[0] // see TestMain
		b.inputs.Packages.Packages = []string{"sudo"}
		return b
	}
	remote := "oci+http://" + host + "/ward/cache"
	a := machine(remote)
	key, err := cache.Key(a.inputs.Packages)
	if err != nil {
		t.Fatal(err)
	}
	if a.cache, err = cache.Open(a.Cache, a.Log, func(_ context.Context, dir string) error { return os.RemoveAll(dir) }); err != nil {
		t.Fatal(err)
	}
	if a.base, _, err = a.cache.Get(t.Context(), packagesKind, key, false, func(ctx context.Context, dir string) error {
		put(t, dir, "tree/usr/bin/sudo", strings.Repeat("a program ", 1000))
		put(t, dir, "tree/dev/null", "")
		if err := os.Symlink("usr/bin", filepath.Join(dir, "tree/bin")); err != nil {
			return err
		}
		return a.inside(ctx, Inside{Settle: &SettleSpec{Dir: dir, Epoch: testEpoch}})
	}); err != nil {
		t.Fatal(err)
	}
	a.base.Made = time.Unix(testEpoch, 0).UTC()
	a.installed = true
	if err := a.share(t.Context()); err != nil || a.event.Text != a.remoteRef(key) {
		t.Fatalf("share: %q, %v", a.event.Text, err)
	}

	b := machine(remote)
	if err := b.packages(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, err := readFacts(a.base.Dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readFacts(b.base.Dir)
	if err != nil || got.Digest != want.Digest || want.Digest == "" {
		t.Errorf("the tree is %q, was %q (%v)", got.Digest, want.Digest, err)
	}
	for _, base := range []*cache.Entry{a.base, b.base} {
		info, err := os.Lstat(base.Path("tree/usr/bin/sudo"))
		if err != nil || info.ModTime().Unix() != testEpoch {
			t.Errorf("%s: %v, %v, want it with the time of the packages", base.Dir, info, err)
		}
		if left, err := os.ReadDir(base.Path("tree/dev")); err != nil || len(left) != 0 {
			t.Errorf("%s: /dev has %v, %v", base.Dir, left, err)
		}
		if err := b.inside(t.Context(), Inside{Check: &CheckSpec{Dir: base.Dir}}); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(b.base.Path(".*")); err != nil || len(left) != 0 {
		t.Errorf("left in the entry: %q, %v", left, err)
	}

	// A tree that somebody has changed is not pushed.
	put(t, a.base.Path(treeDir), "usr/bin/sudo", strings.Repeat("a Program ", 1000))
	if err := a.share(t.Context()); err == nil || !strings.Contains(err.Error(), treeChanged) {
		t.Errorf("share() of a changed tree = %v, want that it is refused", err)
	}
	if b.installed || !b.made.Equal(a.base.Made) || !madeOf(b.base).Equal(a.base.Made) {
		t.Errorf("installed %v, made %v, want those of %v", b.installed, b.made, a.base.Made)
	}

	// A registry that is down is none.
	down := machine("oci+http://127.0.0.1:1/ward/cache")
	if found, err := down.fromRegistry(t.Context(), key, t.TempDir()); found || err != nil {
		t.Errorf("a registry that is down: %v, %v, want none", found, err)
	}
}
