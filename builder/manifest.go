package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ward/builder/cache"
)

// ManifestVersion is the version of the manifest's form; a reader refuses another.
const ManifestVersion = 1

// Manifest says what an image is made of and what came out. It is manifest.json
// in the output folder.
type Manifest struct {
	Version int             `json:"version"`
	Image   string          `json:"image"`
	Profile string          `json:"profile"`
	Tool    string          `json:"tool"`   // version of ward
	Digest  string          `json:"digest"` // sha256 of Inputs: the image's identity
	Kernel  string          `json:"kernel"`
	Cmdline string          `json:"cmdline"`
	Made    time.Time       `json:"made"` // when the packages were fetched
	Modules []string        `json:"initramfs_modules"`
	Inputs  json.RawMessage `json:"inputs"`
	Files   map[string]File `json:"files"`
}

// File is one file of the output.
type File struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

const (
	manifestFile = "manifest.json"
	sumsFile     = "SHA256SUMS"
	maxManifest  = 16 << 20
)

// ReadManifest reads the manifest of an output folder.
func ReadManifest(dir string) (*Manifest, error) {
	name := filepath.Join(dir, manifestFile)
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("%s: has %d bytes, more than %d", name, info.Size(), maxManifest)
	}
	m := &Manifest{}
	if err := readJSON(name, m); err != nil {
		return nil, err
	}
	if m.Version != ManifestVersion {
		return nil, fmt.Errorf("%s: version %d, want %d", name, m.Version, ManifestVersion)
	}
	return m, nil
}

// present tells whether the files of the manifest are there with their sizes.
func (m *Manifest) present(dir string) bool {
	for name, want := range m.Files {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != want.Size {
			return false
		}
	}
	_, err := os.Stat(filepath.Join(dir, sumsFile))
	return err == nil && len(m.Files) > 0
}

// Verify compares every file of an output folder with its manifest's digests and
// returns every difference.
func (m *Manifest) Verify(dir string) error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		got, err := cache.Sum(filepath.Join(dir, name))
		if err != nil {
			faults = append(faults, err)
		} else if got != m.Files[name].SHA256 {
			faults = append(faults, fmt.Errorf("%s: sha256 is %s, the manifest says %s", filepath.Join(dir, name), got, m.Files[name].SHA256))
		}
	}
	return errors.Join(faults...)
}

// manifest describes the output and gives the folder its final name.
func (b *build) manifest(context.Context) error {
	var baked Baked
	if err := readJSON(b.baked.Path(bakedFile), &baked); err != nil {
		return err
	}
	inputs, err := json.Marshal(b.inputs)
	if err != nil {
		return err
	}
	m := &Manifest{
		Version: ManifestVersion, Image: b.Image.Name, Profile: b.Profile.Name, Tool: b.Version, Digest: b.digest,
		Kernel: baked.Kernel, Cmdline: b.cmdline(), Made: b.made, Modules: baked.Modules, Inputs: inputs, Files: map[string]File{},
	}
	entries, err := os.ReadDir(b.work)
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, e := range entries {
		name := filepath.Join(b.work, e.Name())
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		sum, err := cache.Sum(name)
		if err != nil {
			return err
		}
		m.Files[e.Name()] = File{Size: info.Size(), SHA256: sum}
		fmt.Fprintf(&sums, "%s  %s\n", sum, e.Name())
		b.event.Bytes += info.Size()
	}
	if err := writeJSON(filepath.Join(b.work, manifestFile), m); err != nil {
		return err
	}
	sum, err := cache.Sum(filepath.Join(b.work, manifestFile))
	if err != nil {
		return err
	}
	fmt.Fprintf(&sums, "%s  %s\n", sum, manifestFile)
	if err := os.WriteFile(filepath.Join(b.work, sumsFile), sums.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(b.work, 0o755); err != nil {
		return err
	}
	if err := publish(b.work, filepath.Clean(b.Output)); err != nil {
		return err
	}
	b.work = ""
	b.result = m
	return nil
}

// publish gives a finished folder its final name, in one step also where a
// former one has it.
func publish(work, final string) error {
	d, err := os.Open(work)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", work, err)
	}
	// Another build may publish the same name meanwhile: then it is there, and is exchanged.
	err = unix.Renameat2(unix.AT_FDCWD, work, unix.AT_FDCWD, final, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rename %s to %s: %w", work, final, err)
	}
	if _, err := ReadManifest(final); err != nil {
		return fmt.Errorf("%s is there and is not an image that ward built (%w)\nhint: name another folder with -o, or remove it", final, err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, work, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", work, final, err)
	}
	return os.RemoveAll(work) // it has the former image now
}
