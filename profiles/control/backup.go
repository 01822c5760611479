package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

const (
	noBackup     = "the machine's file has no backup section, so there is no copy"
	freshBackup  = "no nightly copy is overdue"
	freshDrill   = "no monthly restore is overdue"
	backupTooOld = 26 * time.Hour
	drillTooOld  = 35 * 24 * time.Hour
)

// Backup copies PHI nightly to a place that this machine cannot alter, and
// restores it monthly to see that it can be.
func Backup(p *profiles.Profile, r distro.Release) Control {
	return Control{
		ID:    "backup",
		Title: "PHI is copied nightly, and the copy is restored monthly to try it",
		Why:   "Data that cannot be brought back are lost with the first disk, or to the first extortionist.",
		Refs: []string{
			"45 CFR 164.308(a)(7)(ii)(A)", "45 CFR 164.308(a)(7)(ii)(B)", "45 CFR 164.308(a)(7)(ii)(D)", "45 CFR 164.310(d)(2)(iv)",
			"NIST 800-53 CP-9", "NIST 800-53 CP-4",
		},
		Settings: []Setting{
			setting{
				name: "repository", apply: func(ctx context.Context, t *Target) error { return applyBackup(ctx, t, p) },
				want: freshBackup, check: checkBackup,
			},
			unit{"ward-backup.timer", unitRunning},
			setting{name: "drill", want: freshDrill, check: checkDrill},
			unit{"ward-drill.timer", unitRunning},
		},
	}
}

// backupService runs nightly with what it needs and no more: it reads PHI, and
// writes its state, its cache and secrets on a tmpfs. It comes after the mounts and
// requires none of them: a volume that is absent must not hold up the copy of the
// others, and wardctl says which is absent.
const backupService = `[Unit]
Description=%s
Documentation=man:wardctl(8)
Wants=network-online.target
After=network-online.target ward-apply.service %s

[Service]
Type=oneshot
ExecStart=/usr/sbin/wardctl %s
TimeoutStartSec=12h
Nice=10
IOSchedulingClass=idle
CPUWeight=20
MemoryHigh=512M
MemoryMax=1G
TasksMax=64
UMask=0077
CacheDirectory=ward-backup
CacheDirectoryMode=0700
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ReadWritePaths=/var/lib/ward /run %s
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
`

// backupInit makes the repository on the first boot that reaches it, so that a
// wrong address or password is seen that day and not the night after. A machine
// without a backup section has nothing to make; verify says so.
const backupInit = `[Unit]
Description=Make the backup repository
Documentation=man:wardctl(8)
Wants=network-online.target
After=network-online.target ward-apply.service
Before=ward-verify.service
ConditionPathExists=!/var/lib/ward/backup.json

[Service]
Type=oneshot
ExecStart=-/usr/sbin/wardctl backup init
TimeoutStartSec=5min
UMask=0077
CacheDirectory=ward-backup
CacheDirectoryMode=0700

[Install]
WantedBy=multi-user.target
`

func backupTimer(description, event string, jitter profiles.Duration) string {
	return fmt.Sprintf("[Unit]\nDescription=%s\n\n[Timer]\nOnCalendar=%s\nRandomizedDelaySec=%ds\n# What was missed while the machine was off is caught up.\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n",
		description, event, int(time.Duration(jitter).Seconds()))
}

// mounts are the places of PHI volumes, as a line of a unit lists them.
func mounts(volumes []phiVolume) string {
	var all []string
	for _, v := range volumes {
		all = append(all, v.Mount)
	}
	return strings.Join(all, " ")
}

func applyBackup(ctx context.Context, t *Target, p *profiles.Profile) error {
	if t.Phase == Bake {
		const units = "etc/systemd/system/"
		b, phi := p.Controls.Backup, phiVolumes(p)
		err := errors.Join(
			writeFile(t.Root, units+"ward-backup-init.service", backupInit, 0o644),
			writeFile(t.Root, units+"ward-backup.service", fmt.Sprintf(backupService, "Copy PHI to the backup repository", mountUnits(phi), "backup run", ""), 0o644),
			writeFile(t.Root, units+"ward-backup.timer", backupTimer("Copy PHI nightly", b.OnCalendar, b.Jitter), 0o644),
			writeFile(t.Root, units+"ward-drill.service", fmt.Sprintf(backupService, "Restore the last backup to try it", mountUnits(phi), "drill", mounts(phi)), 0o644),
			writeFile(t.Root, units+"ward-drill.timer", backupTimer("Restore the last backup monthly", "*-*-02 03:00:00", b.Jitter), 0o644),
		)
		if err == nil {
			_, err = t.Run(ctx, "systemctl", "enable", "ward-backup-init.service")
		}
		return err
	}
	if t.Machine == nil || t.Machine.Backup == nil {
		t.Log.Warn(noBackup)
	}
	return nil
}

