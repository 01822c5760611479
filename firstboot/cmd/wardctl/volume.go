package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"

	"ward/firstboot/incident"
)

// caller is who asked for it, also through sudo.
func caller() string {
	return incident.Caller(func(uid string) (string, error) {
		u, err := user.LookupId(uid)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func reencryptCommand(open opener) *cobra.Command {
	var volume string
	var resume, noWait bool
	c := &cobra.Command{
		Use:   "reencrypt --volume NAME",
		Short: "give a volume a new volume key, when the old one has leaked",
		Long: `reencrypt encrypts all data of the volume anew with a new volume key, while it stays
mounted. Whoever has a copy of the old volume key, or of the old header with the
key file, reads nothing of it afterwards; change the key file too, with
"wardctl key rotate". ward-reencrypt.service does the work: it goes on when this
command or the session ends, and after a loss of power at the next boot. Until it
ends only the key file opens the volume: the old recovery key does not, and a new
one is sealed at the end.`,
		Example: "  wardctl backup run\n  wardctl reencrypt --volume phi-data",
		RunE: func(c *cobra.Command, _ []string) error {
			if volume == "" && !resume {
				return usage{errors.New("--volume is missing")}
			}
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			if resume {
				return m.Reencrypt(c.Context())
			}
			if err := m.BeginReencryption(c.Context(), volume); err != nil {
				return err
			}
			argv := []string{"systemctl", "start", "ward-reencrypt.service"}
			if noWait {
				argv = []string{"systemctl", "start", "--no-block", "ward-reencrypt.service"}
			}
			if _, err := m.Run(c.Context(), argv...); err != nil {
				return err
			}
			if !noWait {
				if err := m.WaitReencrypted(c.Context(), volume); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "volume %s has a new volume key\n", volume)
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "volume %[1]s is being reencrypted; `wardctl key status --volume %[1]s` shows how far it is\n", volume)
			return nil
		},
	}
	c.Flags().StringVar(&volume, "volume", "", "`NAME` of the volume")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as it has begun")
	c.Flags().BoolVar(&resume, "resume", false, "go on with what was begun (used by ward-reencrypt.service)")
	c.MarkFlagsMutuallyExclusive("volume", "resume")
	return c
}

func eraseCommand(open opener) *cobra.Command {
	var volume, confirm string
	c := &cobra.Command{
		Use:   "erase --volume NAME --confirm SERIAL",
		Short: "destroy a volume for good, with a certificate",
		Long: `erase destroys all key slots and both headers of the volume, discards the
partition, proves that neither the key file nor a recovery key opens it any more,
and writes a certificate of destruction, signed with the machine's SSH host key.
It is logged before and after. Nothing brings the data back. SERIAL is the serial
number of the volume's disk, as lsblk shows it; for a disk without one, the
partition's UUID.`,
		Example: "  lsblk -o NAME,SERIAL\n  wardctl erase --volume phi-data --confirm S3Z8NB0K",
		RunE: func(c *cobra.Command, _ []string) error {
			if volume == "" || confirm == "" {
				return usage{errors.New("--volume and --confirm are both needed")}
			}
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			certificate, err := m.Erase(c.Context(), volume, confirm, caller())
			if certificate == nil {
				return err
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			err = errors.Join(err, e.Encode(certificate))
			fmt.Fprintf(c.ErrOrStderr(), "certificate: %s\n", certificate.File)
			return err
		},
	}
	c.Flags().StringVar(&volume, "volume", "", "`NAME` of the volume")
	c.Flags().StringVar(&confirm, "confirm", "", "`SERIAL` number of its disk")
	return c
}
