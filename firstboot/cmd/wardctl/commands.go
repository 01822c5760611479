package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ward/firstboot"
	"ward/firstboot/backup"
	"ward/firstboot/drill"
	"ward/firstboot/logqueue"
	"ward/profiles/control"
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cmd := command(stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	// cobra tells these two apart from other errors by their text only.
	if err != nil && (strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "if any flags in the group")) {
		return usage{fmt.Errorf("%w\nhint: see `wardctl --help`", err)}
	}
	return err
}

// command is the whole command line; man pages are made from it as well.
func command(stdout, stderr io.Writer) *cobra.Command {
	var debug bool
	root := &cobra.Command{
		Use:     "wardctl",
		Version: version,
		Short:   "apply, verify and operate this machine's safeguards",
		Long: `wardctl finishes and watches over the machine that it runs on: it applies the
machine's configuration, asks the running system whether every safeguard
holds, and helps to operate it.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			c.SetOut(stderr)
			c.Usage()
			return usage{errors.New("a command is missing")}
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true // completionCommand makes them
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.PersistentFlags().BoolVar(&debug, "debug", false, "log every program that is run")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage{fmt.Errorf("%w\nhint: see `%s --help`", err, c.CommandPath())}
	})
	log := func() *slog.Logger {
		level := slog.LevelInfo
		if debug {
			level = slog.LevelDebug
		}
		return logger(stderr, level)
	}
	open := func() (*firstboot.Machine, error) { return firstboot.Open("/", log()) }
	root.AddCommand(applyCommand(open), verifyCommand(open), statusCommand(open), initramfsCommand(open), doctorCommand(open), unlockCommand(open),
		keyCommand(open), reencryptCommand(open), eraseCommand(open), incidentCommand(open, log), riskCommand(open), completionCommand())
	root.AddCommand(manCommands()...)
	root.AddCommand(accessCommands(open)...)
	root.AddCommand(backupCommands(open)...)
	root.AddCommand(logqueue.Command(targetOf(open)))
	for _, c := range root.Commands() {
		if c.Args == nil {
			c.Args = cobra.NoArgs
		}
		wrapArgs(c)
	}
	return root
}

// wrapArgs makes wrong arguments a usage error.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage{fmt.Errorf("%w\nhint: see `%s --help`", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// targetOf gives commands that live in packages of their own the machine to work on.
func targetOf(open opener) func() (*control.Target, func() error, error) {
	return func() (*control.Target, func() error, error) {
		m, err := open()
		if err != nil {
			return nil, nil, err
		}
		t, err := m.Target()
		if err != nil {
			return nil, nil, errors.Join(err, m.Close())
		}
		return t, m.Close, nil
	}
}

type opener func() (*firstboot.Machine, error)

// consoleWriter opens the machine's console; without one nothing is lost, the
// journal has it all.
func consoleWriter() io.WriteCloser {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return nopCloser{io.Discard}
	}
	return f
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func applyCommand(open opener) *cobra.Command {
	var o firstboot.ApplyOptions
	var boot bool
	c := &cobra.Command{
		Use:   "apply",
		Short: "make the machine what its configuration says",
		Long: `apply reads the machine's Ignition config (version 3.0 to 3.5) from --config, from
the firmware (QEMU fw_cfg opt/com.coreos/config), from a config drive (label
ignition or config-2), from ignition.config.url= on the kernel line (HTTPS with
a pinned authority), or else the one that was applied last. It validates all of
it, then makes the machine so, in stamped steps: whatever interrupts it, the
next run goes on. The SSH server starts only after apply has succeeded.`,
		Example: "  wardctl apply --config new.ign --dry-run\n  wardctl apply --config new.ign",
		RunE: func(c *cobra.Command, _ []string) error {
			console := io.WriteCloser(nopCloser{io.Discard})
			if boot {
				console = consoleWriter()
			}
			defer console.Close()
			m, err := open()
			if err != nil {
				fmt.Fprintf(console, "\nward: STOPPED before the first step, so nobody can log in by SSH\n  why:  %v\n  hint: the image is damaged or was changed; start the machine from a good one\n", err)
				return err
			}
			defer m.Close()
			m.SetConsole(console)
			o.Out = c.OutOrStdout()
			return m.Apply(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Config, "config", "", "Ignition config `FILE`")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print what would change, change nothing")
	c.Flags().BoolVar(&boot, "boot", false, "tell the console why it stopped (used by ward-apply.service)")
	return c
}

func verifyCommand(open opener) *cobra.Command {
	var asJSON, keep bool
	var ids []string
	c := &cobra.Command{
		Use:   "verify",
		Short: "ask the running system whether every safeguard holds",
		Long: `verify looks at the effect of every control on the running system, never at the
files that ward wrote. Exit code: 0 all pass, 1 at least one fails, 2 none fails
but at least one could not be looked at.`,
		Example: "  wardctl verify\n  wardctl verify --control sshd --json",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			r, err := m.Verify(c.Context(), ids...)
			if err != nil {
				return err
			}
			switch out := c.OutOrStdout(); {
			case asJSON:
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				err = e.Encode(r)
			case keep:
				err = m.SaveReport(r)
				console := consoleWriter()
				fmt.Fprintf(console, "%s\n", firstboot.Summary(r))
				console.Close()
				journal(c.ErrOrStderr(), r.Findings, firstboot.Summary(r))
			default:
				firstboot.PrintTable(out, r)
			}
			if err != nil {
				return err
			}
			if code := firstboot.ExitCode(r.Verdict()); code != 0 {
				return exit(code)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	c.Flags().StringSliceVar(&ids, "control", nil, "look at this control `ID` only; may be repeated")
	c.Flags().BoolVar(&keep, "report", false, "keep the report, send it to the host, tell console and journal (used by ward-verify.service)")
	c.MarkFlagsMutuallyExclusive("json", "report")
	c.MarkFlagsMutuallyExclusive("control", "report")
	return c
}

// journal writes what is not right, each line with the priority prefix of
// sd-daemon(3): 3 is err, 4 warning, 6 info.
func journal(w io.Writer, findings []control.Finding, summary string) {
	for _, f := range findings {
		priority := map[control.Status]int{control.Fail: 3, control.Unknown: 3, control.Waived: 4}[f.Status]
		if priority == 0 {
			continue
		}
		line := fmt.Sprintf("%s %s: %s: want %q, got %q", f.Status, f.Control, f.Setting, f.Want, f.Got)
		if f.Err != "" {
			line += ": " + f.Err
		}
		fmt.Fprintf(w, "<%d>%s\n", priority, strings.ReplaceAll(line, "\n", " "))
	}
	fmt.Fprintf(w, "<6>%s\n", summary)
}

func statusCommand(open opener) *cobra.Command {
	var applyOnly bool
	c := &cobra.Command{
		Use:   "status",
		Short: "tell in a few lines how the machine is",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			out := c.OutOrStdout()
			fmt.Fprintln(out, m.Result().Console())
			if applyOnly {
				return nil
			}
			volumes, err := m.Volumes()
			if err != nil {
				return err
			}
			for _, v := range volumes {
				if v.Ready {
					fmt.Fprintf(out, "volume %s: ready\n", v.Name)
				} else {
					fmt.Fprintf(out, "volume %s: absent: %s\n  hint: %s\n", v.Name, v.Reason, v.Hint)
				}
			}
			state, err := backup.ReadState(backup.StateFile)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "backup: %s\n", state.Summary())
			tried, err := drill.Summary(drill.ReportFile)
			if err != nil {
				return err
			}
			if tried != "" {
				fmt.Fprintf(out, "restore drill: %s\n", tried)
			}
			r, err := m.LastReport()
			if err != nil {
				return err
			}
			if r == nil {
				fmt.Fprintln(out, "verify: has not run yet")
				return nil
			}
			fmt.Fprintf(out, "%s (%s)\n", firstboot.Summary(r), r.Time.Format("2006-01-02 15:04 MST"))
			for _, f := range r.Findings {
				if f.Status != control.Pass {
					fmt.Fprintf(out, "  %-7s  %s: %s\n", f.Status, f.Control, f.Setting)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&applyOnly, "apply", false, "only how apply ended (used by ward-failed.service)")
	return c
}

func initramfsCommand(open opener) *cobra.Command {
	var remove, good, check bool
	c := &cobra.Command{
		Use:   "initramfs VERSION",
		Short: "make an installed kernel bootable (the package manager's hooks call it)",
		Long: `initramfs makes ward's initramfs for the installed kernel VERSION, joins both with
the kernel line to a unified kernel image, and puts it on the EFI system
partition. The running kernel stays bootable, and is started again when the new one
does not finish a boot in three tries.

Where Secure Boot is on the firmware starts only what is signed, and the key is not on
the machine: a new kernel is refused, before its package is unpacked, and comes with a
new image.`,
		Example: "  wardctl initramfs $(uname -r)",
		Args: func(c *cobra.Command, args []string) error {
			if good {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			if good {
				return m.KernelIsGood(c.Context())
			}
			if check {
				return m.CheckKernel(args[0])
			}
			if remove {
				return m.RemoveKernel(c.Context(), args[0])
			}
			return m.UpdateKernel(c.Context(), args[0])
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take the kernel's image away instead")
	c.Flags().BoolVar(&good, "good", false, "the running kernel has finished a boot: count no longer (ward-kernel-good.service)")
	c.Flags().BoolVar(&check, "check", false, "only tell whether the machine could make that kernel bootable")
	c.MarkFlagsMutuallyExclusive("remove", "good", "check")
	return c
}
