// Package sbom writes what an image is made of in two forms that other tools
// read: SPDX 2.3 and CycloneDX 1.6, both as JSON. What it knows comes from the
// distribution's package database and from the build information that the Go
// linker leaves in our own programs. Equal bills give equal bytes.
package sbom

import (
	"cmp"
	"debug/buildinfo"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	packageurl "github.com/package-url/packageurl-go"
)

// Bill is everything that is in one image.
type Bill struct {
	Name     string // of the image
	Digest   string // of its inputs, hex: its version
	Distro   string // "debian"
	Release  string // "12"
	Format   string // of its packages: "deb" (also when empty) or "rpm"
	Tool     string // version of ward
	Made     time.Time
	Packages []Package
	Programs []Program
}

// Package is an installed package of the distribution.
type Package struct {
	Name, Version, Arch string
	Source              string   // name of its source package
	Licences            []string // as its copyright file calls them, see Licences; empty: not known
}

// Program is one of our own programs.
type Program struct {
	Name    string
	Path    string // in the image: "/usr/lib/ward/init"
	SHA256  string // hex
	Version string
	Modules []Module
}

// Module is a Go module that is linked into a program; the standard library is
// the module "stdlib".
type Module struct {
	Path, Version string
}

// ReadModules returns what is linked into a program, in the order of the paths.
func ReadModules(file string) ([]Module, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", file, err)
	}
	all := []Module{{"stdlib", strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, Module{m.Path, m.Version})
	}
	slices.SortFunc(all, func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// purlTypes are the types of packages of the formats.
var purlTypes = map[string]string{"deb": packageurl.TypeDebian, "rpm": packageurl.TypeRPM}

// purl is how other tools find a package in lists of vulnerabilities.
func (b Bill) purl(p Package) string {
	q := packageurl.Qualifiers{{Key: "arch", Value: p.Arch}, {Key: "distro", Value: b.Distro + "-" + b.Release}}
	if p.Source != "" && p.Source != p.Name {
		q = append(q, packageurl.Qualifier{Key: "upstream", Value: p.Source})
	}
	return packageurl.NewPackageURL(cmp.Or(purlTypes[b.Format], packageurl.TypeDebian), b.Distro, p.Name, p.Version, q, "").ToString()
}

func (m Module) purl() string {
	dir, name := "", m.Path
	if i := strings.LastIndexByte(m.Path, '/'); i >= 0 {
		dir, name = m.Path[:i], m.Path[i+1:]
	}
	return packageurl.NewPackageURL(packageurl.TypeGolang, dir, name, m.Version, nil, "").ToString()
}

// id is a name of the bill that no other image's has.
func (b Bill) id(form string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("ward/sbom/"+form+"/"+b.Name+"/"+b.Digest)).URN()
}

// modules are those of all programs, each once.
func (b Bill) modules() []Module {
	var all []Module
	for _, p := range b.Programs {
		all = append(all, p.Modules...)
	}
	slices.SortFunc(all, func(a, b Module) int { return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version) })
	return slices.Compact(all)
}
