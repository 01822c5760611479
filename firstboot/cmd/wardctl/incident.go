package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"ward/firstboot"
	"ward/firstboot/backup"
	"ward/firstboot/escrow"
	"ward/firstboot/incident"
)

func incidentCommand(open opener, log func() *slog.Logger) *cobra.Command {
	o := incident.Options{Dir: incident.Dir, Proc: "/proc", Now: time.Now}
	var clear bool
	c := &cobra.Command{
		Use:   "incident --reason TEXT",
		Short: "preserve evidence now, and start the clock of the notice",
		Long: `incident keeps what the machine knows at this moment, sessions and connections
first, in one folder below ` + incident.Dir + ` and one archive with digests,
encrypted to the profile's recipients when it has any, and signs both with the
machine's SSH host key. The record goes to the log server, the archive to the
backup server. It never stops half way; what it could not collect is in the
record, which also says the last day of the 60 days of 45 CFR 164.404(b).
custody.jsonl in the folder can only be added to: a line for each hand-over.`,
		Example: `  wardctl incident --reason "alice's laptop was stolen"`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Reason == "" {
				return usage{errors.New("--reason is missing")}
			}
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			if to := m.Recipients(); len(to) > 0 && !clear {
				if o.Recipients, err = escrow.Recipients(to); err != nil {
					return err
				}
			}
			o.Log, o.Run, o.PHI = log(), m.Run, m.PHI()
			o.By = caller()
			o.Sign = func(ctx context.Context, file string) error { return m.Sign(ctx, "ward-incident", file) }
			o.Send = m.Send
			o.Copy = copier(m)
			o.Verify = verdict(c.Context(), m, o.Log)
			r, err := incident.Collect(c.Context(), o)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "folder   %s\narchive  %s\nsha256   %s\nnotice   at the latest on %s\n", r.Folder, r.Archive, r.SHA256, r.Record.NoticeBy)
			if r.Copy != "" {
				fmt.Fprintf(out, "copy     %s\n", r.Copy)
			}
			fmt.Fprintf(out, "%d items collected\n", len(r.Record.Items))
			for _, m := range r.Record.Missing {
				fmt.Fprintf(out, "missing  %s: %s\n", m.What, m.Why)
			}
			return nil
		},
	}
	c.Flags().StringVar(&o.Reason, "reason", "", "`TEXT`: what is suspected")
	c.Flags().BoolVar(&o.Names, "names", false, "also the names of changed PHI files; they can be PHI themselves")
	c.Flags().BoolVar(&o.Memory, "memory", false, "also the memory maps of all processes")
	c.Flags().BoolVar(&clear, "clear", false, "do not encrypt the archive")
	return c
}

// copier brings files to the machine's backup repository; nil: it has none.
func copier(m *firstboot.Machine) func(context.Context, ...string) (string, error) {
	t, err := m.Target()
	if err != nil || t.Machine == nil || t.Machine.Backup == nil {
		return nil
	}
	return func(ctx context.Context, files ...string) (string, error) {
		b, err := backup.FromTarget(t)
		if err != nil {
			return "", err
		}
		snapshot, err := b.Keep(ctx, "incident", files...)
		if err := errors.Join(err, b.Close()); err != nil {
			return "", err
		}
		return "snapshot " + snapshot + " of the backup repository", nil
	}
}

// verdict is the last report of verify: the checks change things and take
// minutes, in which evidence fades.
func verdict(_ context.Context, m *firstboot.Machine, log *slog.Logger) []byte {
	r, err := m.LastReport()
	if err != nil || r == nil {
		log.Warn("no result of verify", "err", err)
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil
	}
	return b
}
