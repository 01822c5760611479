package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ward/firstboot"
	"ward/profiles"
)

func doctorCommand(open opener) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "name what is wrong, why, and what to do about it",
		Long: `doctor asks what usually goes wrong on such a machine. Exit code: 0 nothing is
wrong, 1 something is, 2 something could not be looked at.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			all := m.Doctor(c.Context())
			out, code := c.OutOrStdout(), 0
			for _, d := range all {
				if len(d.Troubles) > 0 {
					code = 1
				} else if d.Err != "" && code == 0 {
					code = 2
				}
			}
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				if err := e.Encode(all); err != nil {
					return err
				}
			} else {
				for _, d := range all {
					switch {
					case len(d.Troubles) > 0:
						for _, t := range d.Troubles {
							fmt.Fprintf(out, "%-16s  %s\n%18swhy:    %s\n%18sremedy: %s\n", d.Name, t.What, "", t.Cause, "", t.Remedy)
						}
					case d.Err != "":
						fmt.Fprintf(out, "%-16s  could not look: %s\n", d.Name, d.Err)
					default:
						fmt.Fprintf(out, "%-16s  well\n", d.Name)
					}
				}
			}
			if code != 0 {
				return exit(code)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the answers as JSON")
	return c
}

func unlockCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "unlock USER",
		Short: "let a person who was locked out try again",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			n, err := m.Unlock(c.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s may try again; %d failed logins are forgotten here and stay in the audit log\n", args[0], n)
			return nil
		},
	}
}

func keyCommand(open opener) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "look at, rotate and add keys of a PHI volume"}
	var asJSON bool
	volume := profiles.DataName
	c.PersistentFlags().StringVar(&volume, "volume", volume, "`NAME` of the volume")
	status := &cobra.Command{
		Use:   "status",
		Short: "which keys open the volume, and where the key file is found now",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			s, err := m.KeyStatus(c.Context(), volume)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				return e.Encode(s)
			}
			source := s.Source
			switch {
			case source == "" && s.Sealed != "":
				source = "nowhere: the next boot has this volume only if the TPM opens it"
			case source == "":
				source = "nowhere: the next boot is without this volume"
			}
			fmt.Fprintf(out, "volume %s (%s)\nkey file found: %s\nrecovery key: %s\n", s.Volume, s.LUKSUUID, source, s.Escrow)
			if s.Sealed != "" {
				fmt.Fprintf(out, "sealed in the TPM: %s\n", s.Sealed)
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "slot\tuse\tkdf\tbits")
			for _, k := range s.Slots {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", k.Slot, k.Use, k.KDF, k.Bits)
			}
			return w.Flush()
		},
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	var newKey string
	rotate := &cobra.Command{
		Use:   "rotate --new-key FILE",
		Short: "give the volume a new key file and remove the old one",
		Long: `rotate adds the new key file, proves that it opens the volume, and only then
removes the old one. Interrupted at any instant, one of the two opens the
volume; the same command goes on. Afterwards the key device (or the other key
source) must have the new file.`,
		Example: "  mount -o ro /dev/disk/by-label/WARD-KEY-NEW /mnt\n  wardctl key rotate --new-key /mnt/phi-data.key",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if newKey == "" {
				return usage{errors.New("--new-key is missing\nhint: `ward key new` makes a new key device")}
			}
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Rotate(c.Context(), volume, newKey, c.OutOrStdout())
		},
	}
	rotate.Flags().StringVar(&newKey, "new-key", "", "`FILE` with the new key")
	add := &cobra.Command{
		Use:   "add-recovery",
		Short: "replace the recovery key, sealed to the profile's recipients",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			if err := m.AddRecovery(c.Context(), volume); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "volume %s has a new recovery key, sealed in /%s/%s.age\n", volume, firstboot.EscrowDir, volume)
			return nil
		},
	}
	c.AddCommand(status, rotate, add)
	return c
}
