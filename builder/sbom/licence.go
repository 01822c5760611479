package sbom

import (
	"bufio"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Licences reads the short names of the licences in a machine-readable copyright
// file of Debian (copyright-format 1.0), each once and in order. Any other file
// has none that a program could tell.
func Licences(r io.Reader) ([]string, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	var all []string
	for first := true; in.Scan(); first = false {
		line := in.Text()
		if first && (!strings.HasPrefix(line, "Format:") || !strings.Contains(line, "copyright-format")) {
			return nil, nil
		}
		if name, ok := strings.CutPrefix(line, "License:"); ok && strings.TrimSpace(name) != "" {
			all = append(all, strings.Join(strings.Fields(name), " "))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), in.Err()
}

// names are SPDX's names of licences that Debian calls otherwise, in lower case.
var names = map[string]string{
	"expat": "MIT", "mit": "MIT", "isc": "ISC", "zlib": "Zlib", "x11": "X11", "apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0",
	"openldap-2.8": "OLDAP-2.8", "mpl-2.0": "MPL-2.0", "mpl-1.1": "MPL-1.1", "bsl-1.0": "BSL-1.0", "fsfullr": "FSFULLR",
}

// gnu are the licences of the GNU project in the ways that people write them.
var gnu = regexp.MustCompile(`^(?i)(A?GPL|LGPL)-?v?([1-3])(\.[01])?(\+|-only|-or-later)?$`)

// gnuVersions are those that there are: copyright files also speak of others.
var gnuVersions = map[string]string{"GPL": "1.0 2.0 3.0", "LGPL": "2.0 2.1 3.0", "AGPL": "1.0 3.0"}

// spdxName is SPDX's name of one licence, or "" when there is none that is sure.
func spdxName(name string) string {
	if id := names[strings.ToLower(name)]; id != "" {
		return id
	}
	m := gnu.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	minor := m[3]
	if minor == "" {
		minor = ".0"
	}
	kind, number := strings.ToUpper(m[1]), m[2]+minor
	if !strings.Contains(gnuVersions[kind], number) {
		return ""
	}
	later := "-only"
	if m[4] == "+" || m[4] == "-or-later" {
		later = "-or-later"
	}
	return kind + "-" + number + later
}

// short is a name that a copyright file gives to a licence, not the licence itself.
var short = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_/-]{0,60}( with [A-Za-z0-9.+_ -]{1,60} exception)?$`)

// expression is the licences of a package as an SPDX expression, "" when none is
// known: each name holds for some of its files, so all of them hold. What SPDX has
// no name for becomes a LicenseRef, and refs what Debian calls it.
func expression(licences []string, refs map[string]string) string {
	var all []string
	for _, l := range licences {
		var either []string
		for part := range strings.SplitSeq(strings.ReplaceAll(l, ", ", " "), " or ") {
			var both []string
			for name := range strings.SplitSeq(part, " and ") {
				both = append(both, term(strings.TrimSpace(name), refs))
			}
			slices.Sort(both)
			either = append(either, group(slices.Compact(both), " AND "))
		}
		all = append(all, group(either, " OR "))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " AND ")
}

func group(terms []string, by string) string {
	if len(terms) == 1 {
		return terms[0]
	}
	return "(" + strings.Join(terms, by) + ")"
}

// notInRef are the characters that a LicenseRef may not have (SPDX 2.3, annex D).
var notInRef = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func term(name string, refs map[string]string) string {
	if id := spdxName(name); id != "" {
		return id
	}
	if !short.MatchString(name) {
		name = "other" // the text of a licence, without a name
	}
	ref := "LicenseRef-Debian-" + strings.Trim(notInRef.ReplaceAllString(strings.ReplaceAll(name, "+", "-or-later"), "-"), "-")
	refs[ref] = name
	return ref
}
