// Package bundle makes one dated folder of evidence from the reports of many
// machines: an overview for people, OSCAL for auditors' tools, CSV for
// spreadsheets, JUnit for CI, the reports themselves byte for byte, and a
// manifest with every file's digest and the day until which it must be kept.
//
//	m, err := bundle.Collect([]string{"reports"}, "evidence-2026-03", bundle.Options{Now: time.Now()})
//	err = bundle.Verify("evidence-2026-03", "")
//
// What it writes helps to show what was observed. It never states that anybody
// complies with a rule.
package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ward/profiles/control"
	"ward/profiles/evidence"
)

// Options of a bundle.
type Options struct {
	Tool string    // version of ward
	Now  time.Time // when it is made
}

// Limits of what is read.
const (
	maxReport  = 8 << 20 // bytes of one report
	maxReports = 20_000
)

// Observation is one look at one machine.
type Observation struct {
	evidence.Part
	Host, Machine, Image, Digest, Tool, Profile, Applied string
	Time                                                 time.Time
	Source                                               string // file in the bundle
}

// Who is how the overview calls the machine.
func (o *Observation) Who() string { return cmp.Or(o.Host, o.Machine, "unnamed") }

// key tells machines apart even if two have one name.
func (o *Observation) key() string { return cmp.Or(o.Machine, o.Host) + "\x00" + o.Who() }

// source is one report file.
type source struct {
	from string // where it was read
	name string // its name in the bundle
	data []byte
}

// Collect reads the reports in dirs (files or folders with .json files, at any
// depth) and writes a bundle. The folder out appears whole or not at all and is
// never replaced. Every report that cannot be read is an error of its own: a
// bundle that lacks one in silence would be no evidence.
func Collect(dirs []string, out string, o Options) (*Manifest, error) {
	if _, err := os.Lstat(out); err == nil {
		return nil, fmt.Errorf("%s exists and is not replaced\nhint: evidence is added to, not changed; name a new folder", out)
	}
	sources, err := read(dirs)
	if err != nil {
		return nil, err
	}
	observations, err := decode(sources)
	if err != nil {
		return nil, err
	}
	parent := filepath.Dir(filepath.Clean(out))
	temp, err := os.MkdirTemp(parent, "."+filepath.Base(out)+"-")
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	defer os.RemoveAll(temp)
	m, err := write(temp, sources, observations, o)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if err := os.Rename(temp, out); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return m, syncDir(parent)
}

// read finds the report files. One that is there twice, byte for byte, counts once.
func read(dirs []string) ([]source, error) {
	var sources []source
	var faults []error
	seen := map[string]bool{}
	add := func(name string) {
		data, err := readLimited(name)
		if err != nil {
			faults = append(faults, err)
			return
		}
		sum := digest(data)
		if !seen[sum] {
			seen[sum] = true
			sources = append(sources, source{from: name, data: data})
		}
	}
	for _, dir := range dirs {
		found := 0
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Type().IsRegular() && (name == dir || strings.HasSuffix(name, ".json")) {
				found++
				add(name)
			}
			if len(sources) > maxReports {
				return fmt.Errorf("%s: more than %d reports", dir, maxReports)
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: there is no such file or folder", dir)
		}
		if err == nil && found == 0 {
			err = fmt.Errorf("%s holds no report (*.json)\nhint: ward test --report DIR and wardctl verify --json write them", dir)
		}
		faults = append(faults, err)
	}
	return sources, errors.Join(faults...)
}

func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxReport+1))
	if err == nil && len(data) > maxReport {
		err = fmt.Errorf("%s: has more than %d bytes", name, maxReport)
	}
	return data, err
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// decode reads every source as a machine's report or as a whole proof, oldest
// first, and names the source's copy in the bundle.
func decode(sources []source) ([]Observation, error) {
	var all []Observation
	var faults []error
	for i := range sources {
		s := &sources[i]
		found, err := observations(s.data)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w\nhint: only reports of ward and wardctl may be there; move other files away", s.from, err))
			continue
		}
		s.name = fmt.Sprintf("reports/%s-%s-%s.json", found[0].Time.UTC().Format("20060102T150405Z"), plain(found[0].Who()), digest(s.data)[:12])
		for _, o := range found {
			o.Source = s.name
			all = append(all, o)
		}
	}
	slices.SortStableFunc(all, func(a, b Observation) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Source, b.Source))
	})
	return all, errors.Join(faults...)
}

func observations(data []byte) ([]Observation, error) {
	if r, err := evidence.Decode(bytes.NewReader(data)); err == nil {
		return []Observation{ofReport("machine", r)}, nil
	} else if p, perr := evidence.DecodeProof(bytes.NewReader(data)); perr == nil && len(p.Parts) > 0 {
		return ofProof(p), nil
	} else if bytes.Contains(data, []byte(`"parts"`)) {
		return nil, cmp.Or(perr, errors.New("proof: has no parts"))
	} else {
		return nil, err
	}
}

func ofReport(name string, r *evidence.Report) Observation {
	return Observation{Part: evidence.Part{Name: name, Report: r}, Host: r.Host, Machine: r.Machine, Image: r.Image, Digest: r.Digest,
		Tool: r.Tool, Profile: r.Profile, Applied: r.Applied, Time: r.Time}
}

// ofProof takes a proof apart. A part without a report of its own is about the
// machine of the part before.
func ofProof(p *evidence.Proof) []Observation {
	var all []Observation
	last := Observation{Host: "test of " + p.Image, Time: p.Started}
	for _, part := range p.Parts {
		o := Observation{Part: part, Host: last.Host, Machine: last.Machine, Image: p.Image, Digest: p.Digest, Tool: p.Tool, Profile: last.Profile, Time: last.Time}
		if part.Report != nil {
			o = ofReport(part.Name, part.Report)
		}
		all, last = append(all, o), o
	}
	return all
}

// plain makes a name fit for a file.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), 48)]
}

// worst of a machine's findings about one control in one observation.
func worst(findings []control.Finding) control.Status {
	if len(findings) == 0 {
		return control.Unknown
	}
	status := control.Pass
	for _, f := range findings {
		switch {
		case f.Status == control.Fail:
			return control.Fail
		case f.Status != control.Pass && f.Status != control.Waived:
			status = control.Unknown
		case f.Status == control.Waived && status == control.Pass:
			status = control.Waived
		}
	}
	return status
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
