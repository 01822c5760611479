package sbom

import (
	"io"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// WriteCycloneDX writes the bill as CycloneDX 1.6.
func (b Bill) WriteCycloneDX(w io.Writer) error {
	image := "image:" + b.Name
	bom := cdx.NewBOM()
	bom.SerialNumber = b.id("cyclonedx")
	bom.Metadata = &cdx.Metadata{
		Timestamp: b.Made.UTC().Format(time.RFC3339),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "ward", Version: b.Tool}}},
		Component: &cdx.Component{Type: cdx.ComponentTypeOS, BOMRef: image, Name: b.Name, Version: b.Digest},
	}
	var components []cdx.Component
	var inside []string
	add := func(c cdx.Component) {
		components = append(components, c)
	}
	for _, p := range b.Packages {
		c := cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: b.purl(p), Name: p.Name, Version: p.Version, PackageURL: b.purl(p)}
		if e := expression(p.Licences, map[string]string{}); e != "" {
			c.Licenses = &cdx.Licenses{{Expression: e}}
		}
		add(c)
		inside = append(inside, c.BOMRef)
	}
	for _, m := range b.modules() {
		add(cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: m.purl(), Name: m.Path, Version: m.Version, PackageURL: m.purl()})
	}
	var dependencies []cdx.Dependency
	for _, p := range b.Programs {
		ref := "program:" + strings.TrimPrefix(p.Path, "/")
		add(cdx.Component{
			Type: cdx.ComponentTypeApplication, BOMRef: ref, Name: p.Name, Version: p.Version,
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}},
			Evidence: &cdx.Evidence{Occurrences: &[]cdx.EvidenceOccurrence{{Location: p.Path}}},
		})
		inside = append(inside, ref)
		var linked []string
		for _, m := range p.Modules {
			linked = append(linked, m.purl())
		}
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &linked})
	}
	dependencies = append([]cdx.Dependency{{Ref: image, Dependencies: &inside}}, dependencies...)
	bom.Components, bom.Dependencies = &components, &dependencies
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}
