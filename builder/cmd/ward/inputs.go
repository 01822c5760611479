package main

import (
	"encoding/json"
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
	var matrix bool
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "list the images and profiles that ward knows",
		Example: `  ward list
  ward list --matrix        # JSON for a CI matrix: image x profile`,
		Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if matrix {
				return p.matrix()
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
	cmd.Flags().BoolVar(&matrix, "matrix", false, `print {"include":[{"image":...,"profile":...}]} as JSON`)
	return cmd
}

// matrix prints what the matrix of a CI job wants.
func (p *program) matrix() error {
	type cell struct {
		Image   string `json:"image"`
		Profile string `json:"profile"`
		Distro  string `json:"distro"`
		Release string `json:"release"`
		Arch    string `json:"arch"`
	}
	var m struct {
		Include []cell `json:"include"`
	}
	for _, name := range images.Names() {
		img, err := images.Load(name)
		if err != nil {
			return err
		}
		for _, prof := range profiles.Names() {
			m.Include = append(m.Include, cell{name, prof, img.Distro, img.Release, img.Arch})
		}
	}
	return json.NewEncoder(p.out).Encode(m)
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
