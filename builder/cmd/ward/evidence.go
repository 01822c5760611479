package main

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"ward/builder/bundle"
)

var sha256Hex = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// evidence is ward evidence.
func (p *program) evidence() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence COMMAND",
		Short: "collect reports of many machines, and find changed ones",
		Args:  p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("ward evidence: no command is given")
		},
	}
	var output string
	collect := &cobra.Command{
		Use:   "collect DIR... [flags]",
		Short: "make one dated bundle from the reports of many machines",
		Long: `collect reads every report (*.json) below the folders, as "ward test --report" and
"wardctl verify --json" write them, and makes one folder: an overview for people
(index.html), OSCAL assessment results and component definition, CSV, JUnit, the
reports themselves, and a manifest with every digest and the day until which the
folder must be kept. A report that cannot be read is an error.

It prints the sha256 of the manifest. Keep it elsewhere: with it "ward evidence
verify" also finds a change of files and manifest together.`,
		Example: `  ward evidence collect reports/
  ward evidence collect db1/ db2/ -o evidence-2026-03`,
		Args: func(cmd *cobra.Command, list []string) error { return args(1, max(1, len(list)))(cmd, list) },
		RunE: func(_ *cobra.Command, dirs []string) error {
			now := time.Now()
			if output == "" {
				output = "evidence-" + now.UTC().Format("20060102T150405Z")
			}
			m, err := bundle.Collect(dirs, output, bundle.Options{Tool: ownVersion(), Now: now})
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s: %d observations of %d machines, keep until %s at least\n", output, m.Observations, m.Machines, m.KeepUntil)
			fmt.Fprintf(p.out, "sha256 of its manifest: %s\n", m.Digest())
			return nil
		},
	}
	collect.Flags().StringVarP(&output, "output", "o", "", "folder of the bundle (default evidence-TIME)")
	var want string
	verify := &cobra.Command{
		Use:   "verify DIR [flags]",
		Short: "find files of a bundle that were changed, lost or added",
		Example: `  ward evidence verify evidence-2026-03
  ward evidence verify evidence-2026-03 --digest 9f86d081...`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, list []string) error {
			if want != "" && !sha256Hex.MatchString(want) {
				return usage("ward evidence verify: --digest is no sha256 of 64 hexadecimal digits")
			}
			m, err := bundle.Verify(list[0], want)
			if err != nil {
				return errors.Join(err, errors.New("the bundle is not as it was made"))
			}
			fmt.Fprintf(p.out, "%s: %d files as they were made on %s\n", list[0], len(m.Files), m.Made.Format(time.DateOnly))
			if want == "" {
				fmt.Fprintf(p.out, "sha256 of its manifest: %s (--digest compares it with the one of that day)\n", m.Digest())
			}
			return nil
		},
	}
	verify.Flags().StringVar(&want, "digest", "", "sha256 of the manifest, as collect printed it")
	cmd.AddCommand(collect, verify)
	return cmd
}
