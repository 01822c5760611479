package sbom

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spdx/tools-golang/json"
)

func bill() Bill {
	return Bill{
		Name: "clinic", Digest: strings.Repeat("ab", 32), Distro: "debian", Release: "12", Tool: "v1", Made: time.Unix(1700000000, 0),
		Packages: []Package{
			{"libpam0g", "1.5.2-6+deb12u1", "amd64", "pam", []string{"BSD-3-clause or GPL-2+", "public-domain"}},
			{"openssh-server", "1:9.2p1-2", "amd64", "openssh", nil},
		},
		Programs: []Program{
			{"wardctl", "/usr/sbin/wardctl", strings.Repeat("cd", 32), "v1", []Module{{"github.com/google/uuid", "v1.6.0"}, {"stdlib", "1.26.0"}}},
			{"ward-init", "/usr/lib/ward/init", strings.Repeat("ef", 32), "v1", []Module{{"stdlib", "1.26.0"}}},
		},
	}
}

// The library that others read SPDX with reads back what was meant, and every name
// that a relationship has is that of something in the document.
func TestSPDXReadsBack(t *testing.T) {
	var b bytes.Buffer
	if err := bill().WriteSPDX(&b); err != nil {
		t.Fatal(err)
	}
	doc, err := json.Read(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || len(doc.Packages) != 1+2+2+2 {
		t.Fatalf("version %s with %d packages, want SPDX-2.3 with 7", doc.SPDXVersion, len(doc.Packages))
	}
	known := map[string]bool{"DOCUMENT": true}
	purls := map[string]string{}
	for _, p := range doc.Packages {
		if known[string(p.PackageSPDXIdentifier)] {
			t.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		known[string(p.PackageSPDXIdentifier)] = true
		for _, r := range p.PackageExternalReferences {
			purls[p.PackageName] = r.Locator
		}
		if p.PackageName == "libpam0g" && p.PackageLicenseDeclared != "(BSD-3-Clause OR GPL-2.0-or-later) AND LicenseRef-Debian-public-domain" {
			t.Errorf("licence of libpam0g: %s", p.PackageLicenseDeclared)
		}
	}
	for name, want := range map[string]string{
		"libpam0g":               "pkg:deb/debian/libpam0g@1.5.2-6%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=pam",
		"openssh-server":         "pkg:deb/debian/openssh-server@1:9.2p1-2?arch=amd64&distro=debian-12&upstream=openssh",
		"github.com/google/uuid": "pkg:golang/github.com/google/uuid@v1.6.0",
	} {
		if purls[name] != want {
			t.Errorf("purl of %s is %q, want %q", name, purls[name], want)
		}
	}
	if len(doc.Relationships) != 1+2+2+3 {
		t.Errorf("%d relationships, want 8", len(doc.Relationships))
	}
	for _, r := range doc.Relationships {
		if !known[string(r.RefA.ElementRefID)] || !known[string(r.RefB.ElementRefID)] {
			t.Errorf("%s %s %s: there is no such element", r.RefA.ElementRefID, r.Relationship, r.RefB.ElementRefID)
		}
	}
	if len(doc.OtherLicenses) != 1 || doc.OtherLicenses[0].LicenseName != "public-domain" {
		t.Errorf("other licences %+v, want public-domain", doc.OtherLicenses)
	}
}

func TestCycloneDXReadsBack(t *testing.T) {
	var b bytes.Buffer
	if err := bill().WriteCycloneDX(&b); err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&b, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || len(*bom.Components) != 6 {
		t.Fatalf("version %s with %d components, want 1.6 with 6", bom.SpecVersion, len(*bom.Components))
	}
	known := map[string]bool{bom.Metadata.Component.BOMRef: true}
	for _, c := range *bom.Components {
		if known[c.BOMRef] || c.BOMRef == "" {
			t.Errorf("reference %q of %s is empty or there twice", c.BOMRef, c.Name)
		}
		known[c.BOMRef] = true
	}
	n := 0
	for _, d := range *bom.Dependencies {
		for _, to := range *d.Dependencies {
			if n++; !known[d.Ref] || !known[to] {
				t.Errorf("%s depends on %s: there is no such component", d.Ref, to)
			}
		}
	}
	if n != 4+3 {
		t.Errorf("looked at %d dependencies, want 7", n)
	}
}

func TestEqualBillsGiveEqualBytes(t *testing.T) {
	for name, write := range map[string]func(*bytes.Buffer) error{
		"spdx":      func(b *bytes.Buffer) error { return bill().WriteSPDX(b) },
		"cyclonedx": func(b *bytes.Buffer) error { return bill().WriteCycloneDX(b) },
	} {
		var first bytes.Buffer
		if err := write(&first); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			var next bytes.Buffer
			if err := write(&next); err != nil || !bytes.Equal(first.Bytes(), next.Bytes()) {
				t.Fatalf("%s: two bills differ (%v)", name, err)
			}
		}
	}
}

func TestExpression(t *testing.T) {
	for in, want := range map[string]string{
		"GPL-2":                           "GPL-2.0-only",
		"GPLv3+":                          "GPL-3.0-or-later",
		"LGPL-2.1+":                       "LGPL-2.1-or-later",
		"GPL-2.0+":                        "GPL-2.0-or-later",
		"AGPL-3":                          "AGPL-3.0-only",
		"GPL-2.1+":                        "LicenseRef-Debian-GPL-2.1-or-later",
		"LGPL-1":                          "LicenseRef-Debian-LGPL-1",
		"Expat":                           "MIT",
		"GPL-1+ or Artistic":              "(GPL-1.0-or-later OR LicenseRef-Debian-Artistic)",
		"Expat and BSD-3-clause":          "(BSD-3-Clause AND MIT)",
		"GPL-2+ with Bison exception":     "LicenseRef-Debian-GPL-2-or-later-with-Bison-exception",
		"Permission to use, copy, modify": "LicenseRef-Debian-other",
		"":                                "",
	} {
		var list []string
		if in != "" {
			list = []string{in}
		}
		refs := map[string]string{}
		if got := expression(list, refs); got != want {
			t.Errorf("expression(%q) = %q, want %q", in, got, want)
		}
		for ref := range maps.Keys(refs) {
			if notInRef.MatchString(strings.TrimPrefix(ref, "LicenseRef-")) {
				t.Errorf("%q is no LicenseRef", ref)
			}
		}
	}
}

func TestLicences(t *testing.T) {
	got, err := Licences(strings.NewReader("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: Expat\nLicense: GPL-2+\nLicense:\n"))
	if err != nil || !slices.Equal(got, []string{"Expat", "GPL-2+"}) {
		t.Errorf("Licences() = %q, %v", got, err)
	}
	if got, err := Licences(strings.NewReader("This package was written by\nLicense: GPL-2\n")); err != nil || got != nil {
		t.Errorf("Licences(free text) = %q, %v, want none", got, err)
	}
}

// The test's own program has build information, and the standard library in it.
func TestReadModules(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadModules(self)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(got, func(m Module) bool { return m.Path == "stdlib" && m.Version != "" }) {
		t.Errorf("ReadModules() = %v, want stdlib in it", got)
	}
	if _, err := ReadModules("sbom_test.go"); err == nil || !strings.Contains(err.Error(), "sbom_test.go") {
		t.Errorf("ReadModules(text) = %v, want an error that names the file", err)
	}
}
