package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"ward/builder/sbom"
	"ward/firstboot"
)

// What is in the image, in two forms, see package sbom.
const (
	spdxFile      = "sbom.spdx.json"
	cyclonedxFile = "sbom.cdx.json"
)

// bill writes what the image is made of.
func (b *build) bill(context.Context) (err error) {
	bill := sbom.Bill{Name: b.Image.Name, Digest: b.digest, Distro: b.release.ID, Release: b.release.Version, Format: b.release.Format, Tool: b.Version, Made: b.made}
	var packages []Package
	if err := readJSON(b.baked.Path(packagesFile), &packages); err != nil {
		return err
	}
	for _, p := range packages {
		bill.Packages = append(bill.Packages, sbom.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, Source: p.Source, Licences: p.Licences})
	}
	for _, program := range []struct{ name, file, at string }{
		{"wardctl", b.Binaries.Wardctl, firstboot.WardctlPath}, {"ward-init", b.init(), initPath},
	} {
		modules, err := sbom.ReadModules(program.file)
		if err != nil {
			return err
		}
		bill.Programs = append(bill.Programs, sbom.Program{
			Name: program.name, Path: "/" + program.at, SHA256: b.inputs.Binaries[program.name], Version: b.Version, Modules: modules,
		})
	}
	for name, write := range map[string]func(io.Writer) error{spdxFile: bill.WriteSPDX, cyclonedxFile: bill.WriteCycloneDX} {
		f, err := os.Create(filepath.Join(b.work, name))
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// licences are the licences of a package, as its copyright file in the tree calls
// them; none if it has no such file or one that only people can read.
func licences(root *os.Root, name string) ([]string, error) {
	f, err := root.Open(path.Join("usr/share/doc", name, "copyright"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := sbom.Licences(f)
	if err != nil {
		return nil, fmt.Errorf("/usr/share/doc/%s/copyright: %w", name, err)
	}
	return all, nil
}
