// Package vulns compares what an image has installed with what the distribution
// itself says about vulnerabilities. The data is Debian's security tracker's, a
// file that somebody fetched: a site without a network brings it along.
//
//	https://security-tracker.debian.org/tracker/data/json
//
// It says what the distribution knows, not what is exploitable, and nothing about
// ward's own programs and their Go modules.
package vulns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	version "github.com/knqyf263/go-deb-version"
)

// Package is an installed package by its source, which is what the tracker knows.
type Package struct {
	Name          string // of the binary package
	Source        string
	SourceVersion string
}

// Finding is one vulnerability of one source package.
type Finding struct {
	ID        string   `json:"id"` // "CVE-2024-6387"
	Source    string   `json:"source"`
	Installed string   `json:"installed"`
	Fixed     string   `json:"fixed,omitempty"`   // first version without it; empty: there is none yet
	Urgency   string   `json:"urgency,omitempty"` // as the tracker has it
	Packages  []string `json:"packages"`          // that are installed from the source
}

// issue is what the tracker says of one vulnerability in one release.
type issue struct {
	Status  string `json:"status"` // open, resolved or undetermined
	Fixed   string `json:"fixed_version"`
	Urgency string `json:"urgency"`
}

// never is the tracker's version for "this release never had it".
const never = "0"

// Find reads the tracker's data, an object source -> id -> {releases: {codename:
// issue}}, and returns what the packages have, by source and id. Data in which none
// of the packages occurs is another release's or none at all, and is refused.
func Find(data io.Reader, codename string, packages []Package) ([]Finding, error) {
	installed := map[string]map[string][]string{} // source -> version -> packages
	for _, p := range packages {
		if installed[p.Source] == nil {
			installed[p.Source] = map[string][]string{}
		}
		installed[p.Source][p.SourceVersion] = append(installed[p.Source][p.SourceVersion], p.Name)
	}
	d := json.NewDecoder(data)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("vulnerabilities: is no JSON object"), err)
	}
	var all []Finding
	known := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("vulnerabilities: %w", err)
		}
		source, _ := key.(string)
		if installed[source] == nil {
			if err := d.Decode(&json.RawMessage{}); err != nil {
				return nil, fmt.Errorf("vulnerabilities: %s: %w", source, err)
			}
			continue
		}
		var issues map[string]struct {
			Releases map[string]issue `json:"releases"`
		}
		if err := d.Decode(&issues); err != nil {
			return nil, fmt.Errorf("vulnerabilities: %s: %w", source, err)
		}
		for id, i := range issues {
			release, ok := i.Releases[codename]
			if !ok {
				continue
			}
			known = true
			for has, names := range installed[source] {
				affected, err := release.affects(has)
				if err != nil {
					return nil, fmt.Errorf("vulnerabilities: %s of %s: %w", id, source, err)
				}
				if affected {
					slices.Sort(names)
					all = append(all, Finding{ID: id, Source: source, Installed: has, Fixed: release.Fixed, Urgency: release.Urgency, Packages: names})
				}
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("vulnerabilities: the data ends early: %w", err)
	}
	if !known {
		return nil, fmt.Errorf("vulnerabilities: the data says nothing about the packages of %s", codename)
	}
	slices.SortFunc(all, func(a, b Finding) int {
		return strings.Compare(a.Source+" "+a.ID+" "+a.Installed, b.Source+" "+b.ID+" "+b.Installed)
	})
	return all, nil
}

// affects tells whether an installed version has the issue. What nobody has
// determined counts: unknown is not absent.
func (i issue) affects(installed string) (bool, error) {
	if i.Fixed == never {
		return false, nil
	}
	if i.Fixed == "" {
		return i.Status != "resolved", nil
	}
	fixed, err := version.NewVersion(i.Fixed)
	if err != nil {
		return false, err
	}
	has, err := version.NewVersion(installed)
	if err != nil {
		return false, err
	}
	return has.LessThan(fixed), nil
}
