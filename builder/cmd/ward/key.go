package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ward/builder/key"
	"ward/profiles"
)

// defaultVolume is the PHI volume that every image has.
const defaultVolume = profiles.DataName

// key is ward key.
func (p *program) key() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key COMMAND",
		Short: "make and check key devices",
		Long: `A key device is a small disk image with the key files of one machine's PHI volumes. It
stays outside the machine's own disk and is attached at boot. Whoever has both has
the data; whoever loses the key has lost it.`,
		Args: p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("ward key: no command is given")
		},
	}
	var volumes []string
	make := &cobra.Command{
		Use:   "new FILE [flags]",
		Short: "make a key device with new keys",
		Long: `new writes an image of a key device: a file system with the label WARD-KEY and, for
each volume, a file VOLUME.key of 64 random bytes, mode 0400. The image has mode
0600. A file that exists is never replaced.`,
		Example: `  ward key new key.img
  ward key new key.img --volume phi-data --volume archive`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := key.New(cmd.Context(), p.log, args[0], volumes); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s holds new keys of %d volume(s); keep a copy where the machine's disk is not\n", args[0], len(volumes))
			return nil
		},
	}
	var checked []string
	check := &cobra.Command{
		Use:     "check FILE [flags]",
		Short:   "tell whether a file is a key device that init can use",
		Example: `  ward key check key.img`,
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := key.Check(cmd.Context(), p.log, args[0], checked); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s holds keys of %d volume(s)\n", args[0], len(checked))
			return nil
		},
	}
	make.Flags().StringSliceVar(&volumes, "volume", []string{defaultVolume}, "volume to make a key for; may be given again")
	check.Flags().StringSliceVar(&checked, "volume", []string{defaultVolume}, "volume whose key must be there; may be given again")
	cmd.AddCommand(make, check, p.keyRecover(), p.keyPXE(), p.keySecureBoot())
	return cmd
}
