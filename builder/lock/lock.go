// Package lock fixes the packages of an image: a lock names each one with its
// version, size and digest, and a store keeps their files by digest. A build
// from a lock asks no index, and with everything in the store no network.
package lock

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Version is the version of the lock's form; a reader refuses another.
const Version = 1

// RPM is the format of a lock of rpm packages.
const RPM = "rpm"

// Lock is the content of IMAGE.lock.
type Lock struct {
	Version  int       `json:"version"`
	Format   string    `json:"format,omitempty"` // of the packages: "rpm", or empty for deb
	Image    string    `json:"image"`
	Release  string    `json:"release"` // "debian-12"
	Arch     string    `json:"arch"`
	Base     string    `json:"base,omitempty"` // digest of the vendor's tree that the packages come on top of
	Made     time.Time `json:"made"`           // the build's SOURCE_DATE_EPOCH
	Tool     string    `json:"tool"`           // of the package manager that resolved it
	Wanted   []string  `json:"wanted"`         // the packages asked for; the rest are their dependencies
	Sources  string    `json:"sources"`        // sources.list(5) of the image, dnf.conf(5) for rpm
	Indexes  []Index   `json:"indexes"`        // what the repositories said on that day
	Packages []Package `json:"packages"`       // sorted by name
}

// Index is the signed index of one repository.
type Index struct {
	Name   string `json:"name"`   // apt's name of the file; the repository's URL for rpm
	SHA256 string `json:"sha256"` // of the InRelease file, or of repomd.xml
}

// Package is one package file.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	URL     string `json:"url"`
	Size    int64  `json:"size"` // bytes
	SHA256  string `json:"sha256"`
}

// File is the name of a package's file in a pool: without the version's epoch.
func (l *Lock) File(p Package) string {
	_, version, ok := strings.Cut(p.Version, ":")
	if !ok {
		version = p.Version
	}
	if l.Format == RPM {
		return fmt.Sprintf("%s-%s.%s.rpm", p.Name, version, p.Arch)
	}
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, version, p.Arch)
}

const (
	maxLock    = 64 << 20 // bytes of a lock file
	maxPackage = 4 << 30  // bytes of a package file
)

// forms are how a format's packages are named.
type forms struct{ name, version, arch *regexp.Regexp }

var formsOf = map[string]forms{
	"": { // deb-control(5), Package; deb-version(7)
		regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`), regexp.MustCompile(`^[0-9][A-Za-z0-9.+:~-]*$`), regexp.MustCompile(`^[a-z0-9-]+$`),
	},
	RPM: { // rpm-version(7): [epoch:]version-release
		regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_+.-]*$`), regexp.MustCompile(`^[0-9A-Za-z][A-Za-z0-9.+:~^_]*-[A-Za-z0-9.+~^_]+$`), regexp.MustCompile(`^[a-z0-9_]+$`),
	},
}

// Read reads and validates a lock.
func Read(path string) (*Lock, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist\nhint: ward lock IMAGE writes it", path)
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxLock {
		return nil, fmt.Errorf("%s: has %d bytes, more than %d", path, info.Size(), maxLock)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	l := &Lock{}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: ward lock writes it anew", path, err)
	}
	return l, nil
}

// validate returns every fault. A lock decides file names and what root
// installs, so nothing in it is taken on trust.
func (l *Lock) validate() error {
	if l.Version != Version {
		return fmt.Errorf("version %d, want %d", l.Version, Version)
	}
	form, ok := formsOf[l.Format]
	if !ok {
		return fmt.Errorf("format %q is not known", l.Format)
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(l.Packages) == 0 {
		fault("packages: none")
	}
	if l.Made.IsZero() || strings.TrimSpace(l.Sources) == "" {
		fault("made or sources is missing")
	}
	seen := map[string]bool{}
	for i, p := range l.Packages {
		at := fmt.Sprintf("packages[%d] %q", i, p.Name)
		if !form.name.MatchString(p.Name) || !form.version.MatchString(p.Version) || !form.arch.MatchString(p.Arch) {
			fault("%s: name, version or architecture has a form that no package has", at)
		}
		if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 {
			fault("%s: sha256 %q is not 64 hexadecimal digits", at, p.SHA256)
		}
		if p.Size <= 0 || p.Size > maxPackage {
			fault("%s: size %d", at, p.Size)
		}
		if !strings.HasPrefix(p.URL, "http://") && !strings.HasPrefix(p.URL, "https://") {
			fault("%s: url %q is neither http nor https", at, p.URL)
		}
		if seen[p.Name+":"+p.Arch] {
			fault("%s: is there twice", at)
		}
		seen[p.Name+":"+p.Arch] = true
	}
	return errors.Join(faults...)
}

// Write writes a lock; the file has its name only when it is whole.
func (l *Lock) Write(path string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}

func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// For returns an error if the lock is for another image, if the image starts from
// another vendor's tree, or if it asks for packages that it did not ask for when it
// was locked.
func (l *Lock) For(image, release, arch, base string, wanted []string) error {
	const hint = "\nhint: ward lock %s writes the lock anew"
	if l.Image != image || l.Release != release || l.Arch != arch {
		return fmt.Errorf("the lock is of image %s (%s, %s), not of %s (%s, %s)"+hint, l.Image, l.Release, l.Arch, image, release, arch, image)
	}
	if l.Base != base {
		return fmt.Errorf("the lock was made on a base with digest %q, the image's has %q"+hint, l.Base, base, image)
	}
	if !slices.Equal(l.Wanted, wanted) {
		var differ []string
		for _, p := range wanted {
			if !slices.Contains(l.Wanted, p) {
				differ = append(differ, "+"+p)
			}
		}
		for _, p := range l.Wanted {
			if !slices.Contains(wanted, p) {
				differ = append(differ, "-"+p)
			}
		}
		return fmt.Errorf("the image asks for other packages than were locked: %s"+hint, strings.Join(differ, " "), image)
	}
	return nil
}
