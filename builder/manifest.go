package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ward/builder/cache"
	"ward/images/distro"
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

// Release is the release that the image is of.
func (m *Manifest) Release() (distro.Release, error) {
	var in struct {
		Image struct {
			Distro  string `json:"distro"`
			Release string `json:"release"`
		} `json:"image"`
	}
	if err := json.Unmarshal(m.Inputs, &in); err != nil {
		return distro.Release{}, fmt.Errorf("%s: inputs: %w", manifestFile, err)
	}
	return distro.Find(in.Image.Distro, in.Image.Release)
}

// Arch is the architecture of the image.
func (m *Manifest) Arch() (string, error) {
	var in struct {
		Image struct {
			Arch string `json:"arch"`
		} `json:"image"`
	}
	if err := json.Unmarshal(m.Inputs, &in); err != nil {
		return "", fmt.Errorf("%s: inputs: %w", manifestFile, err)
	}
	return in.Image.Arch, nil
}

// unchanged returns what is no longer as it was built. A file with its size and
// its time, which is that of the packages, is taken for unchanged, unless all has
// to be read.
func (m *Manifest) unchanged(dir string, readAll bool) error {
	if len(m.Files) == 0 {
		return errors.New("the manifest names no file")
	}
	if err := m.checkSums(dir); err != nil {
		return err
	}
	var read []string
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if info.Size() != m.Files[name].Size {
			return fmt.Errorf("%s: has %d bytes, the manifest says %d", filepath.Join(dir, name), info.Size(), m.Files[name].Size)
		}
		if readAll || !info.ModTime().Equal(m.Made) {
			read = append(read, name)
		}
	}
	return m.verify(dir, read)
}

// Verify compares every file of an output folder with its manifest's digests and
// returns every difference.
func (m *Manifest) Verify(dir string) error { return m.verify(dir, slices.Sorted(maps.Keys(m.Files))) }

func (m *Manifest) verify(dir string, names []string) error {
	return each(names, func(_ int, name string) error {
		got, err := cache.Sum(filepath.Join(dir, name))
		if err == nil && got != m.Files[name].SHA256 {
			err = fmt.Errorf("%s: sha256 is %s, the manifest says %s", filepath.Join(dir, name), got, m.Files[name].SHA256)
		}
		return err
	})
}

// each calls f for each name, for several at a time, and joins the errors in order.
func each(names []string, f func(i int, name string) error) error {
	faults := make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			faults[i] = f(i, name)
			return nil
		})
	}
	group.Wait()
	return errors.Join(faults...)
}

// manifest describes the output and gives the folder its final name.
func (b *build) manifest(ctx context.Context) error {
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
		Kernel: baked.Kernel, Cmdline: baked.Line(b.cmdline()), Made: b.made, Modules: baked.Modules, Inputs: inputs,
	}
	if m.Files, err = describe(b.work); err != nil {
		return err
	}
	for _, f := range m.Files {
		b.event.Bytes += f.Size
	}
	if err := writeJSON(filepath.Join(b.work, manifestFile), m); err != nil {
		return err
	}
	own, err := cache.Sum(filepath.Join(b.work, manifestFile))
	if err != nil {
		return err
	}
	if err := b.attest(ctx, m, own); err != nil {
		return err
	}
	if err := b.gateOutput(); err != nil {
		return err
	}
	if err := writeSums(b.work, m.Files); err != nil {
		return err
	}
	if err := settle(b.work, b.made); err != nil {
		return err
	}
	if err := publish(b.work, filepath.Clean(b.Output)); err != nil {
		return err
	}
	b.work = ""
	b.result = m
	if err := b.tidy(ctx, baked); err != nil {
		b.Log.Warn("former systems stay in the cache", "why", err) // the output is there
	}
	return nil
}

// tidy removes from the cache the systems that this one replaces: those of the same
// image and profile with other inputs, half a gigabyte each. Whoever goes back to
// former inputs bakes once more.
func (b *build) tidy(ctx context.Context, now Baked) error {
	return b.cache.Supersede(ctx, b.baked.Kind, b.baked.Key, func(dir string) bool {
		var old Baked
		err := readJSON(filepath.Join(dir, bakedFile), &old)
		return err == nil && old.Image == now.Image && old.Profile == now.Profile
	})
}

// writeSums writes the digests of all files of a folder as sha256sum(1) reads them.
func writeSums(dir string, known map[string]File) error {
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, name := range names {
		sum := known[name].SHA256
		if sum == "" {
			if sum, err = cache.Sum(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(sums.String()), 0o644)
}

// describe reads the files of a folder.
func describe(dir string) (map[string]File, error) {
	names, err := namesIn(dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, len(names))
	err = each(names, func(i int, name string) error {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		sum, err := cache.Sum(path)
		files[i] = File{Size: info.Size(), SHA256: sum}
		return err
	})
	all := map[string]File{}
	for i, name := range names {
		all[name] = files[i]
	}
	return all, err
}

func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// settle gives the files of a finished folder their time, by which the next build
// sees that nobody wrote to them, and waits until they are on the disk.
func settle(dir string, made time.Time) error {
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	err = each(names, func(_ int, name string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.Chtimes(path, made, made), flush(path))
	})
	return errors.Join(err, os.Chmod(dir, 0o755), flush(dir))
}

// flush waits until a file or a folder is on the disk.
func flush(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// publish gives a finished folder its final name, in one step also where a
// former one has it.
func publish(work, final string) error {
	// Another build may publish the same name meanwhile: then it is there, and is exchanged.
	err := unix.Renameat2(unix.AT_FDCWD, work, unix.AT_FDCWD, final, unix.RENAME_NOREPLACE)
	if err == nil {
		return flush(filepath.Dir(final))
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
	return errors.Join(flush(filepath.Dir(final)), os.RemoveAll(work)) // work has the former image now
}