// backupStatus is what wardctl backup status prints: it has asked the repository.
type backupStatus struct {
	Repository *struct {
		Time time.Time `json:"time"`
	} `json:"repository"`
	Kind  string `json:"kind"`
	Error string `json:"error"`
	State *struct {
		Initialised time.Time `json:"initialised"`
		Kind        string    `json:"kind"`
		Error       string    `json:"error"`
		CheckError  string    `json:"check_error"`
	} `json:"state"`
}

// checkBackup asks the repository itself. A machine younger than the limit, whose
// repository answers, has not missed a night yet.
func checkBackup(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil || m.Config.Backup == nil {
		return noBackup, alive(ctx, m)
	}
	// It exits with 1 when the repository cannot be asked, and says why.
	out, err := m.Run(ctx, "wardctl", "backup", "status", "--json")
	var s backupStatus
	if jsonErr := json.Unmarshal([]byte(out), &s); jsonErr != nil || s.State == nil {
		return "", errors.Join(fmt.Errorf("wardctl backup status printed %q", out), err)
	}
	if s.Kind != "" && s.Kind != "missing" {
		return "the repository cannot be asked: " + s.Kind + ": " + s.Error, nil
	}
	if s.State.CheckError != "" {
		return "what was read back is damaged: " + s.State.CheckError, nil
	}
	if s.State.Kind != "" {
		return "the last run failed: " + s.State.Kind + ": " + s.State.Error, nil
	}
	age, now, err := machineAge(ctx, m)
	if err != nil {
		return "", err
	}
	switch {
	case s.Repository != nil && now.Sub(s.Repository.Time) <= backupTooOld:
		return freshBackup, nil
	case s.Repository != nil:
		return fmt.Sprintf("the last snapshot is %.0f hours old", now.Sub(s.Repository.Time).Hours()), nil
	case s.Kind == "missing" && s.State.Initialised.IsZero():
		return "the repository was never made; `wardctl backup run` makes it", nil
	case s.Kind == "missing":
		return "the repository is gone", nil
	case age <= backupTooOld:
		return freshBackup, nil
	}
	return "the repository has no snapshot of this machine", nil
}

// drillFile is what the last drill wrote.
const drillFile = "/var/lib/ward/drill.json"

// checkDrill reads the evidence of the last drill: nothing else tells whether a
// restore was tried, and to try one takes hours.
func checkDrill(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil || m.Config.Backup == nil {
		return noBackup, alive(ctx, m)
	}
	age, now, err := machineAge(ctx, m)
	if err != nil {
		return "", err
	}
	at, err := modified(ctx, m, drillFile)
	if err != nil {
		return "", err
	}
	if len(at) == 0 {
		if age <= drillTooOld {
			return freshDrill, nil // the first is due within a month
		}
		return "no restore was ever tried", nil
	}
	out, err := m.Run(ctx, "cat", drillFile)
	if err != nil {
		return "", err
	}
	var d struct {
		Time  time.Time `json:"time"`
		OK    bool      `json:"ok"`
		Error string    `json:"error"`
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return "", fmt.Errorf("read %s: %w", drillFile, err)
	}
	switch {
	case !d.OK:
		return "the last restore failed: " + d.Error, nil
	case now.Sub(d.Time) > drillTooOld:
		return fmt.Sprintf("the last restore was %.0f days ago", now.Sub(d.Time).Hours()/24), nil
	}
	return freshDrill, nil
}

// machineAge is how long ago the machine's first boot was.
func machineAge(ctx context.Context, m *Machine) (age time.Duration, now time.Time, err error) {
	a, err := askAges(ctx, m)
	if err != nil {
		return 0, a.now, err
	}
	return a.since(a.born), a.now, nil
}
