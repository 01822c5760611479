package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/key"
	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles"
)

// run is ward run.
func (p *program) run() *cobra.Command {
	var cfg vm.Config
	var config, profile string
	cmd := &cobra.Command{
		Use:   "run DIR [flags]",
		Short: "boot an image in QEMU, for a person",
		Long: `run boots an image that "ward build" made, with its console on this terminal; Ctrl-a x
ends it. What the machine writes is thrown away, unless --state names a folder for it.
Without --key the machine boots without patients' data; without --machine nobody has
an account on it.`,
		Example: `  ward run out/debian-12 --machine db1.ign --key key.img
  ward run out/debian-12 --machine db1.yaml --key key.img --state db1 --ssh-port 2222`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			image, err := diskOf(args[0])
			if err != nil {
				return err
			}
			cfg.Image, cfg.Log = image, p.log
			if cfg.SSHPort < 0 || cfg.SSHPort > 65535 {
				return usage("ward run: --ssh-port is %d, want 1 to 65535", cfg.SSHPort)
			}
			if cfg.Key != "" {
				if err := key.Check(ctx, p.log, cfg.Key, []string{defaultVolume}); err != nil {
					return err
				}
			}
			remove, err := p.ignition(&cfg, config, profile)
			if err != nil {
				return err
			}
			defer remove()
			manifest, err := builder.ReadManifest(args[0])
			if err != nil {
				return err
			}
			if cfg.Arch, err = manifest.Arch(); err != nil {
				return err
			}
			return p.interactive(ctx, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "machine", "", "the machine's Ignition config, or its .yaml file")
	f.StringVarP(&profile, "profile", "p", "hipaa", "profile of the image, for --machine FILE.yaml")
	f.StringVar(&cfg.Key, "key", "", "image of the key device")
	f.IntVar(&cfg.SSHPort, "ssh-port", 0, "port on 127.0.0.1 that reaches the machine's SSH (default any free one)")
	f.StringVar(&cfg.State, "state", "", "folder that keeps what the machine writes")
	f.StringVar(&cfg.Firmware, "firmware", "", "uefi (default) or bios")
	f.StringVar(&cfg.SecureBoot, "secure-boot", "", "folder of ward key secure-boot: the firmware has its keys and starts only what they signed")
	f.IntVar(&cfg.CPUs, "cpus", 2, "processors")
	f.IntVar(&cfg.MemoryMB, "memory", 2048, "MiB of memory")
	f.BoolVar(&cfg.TPM, "tpm", false, "with a TPM 2.0")
	return cmd
}

func (p *program) interactive(ctx context.Context, cfg vm.Config) error {
	if err := vm.MissingFor(cfg.Arch); err != nil {
		return err
	}
	return vm.Interactive(ctx, cfg, p.in, p.out, p.err)
}

// diskOf returns the disk image of a folder that ward build wrote.
func diskOf(dir string) (string, error) {
	manifest, err := builder.ReadManifest(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s holds no image: there is no manifest.json\nhint: ward build IMAGE -o %s makes one", dir, dir)
	}
	if err != nil {
		return "", err
	}
	for _, name := range []string{"disk.qcow2", "disk.raw"} {
		if _, ok := manifest.Files[name]; ok {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s holds no disk in a format that QEMU boots\nhint: add qcow2 to formats in the image file", dir)
}

// ignition sets the machine's config. A machine file is compiled into a file
// that only this user can read and that remove deletes.
func (p *program) ignition(cfg *vm.Config, config, profile string) (remove func(), err error) {
	remove = func() {}
	if config == "" || !profiles.IsFile(filepath.Base(config)) {
		cfg.Ignition = config
		if config != "" {
			_, err = os.Stat(config)
		}
		return remove, err
	}
	data, err := compile(config, profile)
	if err != nil {
		return remove, err
	}
	f, err := os.CreateTemp("", "ward-*.ign")
	if err != nil {
		return remove, err
	}
	cfg.Ignition = f.Name()
	remove = func() { os.Remove(f.Name()) }
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	return remove, err
}

// test is ward test.
func (p *program) test() *cobra.Command {
	var report string
	cmd := &cobra.Command{
		Use:   "test DIR [flags]",
		Short: "boot an image and prove that every safeguard holds",
		Long: `test boots an image that "ward build" made as a throw-away machine with a throw-away
key and people, takes the machine's own verdict on every safeguard, tries logins from
outside, reboots it and looks again. The image is only read. A machine that panics,
hangs or never answers is a failure, with the last lines of its console.

The exit code is 0 only if every safeguard passed every time.`,
		Example: `  ward test out/debian-12
  ward test out/debian-12 --report report   # report.json, junit.xml, report.html, console.log`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := diskOf(args[0]); err != nil {
				return err
			}
			_, err := proof.Run(cmd.Context(), proof.Options{Dir: args[0], Report: report, Version: ownVersion(), Out: p.out, Log: p.log})
			if err == nil {
				fmt.Fprintf(p.out, "proved: every safeguard of %s held every time\n", args[0])
			}
			return err
		},
	}
	cmd.Flags().StringVar(&report, "report", "", "folder for report.json, junit.xml, report.html and console.log")
	return cmd
}
