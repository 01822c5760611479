package builder

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// database is how one format's packages are asked for and told apart.
type database struct {
	query []string
	read  func(root *os.Root, fields []string) (Package, bool, error) // false: no package
	hold  func(name string) []string                                  // program that keeps a package as it is
	held  string                                                      // what it then says, after the name
}

// databases are those of the formats.
var databases = map[string]database{
	"deb": {
		query: []string{"dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n"},
		read: func(root *os.Root, f []string) (Package, bool, error) {
			names, err := licences(root, f[0])
			return Package{f[0], f[1], f[2], f[3], f[4], names}, true, err
		},
		hold: func(name string) []string { return []string{"apt-mark", "hold", name} },
		held: " set on hold",
	},
	"rpm": {
		query: []string{"rpm", "--query", "--all", `--queryformat=%{NAME}\t%{EVR}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n`},
		read:  readRPM,
		// dnf has no command for it without a plugin: dnf.conf(5), excludepkgs.
		hold: func(name string) []string {
			return []string{"sh", "-c", `echo "excludepkgs=$1" >>/etc/dnf/dnf.conf && echo "$1 is excluded"`, "hold", name}
		},
		held: " is excluded",
	},
}

// sourceRPM is the name of a source package: NAME-VERSION-RELEASE.src.rpm.
var sourceRPM = regexp.MustCompile(`^(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm$`)

// connectives join the licences of a package: small in old spec files, in capitals
// where they are SPDX's (docs.fedoraproject.org, Licensing).
var connectives = regexp.MustCompile(`[()]|\s+(?:and|or|AND|OR)\s+`)

// readRPM reads one line of rpm's answer. A key that packages are signed with is in
// rpm's database too, and is no package.
func readRPM(_ *os.Root, f []string) (Package, bool, error) {
	if f[0] == "gpg-pubkey" {
		return Package{}, false, nil
	}
	p := Package{Name: f[0], Version: f[1], Arch: f[2], Source: f[0], SourceVersion: f[1]}
	if m := sourceRPM.FindStringSubmatch(f[3]); m != nil {
		p.Source, p.SourceVersion = m[1], m[2]
	}
	for _, name := range connectives.Split(f[4], -1) {
		if name = strings.TrimSpace(name); name != "" {
			p.Licences = append(p.Licences, name)
		}
	}
	slices.Sort(p.Licences)
	p.Licences = slices.Compact(p.Licences)
	return p, true, nil
}

// parse reads what the query printed, in the order of the names.
func (d database) parse(root *os.Root, out string) ([]Package, error) {
	var all []Package
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("%s: cannot read %q", path.Base(d.query[0]), line)
		}
		p, ok, err := d.read(root, f)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil, errors.New(d.query[0] + ": no package is installed")
	}
	slices.SortStableFunc(all, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
