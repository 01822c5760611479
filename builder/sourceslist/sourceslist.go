// Package sourceslist says where apt takes packages from: while an image is built,
// and on the machine afterwards. Both have the same repositories; they differ in
// where the keys lie to which each line is bound (signed-by, sources.list(5)).
//
//	set, err := sourceslist.Of(img, release)
//	lines := set.Lines(hostPath)  // for the build: keys are files of this host
//	files := set.Machine()        // for the machine: its own files and keys
//
// It holds no name of a mirror: where an image names none, the set has no lines
// for the distribution's archive and the package manager knows its own.
package sourceslist

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"

	"ward/images"
	"ward/images/distro"
)

// maxKeyring is the most of a keyring that is read, in bytes.
const maxKeyring = 4 << 20

// keyrings is the folder of keys that an administrator adds (apt-secure(8)).
const keyrings = "etc/apt/keyrings"

// source is one line of sources.list(5).
type source struct {
	options    []string // without signed-by
	signedBy   string   // path on the machine
	url, suite string
	components []string
}

func (s source) line(signedBy string) string {
	options := append(slices.Clone(s.options), "signed-by="+signedBy)
	return strings.Join(append([]string{"deb", "[" + strings.Join(options, " ") + "]", s.url, s.suite}, s.components...), " ")
}

// repository is one beside the distribution's own.
type repository struct {
	source
	name     string
	priority int // 0: as the distribution's
}

// Set is where the packages of an image come from.
type Set struct {
	main   []source // empty: the package manager's own default
	extra  []repository
	keys   map[string][]byte // by path on the machine; those that it has not from a package
	barred []string          // packages that are never installed

	keyring string // of the distribution's archive, on the machine or a package's file
}

// File is a file of the machine, with its path relative to /.
type File struct {
	Path string `json:"path"`
	Data []byte `json:"data"`
}

// Of works out the sources of an image and reads its keyrings.
func Of(img *images.Image, r distro.Release) (*Set, error) {
	s := &Set{keys: map[string][]byte{}, barred: r.Barred}
	var faults []error
	key := func(name, file, armored string) string {
		data := []byte(armored)
		if file != "" {
			var err error
			if data, err = readKeyring(file); err != nil {
				faults = append(faults, err)
				return ""
			}
		}
		ext, err := check(data)
		if err != nil {
			faults = append(faults, fmt.Errorf("key of %s: %w", name, err))
			return ""
		}
		at := path.Join(keyrings, name+ext)
		s.keys[at] = data
		return "/" + at
	}
	signedBy := r.Keyring // where the distribution's own package has it, here and there
	switch {
	case img.Keyring != "" && len(img.Mirrors) > 0:
		signedBy = key("ward-archive", img.Keyring, "")
	case img.Keyring != "": // for the build alone: the machine has the distribution's sources
		signedBy = img.Keyring
	}
	s.keyring = signedBy
	for i, mirror := range img.Mirrors {
		if images.IsSourceLine(mirror) {
			s.main = append(s.main, whole(mirror, signedBy))
			continue
		}
		s.main = append(s.main, plain(img, r, mirror, signedBy, i)...)
	}
	for _, x := range img.Repositories {
		name := "ward-" + x.Name
		src := source{signedBy: key(name, x.Keyring, x.Key), url: x.URL, suite: x.Suite, components: x.Components}
		s.extra = append(s.extra, repository{at(src, x.Snapshot), name, x.Priority})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return s, nil
}

// whole is a line that somebody has written out. It is bound to a key like every
// other one, unless it says itself to which.
func whole(line, signedBy string) source {
	options, uri, suite, components, _ := images.SourceLine(line)
	s := source{signedBy: signedBy, url: uri, suite: suite, components: components}
	for _, o := range options {
		if file, ok := strings.CutPrefix(o, "signed-by="); ok {
			s.signedBy = file
			continue
		}
		s.options = append(s.options, o)
	}
	return s
}

// plain are the lines of a mirror that is named by URL. The security archive is
// asked once, however many mirrors there are.
func plain(img *images.Image, r distro.Release, mirror, signedBy string, i int) []source {
	lines := []source{{url: mirror, suite: r.Codename}}
	for _, pocket := range r.Pockets {
		lines = append(lines, source{url: mirror, suite: r.Codename + pocket})
	}
	first := slices.IndexFunc(img.Mirrors, func(m string) bool { return !images.IsSourceLine(m) })
	security := r.SecuritySuite
	if security == "" && img.SecurityMirror != "" {
		// The archive's own pocket, from another host.
		security = r.Codename + "-security"
		lines = slices.DeleteFunc(lines, func(s source) bool { return s.suite == security })
	}
	if security != "" && i == first {
		from := img.SecurityMirror
		if from == "" {
			from = beside(mirror, r.SecurityPath)
		}
		lines = append(lines, source{url: from, suite: security})
	}
	for n := range lines {
		lines[n].signedBy, lines[n].components = signedBy, r.Components
		lines[n] = at(lines[n], img.Snapshot)
	}
	return lines
}

// beside replaces the last folder of a URL.
func beside(mirror, folder string) string {
	u, err := url.Parse(mirror)
	if err != nil {
		return mirror
	}
	u.Path = path.Join("/", path.Dir(strings.TrimRight(u.Path, "/")), folder)
	return u.String()
}

// at is a source as it was at a time. The index of the past has expired.
func at(s source, snapshot string) source {
	if snapshot != "" {
		s.url = strings.TrimRight(s.url, "/") + "/" + snapshot
		s.options = append(s.options, "check-valid-until=no")
	}
	return s
}

// readKeyring reads a keyring of this host.
func readKeyring(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keyring %s does not exist\nhint: name the file that has the repository's key (keyring: FILE)", file)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyring {
		return nil, fmt.Errorf("keyring %s: want a regular file of at most %d bytes", file, maxKeyring)
	}
	return os.ReadFile(file)
}

