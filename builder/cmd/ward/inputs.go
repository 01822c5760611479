package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ward/images"
	"ward/images/strict"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

// list is ward list.
func (p *program) list() *cobra.Command {
	var matrix, count bool
	var m matrixSpec
	index := -1
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "list the images and profiles that ward knows",
		Example: `  ward list
  ward list --matrix                       # JSON for a CI matrix: image x profile
  ward list --matrix --index 1             # the pair with this index: IMAGE PROFILE
  ward list --matrix --profiles hipaa,./clinic.yaml --count`,
		Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if !matrix && (count || index >= 0 || len(m.images) > 0 || len(m.profiles) > 0) {
				return usage("ward list: --count, --index, --images and --profiles go with --matrix")
			}
			if matrix {
				return p.matrix(m, count, index)
			}
			fmt.Fprintln(p.out, "images:")
			for _, name := range images.Names() {
				img, err := images.Load(name)
				if err != nil {
					return err
				}
				fmt.Fprintf(p.out, "  %-14s %s %s, %s, ESP %s, root %s, PHI %s\n", name, img.Distro, img.Release, img.Arch, img.Disk.ESP, img.Disk.Root, img.Disk.PHI)
			}
			fmt.Fprintln(p.out, "profiles:")
			for _, name := range profiles.Names() {
				prof, err := profiles.Load(name)
				if err != nil {
					return err
				}
				fmt.Fprintf(p.out, "  %-14s %s\n", name, prof.Description)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&matrix, "matrix", false, `print {"include":[{"image":...,"profile":...}]} as JSON`)
	f.StringSliceVar(&m.images, "images", nil, "with --matrix: these images, names or files (default all that ward knows)")
	f.StringSliceVar(&m.profiles, "profiles", nil, "with --matrix: these profiles, names or files (default all that ward knows)")
	f.BoolVar(&count, "count", false, "with --matrix: print how many pairs there are")
	f.IntVar(&index, "index", -1, "with --matrix: print the pair with this index, from 0, as IMAGE PROFILE")
	return cmd
}

// matrixSpec says of which images and profiles a matrix is; empty: of all.
type matrixSpec struct{ images, profiles []string }

// cell is one pair of a matrix. Image and Profile are what ward build takes.
type cell struct {
	Image   string `json:"image"`
	Profile string `json:"profile"`
	Distro  string `json:"distro"`
	Release string `json:"release"`
	Arch    string `json:"arch"`
}

// cells are all pairs, in order: the index of a pair means the same on every machine.
func (m matrixSpec) cells() ([]cell, error) {
	if len(m.images) == 0 {
		m.images = images.Names()
	}
	if len(m.profiles) == 0 {
		m.profiles = profiles.Names()
	}
	var all []cell
	var faults []error
	for _, name := range m.images {
		for _, profile := range m.profiles {
			img, _, err := inputs(name, profile)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			all = append(all, cell{name, profile, img.Distro, img.Release, img.Arch})
		}
	}
	return all, errors.Join(faults...)
}

// matrix prints what the matrix of a CI job wants, or one pair of it.
func (p *program) matrix(m matrixSpec, count bool, index int) error {
	all, err := m.cells()
	if err != nil {
		return err
	}
	switch {
	case count:
		fmt.Fprintln(p.out, len(all))
		return nil
	case index >= len(all):
		return fmt.Errorf("there are %d pairs of image and profile, and none has the index %d", len(all), index)
	case index >= 0:
		fmt.Fprintln(p.out, all[index].Image, all[index].Profile)
		return nil
	}
	return json.NewEncoder(p.out).Encode(struct {
		Include []cell `json:"include"`
	}{all})
}

// machine is ward machine.
func (p *program) machine() *cobra.Command {
	var output, profile string
	var force bool
	cmd := &cobra.Command{
		Use:   "machine FILE.yaml -o config.ign",
		Short: "compile a machine file to an Ignition config",
		Long: `machine reads who one machine is (its name, people and their keys, log server,
backup repository) and compiles it to an Ignition config, which the machine gets at
boot. Everything that is wrong with the file is said at once. The config holds the
machine's secrets and is written with mode 0600.

"ward schema machine" prints the schema of the file for editors.`,
		Example: `  ward machine db1.yaml -o db1.ign
  ward machine db1.yaml            # only check it`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			config, err := compile(args[0], profile)
			if err != nil {
				return err
			}
			if output == "" {
				fmt.Fprintf(p.out, "%s is good; -o FILE writes its Ignition config\n", args[0])
				return nil
			}
			if _, err := os.Lstat(output); err == nil && !force {
				return fmt.Errorf("%s exists and is not replaced\nhint: --force replaces it", output)
			}
			return writeSecret(output, config)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "file of the config; without it the file is only checked")
	f.StringVarP(&profile, "profile", "p", "hipaa", "profile of the image that the machine gets; "+profileHelp)
	f.BoolVar(&force, "force", false, "replace the file of the config")
	return cmd
}

// compile reads a machine file and checks its people against the profile too,
// whose own names they cannot have.
func compile(file, profile string) ([]byte, error) {
	prof, err := profiles.Load(profile)
	if err != nil {
		return nil, err
	}
	m, err := machine.Load(file)
	if err != nil {
		return nil, err
	}
	if err := control.ValidatePeople(m.People, prof); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return machine.Compile(m)
}

// writeSecret writes a file that only its owner may read, whole or not at all.
func writeSecret(file string, content []byte) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	_, err = temp.Write(content)
	if e := temp.Sync(); err == nil {
		err = e
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// schemas are the kinds of files that have one.
var schemas = []struct {
	name string
	text func() []byte
}{{"image", images.Schema}, {"profile", profiles.Schema}, {"machine", machine.Schema}}

// schema is ward schema.
func (p *program) schema() *cobra.Command {
	var names []string
	for _, s := range schemas {
		names = append(names, s.name)
	}
	return &cobra.Command{
		Use:   "schema KIND",
		Short: "print the JSON Schema of image, profile or machine files",
		Long: `schema prints the JSON Schema (draft 2020-12) of a kind of file: image, profile or
machine. With it an editor completes keys, shows what they mean and marks what does
not fit. In a YAML file say where it is:

  # yaml-language-server: $schema=./machine.schema.json`,
		Example:   `  ward schema machine > machine.schema.json`,
		Args:      args(1, 1),
		ValidArgs: names,
		RunE: func(_ *cobra.Command, args []string) error {
			for _, s := range schemas {
				if s.name == args[0] {
					_, err := p.out.Write(s.text())
					return err
				}
			}
			hint := "it is " + strict.OneOf(names)
			if near := strict.Nearest(args[0], names); near != "" {
				hint = "did you mean " + near + "?"
			}
			return usage("ward schema: there is no kind %q\nhint: %s", args[0], hint)
		},
	}
}
