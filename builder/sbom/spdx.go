package sbom

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// unknown is SPDX's word for what nobody looked at.
const unknown = "NOASSERTION"

// WriteSPDX writes the bill as SPDX 2.3.
func (b Bill) WriteSPDX(w io.Writer) error {
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: b.Name, DocumentNamespace: b.id("spdx"),
		CreationInfo: &spdx.CreationInfo{
			Created: b.Made.UTC().Format(time.RFC3339), Creators: []common.Creator{{CreatorType: "Tool", Creator: "ward-" + b.Tool}},
		},
	}
	const image = "Image"
	doc.Packages = append(doc.Packages, &spdx.Package{
		PackageName: b.Name, PackageSPDXIdentifier: image, PackageVersion: b.Digest, PackageDownloadLocation: unknown,
		PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown, PrimaryPackagePurpose: "OPERATING-SYSTEM",
	})
	relate := func(from common.ElementID, how string, to common.ElementID) {
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.DocElementID{ElementRefID: from}, RefB: common.DocElementID{ElementRefID: to}, Relationship: how,
		})
	}
	relate("DOCUMENT", "DESCRIBES", image)
	refs := map[string]string{}
	for i, p := range b.Packages {
		id := common.ElementID("Package-" + strconv.Itoa(i+1))
		licence := expression(p.Licences, refs)
		if licence == "" {
			licence = unknown
		}
		doc.Packages = append(doc.Packages, &spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: id, PackageVersion: p.Version, PackageDownloadLocation: unknown,
			PackageSourceInfo: "built from the source package " + p.Source, PackageLicenseConcluded: unknown, PackageLicenseDeclared: licence,
			PackageCopyrightText: unknown, PackageExternalReferences: purlReference(b.purl(p)),
		})
		relate(image, "CONTAINS", id)
	}
	modules := map[Module]common.ElementID{}
	for i, m := range b.modules() {
		id := common.ElementID("Module-" + strconv.Itoa(i+1))
		modules[m] = id
		doc.Packages = append(doc.Packages, &spdx.Package{
			PackageName: m.Path, PackageSPDXIdentifier: id, PackageVersion: m.Version, PackageDownloadLocation: unknown,
			PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown, PackageExternalReferences: purlReference(m.purl()),
		})
	}
	for i, p := range b.Programs {
		id := common.ElementID("Program-" + strconv.Itoa(i+1))
		doc.Packages = append(doc.Packages, &spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: id, PackageVersion: p.Version, PackageFileName: p.Path, PackageDownloadLocation: unknown,
			PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: p.SHA256}}, PrimaryPackagePurpose: "APPLICATION",
			PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		})
		relate(image, "CONTAINS", id)
		for _, m := range p.Modules {
			relate(id, "STATIC_LINK", modules[m])
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		doc.OtherLicenses = append(doc.OtherLicenses, &spdx.OtherLicense{
			LicenseIdentifier: ref, LicenseName: refs[ref],
			ExtractedText: "See /usr/share/doc/PACKAGE/copyright in the image, where this licence is called " + strconv.Quote(refs[ref]) + ".",
		})
	}
	return json.Write(doc, w, json.Indent(" "))
}

func purlReference(purl string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}
