package firstboot

import (
	"context"
	"slices"

	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// changesFiles tells whether apply is about to change files that the integrity
// database has: a step is not done for these inputs, or a volume is blank and is
// formatted when its key comes, which writes crypttab and fstab.
func (m *Machine) changesFiles(steps []Step, st *stamper) (bool, error) {
	if _, err := m.root.Stat(control.IntegrityDB); err != nil {
		return false, nil // the first boot: the database is made after it
	}
	if slices.ContainsFunc(steps, func(s Step) bool { return !s.Always && !st.done(s.Name) }) {
		return true, nil
	}
	report, err := m.report()
	if err != nil || report == nil {
		return false, err
	}
	return slices.ContainsFunc(report.Volumes, func(v handoff.VolumeReport) bool { return v.State == handoff.StateBlank }), nil
}

// checkBeforeChange compares the files once more before apply changes them, so
// that taking its changes over cannot carry others with them unseen. aide is run
// as a program, not as its unit: that one waits for apply.
func (m *Machine) checkBeforeChange(ctx context.Context) {
	if out, err := m.run(ctx, nil, "aide", "--config=/"+control.IntegrityConf, "--check"); err != nil {
		m.log.Error("files had changed before this apply", "aide", tail(out, 40), "err", err)
	}
}

// takeOver has apply's own changes put into the database, before the next verify.
func (m *Machine) takeOver(ctx context.Context) error {
	_, err := m.run(ctx, nil, "systemctl", "start", "--no-block", control.IntegrityUpdate)
	return err
}
