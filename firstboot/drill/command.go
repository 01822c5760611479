package drill

import (
	"fmt"

	"github.com/spf13/cobra"

	"ward/firstboot/backup"
	"ward/profiles/control"
)

// ReportFile is where the last drill's evidence lies.
const ReportFile = "/var/lib/ward/drill.json"

// Command is `wardctl drill`.
func Command(open backup.Opener) *cobra.Command {
	return &cobra.Command{
		Use:   "drill",
		Short: "restore the last snapshot to a scratch place and compare it",
		Long: `drill restores the last snapshot of each PHI volume to a scratch folder on that
volume, compares every file with the snapshot and with the live data, measures the
time and removes the folder. Its report is ` + ReportFile + `;
ward-drill.timer runs it monthly.`,
		RunE: backup.With(open, func(c *cobra.Command, t *control.Target, b *backup.Backup) error {
			var live []string
			for _, v := range t.Profile.Controls.PHI.All() {
				if err := backup.Mounted(v.Mount); err != nil {
					return err
				}
				live = append(live, v.Mount)
			}
			r, err := Run(c.Context(), b, ReportFile, live...)
			t.Log.Info("drill", "ok", r.OK, "files", r.Files, "bytes", r.Bytes, "seconds", r.Seconds, "recovery_seconds", r.RecoverySeconds)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "snapshot %.8s: %d files, %.1f MB restored and equal in %.1f s (%.1f MB/s); %d changed since; all data back in %.0f s\n",
				r.Snapshot, r.Files, float64(r.Bytes)/1e6, r.Seconds, r.MBps, r.Changed, r.RecoverySeconds)
			return err
		}),
	}
}
