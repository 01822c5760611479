package qemutests

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"ward/builder/lock"
	"ward/images"
)

// vendorAnswers are what a machine that started from a vendor's tree is asked: that
// tree's own file is there, and what kept services from starting is not.
var vendorAnswers = map[string]string{
	"cat /srv/vendor": "made by the vendor",
	"ls /usr/sbin/policy-rc.d /etc/apt/sources.list.d /etc/dpkg/dpkg.cfg.d/docker-apt-speedup 2>/dev/null": "/etc/apt/sources.list.d:",
}

// TestVendorBase builds from a root file system that somebody else has made, in an OCI
// layout, and from a lock of what comes on top of it; and grades the machine.
func TestVendorBase(t *testing.T) {
	t.Parallel()
	i := image(t)
	base := vendorLayout(t)
	img, err := images.Load(i.Manifest.Image)
	if err != nil {
		t.Fatal(err)
	}
	img.Name, img.Base = "vendor", "oci-dir:"+base
	text, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, locked := filepath.Join(dir, "vendor.yaml"), filepath.Join(dir, "vendor.lock")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "../.bin/ward", "lock", file, "-o", locked)
	l, err := lock.Read(locked)
	if err != nil {
		t.Fatal(err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(l.Packages, func(p lock.Package) bool { return p.Name == name })
	}
	if has("dpkg") || !has("openssh-server") || l.Base == "" {
		t.Errorf("the lock has %d packages on top of %q, want openssh-server and not dpkg, which the base has", len(l.Packages), l.Base)
	}
	graded(t, bake(t, file, plain, "--locked", locked), vendorAnswers, nil)
}

// vendorLayout makes a minimal Debian 12 of the distribution's mirror with what images
// of containers have beside it, as the one image of a layout.
func vendorLayout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "base.tar")
	tool(t, program(t, "mmdebstrap"), "--quiet", "--mode=unshare", "--variant=minbase", "--architectures=amd64",
		`--customize-hook=echo 'made by the vendor' >"$1/srv/vendor"`,
		`--customize-hook=echo 'exit 101' >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"`,
		`--customize-hook=echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"`,
		`--customize-hook=echo 'deb http://vendor.invalid/debian bookworm main' >"$1/etc/apt/sources.list.d/vendor.list"`,
		"bookworm", base)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return os.Open(base) })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "layout")
	p, err := layout.Write(out, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return out
}
