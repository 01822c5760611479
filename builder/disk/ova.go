package disk

import (
	"archive/tar"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// OVA is a virtual appliance: a tar of an OVF descriptor, its manifest and the disk.
type OVA struct {
	Name     string    // of the machine; plain letters, digits, dots and dashes
	Disk     string    // file with the disk, a streamOptimized vmdk
	Capacity int64     // bytes that the guest sees
	Time     time.Time // of the files in the tar
}

//go:embed machine.ovf
var ovfText string

var ovf = template.Must(template.New("machine.ovf").Parse(ovfText))

// WriteOVA writes a new file. Descriptor first, then manifest, then disk, in
// ustar: an importer reads it as a stream (DSP0243 1.1.1, 5.3).
func WriteOVA(path string, o OVA) (err error) {
	disk, err := os.Open(o.Disk)
	if err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	defer disk.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, disk)
	if err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	if _, err := disk.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	href := filepath.Base(o.Disk)
	var descriptor strings.Builder
	err = ovf.Execute(&descriptor, struct {
		OVA
		Href string
		Size int64
	}{o, href, size})
	if err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s)= %x\n", o.Name, sha256.Sum256([]byte(descriptor.String())), href, hash.Sum(nil))

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	for _, part := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{o.Name + ".ovf", int64(descriptor.Len()), strings.NewReader(descriptor.String())},
		{o.Name + ".mf", int64(len(manifest)), strings.NewReader(manifest)},
		{href, size, disk},
	} {
		h := &tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: part.name, Size: part.size, Mode: 0o644, ModTime: o.Time.Truncate(time.Second)}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("ova: %s: %w", part.name, err)
		}
		if _, err := io.Copy(w, part.from); err != nil {
			return fmt.Errorf("ova: %s: %w", part.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	return f.Sync()
}
