package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"ward/builder/cache"
	"ward/images/distro"
)

// Vendor is a root file system that somebody else has made, from which a tree starts
// instead of from nothing: a tar, or an image of containers in an OCI layout.
type Vendor struct {
	Kind string // "tar" or "oci-dir"
	Path string
	Arch string // of the image in a layout that has several
}

// limits of what a vendor's tar may hold: far more than any root file system has,
// and less than fills a build host unnoticed.
const (
	maxVendor      = 32 << 30 // bytes of its files
	maxVendorFiles = 4 << 20
	maxOSRelease   = 64 << 10
)

// vendorDrops are what a vendor's tree does not bring, as patterns of path.Match of a
// path or of a folder above it. The image says where packages come from; and an image
// of containers keeps services from starting when they are installed (policy-rc.d) and
// packages from being synced to the disk (dpkg.cfg.d), which a machine must not.
var vendorDrops = []string{
	"dev/*", "proc/*", "sys/*", "run/*", "tmp/*",
	"etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/docker-*", "etc/dpkg/dpkg.cfg.d/docker-*", "usr/sbin/policy-rc.d",
	".dockerenv",
}

// vendorRefuses are characters that would end a word in the shell of mmdebstrap's hooks.
const vendorRefuses = "'\n"

// Digest names the content: the SHA-256 of the tar, or of the image's manifest,
// which names every layer by its own. It reads no layer.
func (v *Vendor) Digest() (string, error) {
	if v.Kind == "oci-dir" {
		_, digest, err := ociImage(v.Path, v.Arch)
		return digest, err
	}
	sum, err := cache.Sum(v.Path)
	if err != nil {
		return "", fmt.Errorf("base: %w", err)
	}
	return sum, nil
}

// Open reads the tree as an uncompressed tar. A layout's layers are compared with
// their digests before.
func (v *Vendor) Open() (io.ReadCloser, error) {
	if v.Kind == "oci-dir" {
		return openOCI(v.Path, v.Arch)
	}
	f, err := os.Open(v.Path)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	r, err := decompress(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("base: %s: %w", v.Path, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, f}, nil
}

// decompress tells by the first bytes how a tar is compressed: gzip (RFC 1952), xz
// (its .xz format, 2.1.1.1), Zstandard (RFC 8878, 3.1.1), or not at all.
func decompress(f io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(f, 1<<20)
	magic, err := in.Peek(6)
	switch {
	case err != nil:
		return nil, fmt.Errorf("has fewer than 6 bytes: %w", err)
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(in)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		return zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
	}
	return in, nil
}

// lay writes the tree as a plain tar into a folder of its own that any user may
// read, since the package manager is one, and returns what removes it.
func (v *Vendor) lay(r distro.Release) (name string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "ward-vendor-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	name = filepath.Join(dir, "base.tar")
	if strings.ContainsAny(name, vendorRefuses) {
		remove()
		return "", nil, fmt.Errorf("base: TMPDIR has a quote or a line end in its name")
	}
	if err = v.write(name, r); err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("base: %s: %w", v.Path, err)
	}
	return name, remove, nil
}

func (v *Vendor) write(name string, r distro.Release) error {
	in, err := v.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	if err := copyTree(out, in, r); err != nil {
		return err
	}
	return errors.Join(out.Flush(), f.Close())
}

// copyTree copies a tree without vendorDrops and without device nodes, which a user
// namespace cannot make, and refuses the tree of another release.
func copyTree(to io.Writer, from io.Reader, r distro.Release) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	var id, version string
	var size int64
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at := path.Clean("/" + h.Name)[1:]
		if size += h.Size; size > maxVendor || n > maxVendorFiles {
			return fmt.Errorf("has more than %d GiB or %d files", maxVendor>>30, maxVendorFiles)
		}
		if slices.Contains(strings.Split(h.Name, "/"), "..") {
			return fmt.Errorf("%q leads out of the tree", h.Name)
		}
		if at == "" || dropped(at) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			continue
		}
		h.Name, h.Format = "./"+at, tar.FormatPAX
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = "./" + path.Clean("/" + h.Linkname)[1:]
		}
		var body io.Reader = in
		// os-release(5): /etc/os-release is a link to it, or takes its place.
		if h.Typeflag == tar.TypeReg && (at == "usr/lib/os-release" || at == "etc/os-release") {
			text, err := io.ReadAll(io.LimitReader(in, maxOSRelease+1))
			if err != nil {
				return err
			}
			if len(text) > maxOSRelease {
				return fmt.Errorf("%s has more than %d bytes", at, maxOSRelease)
			}
			body = bytes.NewReader(text)
			if id == "" || at == "etc/os-release" {
				id, version = osRelease(string(text))
			}
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if _, err := io.Copy(out, body); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if id == "" {
		return errors.New("is no root file system: it has no usr/lib/os-release that says what it is")
	}
	// A row is a whole release: 9 is 9.4 too.
	if id != r.ID || version != r.Version && !strings.HasPrefix(version, r.Version+".") {
		return fmt.Errorf("is %s %s, the image is of %s %s\nhint: name the vendor's file for this release, or correct distro: and release: in the image file", id, version, r.ID, r.Version)
	}
	return out.Close()
}

func dropped(at string) bool {
	for ; at != "."; at = path.Dir(at) {
		for _, pattern := range vendorDrops {
			if ok, _ := path.Match(pattern, at); ok {
				return true
			}
		}
	}
	return false
}

// osRelease is ID and VERSION_ID of os-release(5).
func osRelease(text string) (id, version string) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	return id, version
}
