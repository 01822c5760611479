package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"ward/firstboot/escrow"
)

// maxSealed bounds the file of a sealed recovery key, in bytes.
const maxSealed = 1 << 20

// keyRecover is ward key recover.
func (p *program) keyRecover() *cobra.Command {
	var identity, output string
	cmd := &cobra.Command{
		Use:   "recover SEALED --identity FILE -o KEYFILE",
		Short: "open a sealed recovery key, on the laptop of an officer",
		Long: `recover opens a recovery key that a machine sealed to the recipients of its profile on
its first boot, and writes the passphrase to a file of mode 0600, for cryptsetup. The
passphrase is never printed. Remove the file when the volume is open.`,
		Example: `  ward key recover phi-data.age --identity officer.txt -o /dev/shm/phi-data.pass
  cryptsetup open --key-file /dev/shm/phi-data.pass DISK-PARTITION phi-data`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if identity == "" || output == "" {
				return usage("ward key recover: --identity and -o are needed\nhint: age-keygen made the identity; -o names a file in memory, such as /dev/shm/phi-data.pass")
			}
			ids, err := os.Open(identity)
			if err != nil {
				return err
			}
			defer ids.Close()
			identities, err := age.ParseIdentities(io.LimitReader(ids, maxSealed))
			if err != nil {
				return fmt.Errorf("%s: %w\nhint: it holds lines that begin with AGE-SECRET-KEY-1, as age-keygen writes", identity, err)
			}
			sealed, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r, err := escrow.Open(sealed, identities...)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, werr := f.WriteString(r.Passphrase)
			if err := errors.Join(werr, f.Close()); err != nil {
				return errors.Join(err, os.Remove(output))
			}
			fmt.Fprintf(p.out, "%s opens volume %s (LUKS %s) of %s; remove it when the volume is open\n", output, r.Volume, r.LUKSUUID, r.Host)
			return nil
		},
	}
	cmd.Flags().StringVar(&identity, "identity", "", "file with the officer's age identity")
	cmd.Flags().StringVarP(&output, "output", "o", "", "file for the passphrase; it must not exist")
	return cmd
}
