package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"ward/builder/secureboot"
)

// keySecureBoot is ward key secure-boot.
func (p *program) keySecureBoot() *cobra.Command {
	return &cobra.Command{
		Use:   "secure-boot DIR",
		Short: "make keys for UEFI Secure Boot",
		Long: `secure-boot writes a folder with three keys (RSA 2048) and what a firmware enrols of
them: PK, which owns the machine, KEK, which may change db, and db, which signs images.
Of each there is NAME.key (private, mode 0600), NAME.pem (certificate), NAME.esl (signature
list) and NAME.auth (the list as a signed update, for SetVariable or systemd-boot).

The private keys are not encrypted: keep them where images are released, and nowhere else.`,
		Example: `  ward key secure-boot keys
  ward build debian-12 --secure-boot-key keys/db.key --secure-boot-cert keys/db.pem
  ward run out/debian-12 --secure-boot keys`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := secureboot.NewKeys(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s holds new keys; %s signs images, the .auth files go into the firmware\n", args[0], filepath.Join(args[0], secureboot.KeyFile))
			return nil
		},
	}
}