// check refuses what is no public keys, and returns the end of the name by which
// apt tells armored keys from others.
func check(data []byte) (ext string, err error) {
	var all openpgp.EntityList
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN ")) {
		ext = ".asc"
		all, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	} else {
		ext = ".gpg"
		all, err = openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("is no OpenPGP keyring: %w", err)
	case len(all) == 0:
		return "", errors.New("has no OpenPGP key")
	case slices.ContainsFunc(all, func(e *openpgp.Entity) bool { return e.PrivateKey != nil }):
		return "", errors.New("has a secret key, which no machine may get\nhint: gpg --export --armor KEY writes the public one")
	}
	return ext, nil
}

// Default tells whether the distribution's archive comes from the package
// manager's own default.
func (s *Set) Default() bool { return len(s.main) == 0 }

// Text are all lines and pins, for hashes: what decides which packages there are.
func (s *Set) Text() []string {
	var all []string
	for _, f := range s.Machine() {
		all = append(all, f.Path, string(f.Data))
	}
	return all
}

// host is where a key of the machine lies on this host.
type host func(signedBy string) string

// Main are the lines of the distribution's archive for a build.
func (s *Set) Main(keys string) []string { return lines(s.main, s.host(keys)) }

// Lines are all lines for a build.
func (s *Set) Lines(keys string) []string {
	all := s.Main(keys)
	for _, x := range s.extra {
		all = append(all, x.line(s.host(keys)(x.signedBy)))
	}
	return all
}

// Build are the files that the tree of a build has before its first update: lines
// of further repositories, with keys in a folder of this host, and pins.
func (s *Set) Build(keys string) []File { return s.files(s.host(keys)) }

// host says where the keys are once WriteKeys has been there.
func (s *Set) host(keys string) host {
	return func(signedBy string) string {
		if _, own := s.keys[strings.TrimPrefix(signedBy, "/")]; own {
			return path.Join(keys, path.Base(signedBy))
		}
		return signedBy // a package's file, which this host has too
	}
}

// Keyring is the keyring of the distribution's archive on this host.
func (s *Set) Keyring(keys string) string { return s.host(keys)(s.keyring) }

// WriteKeys puts the keys where a build finds them: apt reads them as a user who
// may not enter every folder that a keyring lies in.
func (s *Set) WriteKeys(dir string) error {
	var faults []error
	for name, data := range s.keys {
		faults = append(faults, os.WriteFile(path.Join(dir, path.Base(name)), data, 0o644))
	}
	return errors.Join(faults...)
}

// own is where the machine has a key.
func own(signedBy string) string { return signedBy }

// Sources is sources.list(5) of the machine; empty: the package manager knows.
func (s *Set) Sources() string {
	if s.Default() {
		return ""
	}
	return string(text(lines(s.main, own)))
}

// Machine are the files of the machine, sorted by path.
func (s *Set) Machine() []File {
	all := s.files(own)
	if len(s.main) > 0 {
		all = append(all, File{"etc/apt/sources.list", []byte(s.Sources())})
	}
	for name, data := range s.keys {
		all = append(all, File{name, data})
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return all
}

func (s *Set) files(keys host) []File {
	var all []File
	for _, x := range s.extra {
		all = append(all, File{"etc/apt/sources.list.d/" + x.name + ".list", text([]string{x.line(keys(x.signedBy))})})
		if x.priority != 0 {
			// By its host: the name that a repository gives itself is its own to choose.
			pin := fmt.Sprintf("Package: *\nPin: origin %q\nPin-Priority: %d\n", hostOf(x.url), x.priority)
			all = append(all, File{"etc/apt/preferences.d/" + x.name, []byte(pin)})
		}
	}
	if len(s.barred) > 0 {
		pin := fmt.Sprintf("# ward: these are never installed, not even as a dependency.\nPackage: %s\nPin: release *\nPin-Priority: -1\n", strings.Join(s.barred, " "))
		all = append(all, File{"etc/apt/preferences.d/ward-barred", []byte(pin)})
	}
	return all
}

// hostOf is what apt calls the origin of a URL: its host without the port, and
// nothing for files (apt_preferences(5)).
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func lines(sources []source, keys host) []string {
	var all []string
	for _, s := range sources {
		all = append(all, s.line(keys(s.signedBy)))
	}
	return all
}

func text(lines []string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }
