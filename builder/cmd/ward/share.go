package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/provenance"
	"ward/builder/registry"
)

const referenceHelp = `REF is HOST/NAME:TAG; oci+http://HOST/NAME:TAG speaks HTTP without TLS, as registries on
loopback do. Who may read and write is what the registry says to the credentials of
~/.docker/config.json.`

// push is ward push.
func (p *program) push() *cobra.Command {
	var public string
	cmd := &cobra.Command{
		Use:   "push DIR REF [flags]",
		Short: "push a built image to an OCI registry",
		Long: `push checks a folder that "ward build" wrote, as "ward verify" does, and pushes its
files with manifest, provenance and signature as one artifact.

` + referenceHelp,
		Example: `  ward push out/debian-12 registry.example.org/ward/debian-12:2026-11 --key keys/sign.pub`,
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, list []string) error {
			key, err := verifier(public)
			if err != nil {
				return err
			}
			if err := registry.Check(list[1], true); err != nil {
				return err
			}
			if _, err := diskOf(list[0]); err != nil {
				return err
			}
			m, signature, err := builder.PushOutput(cmd.Context(), list[0], list[1], key, p.copied())
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s is pushed as %s (inputs %s); %s\n", list[0], list[1], m.Digest, signature)
			return nil
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "public key that the signature must be of")
	return cmd
}

// pull is ward pull.
func (p *program) pull() *cobra.Command {
	var public, output string
	cmd := &cobra.Command{
		Use:   "pull REF [flags]",
		Short: "pull an image from an OCI registry and check it",
		Long: `pull fetches what "ward push" pushed. The folder appears, or is replaced, only when each
file has the digest that the registry, the manifest and the provenance say, and with --key
when the provenance was signed with it. Without --key whoever may write to the registry
decides what the image is.

` + referenceHelp,
		Example: `  ward pull registry.example.org/ward/debian-12:2026-11 -o out/debian-12 --key keys/sign.pub`,
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, list []string) error {
			key, err := verifier(public)
			if err != nil {
				return err
			}
			if err := registry.Check(list[0], true); err != nil {
				return err
			}
			if output == "" {
				name, _, _ := strings.Cut(path.Base(list[0]), ":")
				output = filepath.Join("out", name)
			}
			m, signature, err := builder.PullOutput(cmd.Context(), list[0], output, key, p.copied())
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s is %s with profile %s (inputs %s); %s\n", output, m.Image, m.Profile, m.Digest, signature)
			return nil
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "public key that the signature must be of")
	cmd.Flags().StringVarP(&output, "output", "o", "", "folder of the image (default out/NAME)")
	return cmd
}

// copied prints each file that has been copied.
func (p *program) copied() registry.Done {
	var mu sync.Mutex
	return func(name string, size int64) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(p.out, "  %-40s %10s\n", name, bytesText(size))
	}
}

// verifier reads a public key, if one is named.
func verifier(file string) (provenance.Verifier, error) {
	if file == "" {
		return nil, nil
	}
	return provenance.ReadVerifier(file)
}
