package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/doctor"
	"ward/images"
)

// doctor is ward doctor.
func (p *program) doctor() *cobra.Command {
	var cache, output string
	var more []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "say what this machine lacks for building and testing, and how to get it",
		Long: `doctor looks for the programs, namespaces, subordinate ids and the room that a build of
the images that ward knows needs, and for what ward test needs beside. It changes
nothing. Exit code: 0 a build has what it needs; 1 it does not.`,
		Example: `  ward doctor
  ward doctor --image ./clinic-image.yaml
  ward doctor --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec := doctor.Spec{Cache: cache, Output: output, Keyrings: map[string]string{}, Log: p.log}
			if spec.Cache == "" {
				var err error
				if spec.Cache, err = builder.DefaultCache(); err != nil {
					return err
				}
			}
			// Each image that comes with ward needs its own keyring; who builds one needs no other.
			spec.KeyringNeed = doctor.Build
			if len(more) == 0 {
				more, spec.KeyringNeed = images.Names(), doctor.Some
			}
			for _, name := range more {
				img, err := images.Load(name)
				if err != nil {
					return err
				}
				row, err := img.Row()
				if err != nil {
					return err
				}
				switch {
				case img.Keyring != "":
					spec.Keyrings[img.Keyring] = row.KeyringBy
				case row.Format == "deb": // the keys of an rpm release's repositories are named with these
					spec.Keyrings[row.Keyring] = row.KeyringBy
				}
				spec.BIOS = spec.BIOS || img.BIOS()
				processor, err := img.Processor()
				if err != nil {
					return err
				}
				if processor.Name != runtime.GOARCH && !slices.Contains(spec.Machines, processor.Machine) {
					spec.Machines = append(spec.Machines, processor.Machine)
				}
			}
			results, ok := doctor.Look(cmd.Context(), doctor.Checks(spec))
			if _, err := builder.Beside(); err != nil {
				ok = false
				results = append(results, doctor.Result{Name: "ward's own programs", Need: doctor.Build, Missing: "not in the folder of ward", Remedy: "make build puts ward, wardctl, ward-init and ward-init-net together"})
			}
			if err := p.results(results, asJSON); err != nil {
				return err
			}
			if !ok {
				return errors.New("this machine cannot build images yet")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cache, "cache", "", "folder of the cache (default ~/.cache/ward)")
	f.StringVarP(&output, "output", "o", "out", "folder for images")
	f.StringSliceVar(&more, "image", nil, "images and image files that are to be built (default all that come with ward)")
	f.BoolVar(&asJSON, "json", false, "print the results as JSON")
	return cmd
}

func (p *program) results(results []doctor.Result, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		return e.Encode(results)
	}
	for _, r := range results {
		var err error
		if r.Missing == "" {
			_, err = fmt.Fprintf(p.out, "ok       %-22s %s\n", r.Name, r.Found)
		} else {
			word := "missing"
			if r.Need != doctor.Build {
				word = string(r.Need)
			}
			_, err = fmt.Fprintf(p.out, "%-8s %-22s %s\nhint: %s\n", word, r.Name, r.Missing, r.Remedy)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
