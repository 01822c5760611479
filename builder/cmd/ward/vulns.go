package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/vulns"
)

// vulnerabilities is ward vulnerabilities.
func (p *program) vulnerabilities() *cobra.Command {
	var data string
	var asJSON, fail bool
	cmd := &cobra.Command{
		Use:   "vulnerabilities DIR --data FILE [flags]",
		Short: "list what the distribution knows to be wrong with an image's packages",
		Long: `vulnerabilities compares the packages of a built image with the data of Debian's security
tracker, a file that you fetch, from
https://security-tracker.debian.org/tracker/data/json. A vulnerability that has a
fixed version goes away when the image is built with --update; one without is open in
the distribution. Nothing is said about ward's own programs, nor about what can be
exploited.`,
		Example: `  ward vulnerabilities out/debian-12 --data tracker.json
  ward vulnerabilities out/debian-12 --data tracker.json --fail     # for a CI`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, list []string) error {
			if data == "" {
				return usage("ward vulnerabilities: the tracker's data is missing\nhint: --data FILE")
			}
			m, err := builder.ReadManifest(list[0])
			if err != nil {
				return err
			}
			release, err := m.Release()
			if err != nil {
				return err
			}
			if release.Format != "deb" {
				return fmt.Errorf("%s: the tracker knows packages of format deb, these are %s", list[0], release.Format)
			}
			packages, err := builder.Packages(list[0])
			if err != nil {
				return err
			}
			var installed []vulns.Package
			for _, one := range packages {
				if one.SourceVersion == "" {
					return fmt.Errorf("%s: does not know the source's version of %s\nhint: an older ward built this image; build it again", list[0], one.Name)
				}
				installed = append(installed, vulns.Package{Name: one.Name, Source: one.Source, SourceVersion: one.SourceVersion})
			}
			f, err := os.Open(data)
			if err != nil {
				return err
			}
			defer f.Close()
			found, err := vulns.Find(f, release.Codename, installed)
			if err != nil {
				return fmt.Errorf("%s: %w", data, err)
			}
			return p.found(found, asJSON, fail)
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "file with the data of Debian's security tracker")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&fail, "fail", false, "exit code 1 if the distribution has fixed any of them")
	return cmd
}

// found prints findings, and is an error if one has a fix and fail is set.
func (p *program) found(all []vulns.Finding, asJSON, fail bool) error {
	fixed := 0
	for _, f := range all {
		if f.Fixed != "" {
			fixed++
		}
	}
	if asJSON {
		if all == nil {
			all = []vulns.Finding{}
		}
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		if err := e.Encode(all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			what := "no fix yet"
			if f.Fixed != "" {
				what = "fixed in " + f.Fixed
			}
			fmt.Fprintf(p.out, "%-16s %s %s: %s (%s)\n", f.ID, f.Source, f.Installed, what, f.Urgency)
		}
		fmt.Fprintf(p.out, "%d known, %d of them fixed by the distribution\n", len(all), fixed)
	}
	if fail && fixed > 0 {
		return fmt.Errorf("%d known vulnerabilities are fixed by the distribution\nhint: ward build --update", fixed)
	}
	return nil
}
