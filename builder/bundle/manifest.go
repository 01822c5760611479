package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ManifestVersion is the version of the manifest's form; Verify refuses another.
const ManifestVersion = 1

const manifestFile = "manifest.json"

// keepYears is how long documentation of what the Security Rule requires is
// kept, from its making or from when it last was in effect: 45 CFR 164.316(b)(2)(i).
const keepYears = 6

// Manifest lists what a bundle holds.
type Manifest struct {
	Version      int             `json:"version"`
	Tool         string          `json:"tool"`
	Made         time.Time       `json:"made"`
	KeepUntil    string          `json:"keep_until"` // YYYY-MM-DD, 45 CFR 164.316(b)(2)(i)
	Statement    string          `json:"statement"`
	Machines     int             `json:"machines"`
	Observations int             `json:"observations"`
	First        time.Time       `json:"first"` // the oldest observation
	Last         time.Time       `json:"last"`  // the newest
	Files        map[string]File `json:"files"`

	digest string
}

// Digest is the sha256 of the manifest itself. Kept elsewhere it shows that
// nobody changed files and manifest together.
func (m *Manifest) Digest() string { return m.digest }

// File is one file of a bundle.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Statement is what a bundle says of itself.
const Statement = "These documents help to show what was observed on the named machines at the stated times. They do not state that anybody complies with a rule."

// write fills the folder of a new bundle.
func write(dir string, sources []source, all []Observation, o Options) (*Manifest, error) {
	m := &Manifest{Version: ManifestVersion, Tool: o.Tool, Made: o.Now.UTC().Truncate(time.Second), Statement: Statement,
		KeepUntil: o.Now.UTC().AddDate(keepYears, 0, 0).Format(time.DateOnly), Observations: len(all), Files: map[string]File{}}
	machines := map[string]bool{}
	for i := range all {
		machines[all[i].key()] = true
	}
	m.Machines, m.First, m.Last = len(machines), all[0].Time.UTC(), all[len(all)-1].Time.UTC()
	if err := os.Mkdir(filepath.Join(dir, "reports"), 0o755); err != nil {
		return nil, err
	}
	put := func(name string, data []byte) error {
		m.Files[name] = File{int64(len(data)), digest(data)}
		return writeFile(filepath.Join(dir, name), data)
	}
	for _, s := range sources {
		if err := put(s.name, s.data); err != nil {
			return nil, err
		}
	}
	for _, d := range []struct {
		name string
		make func(*bytes.Buffer, []Observation, *Manifest) error
	}{
		{"index.html", overview},
		{"findings.csv", table},
		{"junit.xml", junit},
		{"assessment-results.json", assessmentResults},
		{"component-definition.json", componentDefinition},
	} {
		var b bytes.Buffer
		if err := d.make(&b, all, m); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		if err := put(d.name, b.Bytes()); err != nil {
			return nil, err
		}
	}
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		fmt.Fprintf(&sums, "%s  %s\n", m.Files[name].SHA256, name) // sha256sum -c reads it
	}
	if err := put("SHA256SUMS", []byte(sums.String())); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	m.digest = digest(data)
	return m, writeFile(filepath.Join(dir, manifestFile), data)
}

func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// Verify looks for every file of a bundle that was changed, is missing or was
// added since. want is the manifest's digest from when the bundle was made, or
// "": without it, whoever changes file and manifest together is not noticed.
func Verify(dir, want string) (*Manifest, error) {
	data, err := readLimited(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no bundle of evidence: there is no %s", dir, manifestFile)
	}
	if err != nil {
		return nil, err
	}
	m := &Manifest{digest: digest(data)}
	if want != "" && !strings.EqualFold(want, m.digest) {
		return nil, fmt.Errorf("%s was changed: its sha256 is %s, not %s", filepath.Join(dir, manifestFile), m.digest, want)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, manifestFile), err)
	}
	if m.Version != ManifestVersion {
		return nil, fmt.Errorf("%s: version %d, want %d", filepath.Join(dir, manifestFile), m.Version, ManifestVersion)
	}
	return m, errors.Join(changed(dir, m), added(dir, m))
}

func changed(dir string, m *Manifest) error {
	root, err := os.OpenRoot(dir) // a name in a manifest cannot lead out of the bundle
	if err != nil {
		return err
	}
	defer root.Close()
	if len(m.Files) == 0 {
		return fmt.Errorf("%s: lists no file", filepath.Join(dir, manifestFile))
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		data, err := root.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, fmt.Errorf("%s is missing", filepath.Join(dir, name)))
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", filepath.Join(dir, name), err))
		case digest(data) != m.Files[name].SHA256:
			faults = append(faults, fmt.Errorf("%s was changed: its sha256 is %s, not %s", filepath.Join(dir, name), digest(data), m.Files[name].SHA256))
		}
	}
	return errors.Join(faults...)
}

func added(dir string, m *Manifest) error {
	var faults []error
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if _, known := m.Files[filepath.ToSlash(rel)]; err == nil && !known && rel != manifestFile {
			faults = append(faults, fmt.Errorf("%s was added", name))
		}
		return err
	})
	return errors.Join(append(faults, err)...)
}
