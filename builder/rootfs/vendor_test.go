package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// file is an entry of a tar: a file where it has text, a link with "-> " before it, a
// folder where its name ends with a slash, a device where the text is "device".
type file struct{ name, text string }

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.text))}
		target, link := strings.CutPrefix(f.text, "-> ")
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case link:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
		case f.text == "device":
			h.Typeflag, h.Size = tar.TypeChar, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, f.text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// namesOf returns what a tar has, sorted.
func namesOf(t *testing.T, r io.Reader) (names []string) {
	t.Helper()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

var bookworm = file{"usr/lib/os-release", "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n"}

func TestVendorTar(t *testing.T) {
	plain := tarOf(t, file{"./", ""}, file{"./usr/", ""}, bookworm, file{"etc/os-release", "-> ../usr/lib/os-release"},
		file{"etc/apt/sources.list.d/vendor.sources", "x"}, file{"usr/sbin/policy-rc.d", "exit 101"}, file{"dev/null", "device"},
		file{"etc/apt/apt.conf.d/docker-clean", "x"}, file{"etc/apt/apt.conf.d/70debconf", "x"}, file{"srv/disk", "device"})
	want := []string{"./etc/apt/apt.conf.d/70debconf", "./etc/os-release", "./usr/", "./usr/lib/os-release"}
	for name, compress := range map[string]func(io.Writer) (io.WriteCloser, error){
		"plain": nil,
		"gz":    func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"xz":    func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"zst":   func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if compress == nil {
				b.Write(plain)
			} else {
				w, err := compress(&b)
				if err != nil {
					t.Fatal(err)
				}
				w.Write(plain)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
			v := &Vendor{Kind: "tar", Path: filepath.Join(t.TempDir(), "base")}
			if err := os.WriteFile(v.Path, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := laid(t, v); !slices.Equal(got, want) {
				t.Errorf("the tree has %v, want %v", got, want)
			}
		})
	}
}

// laid returns what the package manager gets of a vendor's tree.
func laid(t *testing.T, v *Vendor) []string {
	t.Helper()
	name, remove, err := v.lay(debian(t))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := namesOf(t, f)
	remove()
	if _, err := os.Stat(filepath.Dir(name)); !os.IsNotExist(err) {
		t.Errorf("%s is left", filepath.Dir(name))
	}
	return names
}

func TestVendorRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"other release":      {tarOf(t, file{"usr/lib/os-release", "ID=debian\nVERSION_ID=13\n"}), "is debian 13, the image is of debian 12\nhint: name the vendor's file for this release"},
		"other distribution": {tarOf(t, bookworm, file{"etc/os-release", "ID=ubuntu\nVERSION_ID=12\n"}), "is ubuntu 12, the image is of debian 12"},
		"no release":         {tarOf(t, file{"etc/passwd", "x"}), "is no root file system: it has no usr/lib/os-release"},
		"out of the tree":    {tarOf(t, bookworm, file{"../etc/passwd", "x"}), `"../etc/passwd" leads out of the tree`},
		"cut":                {tarOf(t, bookworm)[:520], "unexpected EOF"},
		"no tar":             {[]byte("hello, it is me"), "EOF"},
		"empty":              {nil, "has fewer than 6 bytes"},
		"huge os-release":    {tarOf(t, file{"etc/os-release", strings.Repeat("#", maxOSRelease+1)}), "etc/os-release has more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &Vendor{Kind: "tar", Path: filepath.Join(t.TempDir(), "base.tar")}
			if err := os.WriteFile(v.Path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := v.lay(debian(t)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), v.Path) {
				t.Errorf("lay() = %v, want an error that names the file and says %q", err, c.want)
			}
		})
	}
}

// imageOf makes an image of layers, the lowest first.
func imageOf(t *testing.T, arch string, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func layoutOf(t *testing.T, images ...v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestVendorOCI(t *testing.T) {
	lower := tarOf(t, file{"usr/lib/", ""}, file{"usr/lib/os-release", "ID=debian\nVERSION_ID=11\n"}, file{"etc/old", "x"})
	upper := tarOf(t, bookworm, file{"etc/.wh.old", ""}, file{"etc/new", "x"})
	dir := layoutOf(t, imageOf(t, "arm64", lower), imageOf(t, "amd64", lower, upper))
	v := &Vendor{Kind: "oci-dir", Path: dir, Arch: "amd64"}
	if got, want := laid(t, v), []string{"./etc/new", "./usr/lib/", "./usr/lib/os-release"}; !slices.Equal(got, want) {
		t.Errorf("the tree has %v, want %v", got, want)
	}
	digest, err := v.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := imageOf(t, "amd64", lower, upper).Digest(); err != nil || want.Hex != digest {
		t.Errorf("Digest() = %s, want that of the manifest, %s (%v)", digest, want.Hex, err)
	}
	refused := func(dir, want string) {
		t.Helper()
		if _, err := (&Vendor{Kind: "oci-dir", Path: dir, Arch: "amd64"}).Open(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Open() = %v, want an error that names the folder and says %q", err, want)
		}
	}
	refused(t.TempDir(), "hint: a layout is a folder with index.json")
	refused(layoutOf(t, imageOf(t, "arm64", lower)), "has 0 images for linux and amd64, want one")
	refused(layoutOf(t, imageOf(t, "amd64", lower), imageOf(t, "amd64", upper)), "has 2 images for linux and amd64, want one")
	layers, err := imageOf(t, "amd64", lower, upper).Layers()
	if err != nil {
		t.Fatal(err)
	}
	damaged, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	for blob, want := range map[string]string{damaged.Hex: "layer sha256:" + damaged.Hex + " is damaged", digest: "is damaged"} {
		at := filepath.Join(dir, "blobs/sha256", blob)
		good, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, append(bytes.Clone(good), ' '), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(dir, want)
		if err := os.WriteFile(at, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
