package main

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ward/images/strict"
)

// command is ward with all its commands.
func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ward",
		Short: "bake, boot and prove hardened images for servers that hold patients' data",
		Long: `ward bakes hardened images for servers that hold patients' data, boots them and
proves that every safeguard holds.

Three inputs make a machine: an image (what it is), a profile (what must hold) and
a machine file (who it is: its name, its people, its log server). Image and profile
are baked; the machine file and the key stay outside and come at boot.`,
		Example: `  ward build debian-12                          # out/debian-12/disk.qcow2
  ward test out/debian-12                       # boot it and check every safeguard
  ward key new key.img                          # the key of one machine
  ward machine db1.yaml -o db1.ign              # who the machine is
  ward run out/debian-12 --machine db1.ign --key key.img`,
		SilenceErrors: true, SilenceUsage: true,
		Args: p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("no command is given")
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND]", Short: "help about a command", RunE: p.help})
	root.PersistentFlags().BoolP("verbose", "v", false, "show every program that is run")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if on, err := cmd.Flags().GetBool("verbose"); err == nil && on {
			p.level.Set(slog.LevelDebug)
		}
	}
	root.AddCommand(p.build(), p.verify(), p.push(), p.pull(), p.diff(), p.vulnerabilities(), p.plan(), p.lock(), p.store(), p.cache(), p.inside(), p.list(), p.machine(), p.key(), p.pxe(), p.run(), p.test(), p.evidence(), p.schema(), p.doctor(), p.man(), p.version())
	return root
}

// noSuchCommand refuses what is no command, with the nearest one.
func (p *program) noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := strict.Nearest(args[0], names); near != "" {
		return usage("%s has no command %q\nhint: did you mean %s?", cmd.CommandPath(), args[0], near)
	}
	return usage("%s has no command %q\nhint: it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
}

// flagError adds the nearest flag to the error of an unknown one.
func flagError(cmd *cobra.Command, err error) error {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	if _, flag, ok := strings.Cut(err.Error(), "unknown flag: "); ok {
		if near := strict.Nearest(flag, names); near != "" {
			return usage("%s: %w\nhint: did you mean %s?", cmd.CommandPath(), err, near)
		}
	}
	return usage("%s: %w\nhint: %s --help lists the flags", cmd.CommandPath(), err, cmd.CommandPath())
}

// args wants so many arguments, which are called as in the command's Use line.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		names := slices.DeleteFunc(strings.Fields(cmd.Use)[1:], func(s string) bool { return strings.HasPrefix(s, "[") })
		switch {
		case len(args) < least:
			return usage("%s: %s is missing\nhint: usage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		case len(args) > most:
			return usage("%s: %q is one argument too many\nhint: usage: %s", cmd.CommandPath(), args[most], cmd.UseLine())
		}
		return nil
	}
}

func (p *program) help(cmd *cobra.Command, args []string) error {
	target, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return p.noSuchCommand(target, rest)
	}
	return target.Help()
}
