package qemutests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/images"
	"ward/profiles/control"
	"ward/qemu-tests/lookalike/rpm"
)

// TestLookalikeRocky builds Rocky 9's image, unchanged but for where its packages
// come from, from a repository in Rocky's shape, boots it and grades it as ward test
// does. What is in the packages is Debian's.
func TestLookalikeRocky(t *testing.T) {
	if err := vm.Missing(); err != nil {
		cannot(t, "%v", err)
	}
	if os.Geteuid() != 0 {
		cannot(t, "the repository is made as root")
	}
	a, err := rockyArchive(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(a.Dir)))
	defer server.Close()
	i := bake(t, rockyImage(t, server.URL, a.Keyring), "name: plain\nextends: hipaa\n")
	if !strings.HasPrefix(i.Manifest.Image, "rocky-9") {
		t.Fatalf("the image is %q", i.Manifest.Image)
	}
	slots <- struct{}{}
	defer func() { <-slots }()
	result, err := proof.Run(t.Context(), proof.Options{
		Dir: i.Dir, Version: "qemu-tests", State: filepath.Join(t.TempDir(), "machine"), Out: t.Output(),
		Log: slog.New(slog.DiscardHandler), Report: filepath.Join(artifacts(t), "report"),
	})
	if err != nil {
		t.Error(err)
	}
	if result == nil || len(result.Proof.Parts) == 0 {
		t.Fatal("it did not come to its end")
	}
	for _, part := range result.Proof.Parts {
		for _, f := range part.All() {
			if f.Status != control.Pass {
				t.Errorf("%s: %s", part.Name, proof.Line(f))
			}
		}
	}
}

// rockyArchive makes the repository. The tree of Debian's packages that it is made of
// is kept where WARD_LOOKALIKE_BASE says, which spares the next run minutes.
func rockyArchive(ctx context.Context, dir string) (rpm.Archive, error) {
	log := slog.New(slog.DiscardHandler)
	base := os.Getenv("WARD_LOOKALIKE_BASE")
	if base == "" {
		base = filepath.Join(dir, "base.tar")
	}
	if _, err := os.Stat(base); errors.Is(err, os.ErrNotExist) {
		if err := rpm.Base(ctx, log, base); err != nil {
			return rpm.Archive{}, err
		}
	}
	out := filepath.Join(dir, "archive")
	if err := os.Mkdir(out, 0o755); err != nil {
		return rpm.Archive{}, err
	}
	return rpm.Make(ctx, log, base, out)
}

// rockyImage is the file of the image that ward ships, with a mirror and its key.
func rockyImage(t *testing.T, mirror, keyring string) string {
	t.Helper()
	img, err := images.Load("rocky-9")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("name: %s\ndistro: %s\nrelease: %q\narch: %s\nmirrors: [%q]\nkeyring: %s\ndisk: {esp: %s, root: %s, phi: %s, root_share: %d}\nformats: [qcow2]\nmodules: virtio\nfirmware: [uefi]\nkernel_args: [no_timer_check]\n",
		img.Name, img.Distro, img.Release, img.Arch, mirror, keyring, img.Disk.ESP, img.Disk.Root, img.Disk.PHI, img.Disk.RootShare)
	file := filepath.Join(t.TempDir(), "rocky-9.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
