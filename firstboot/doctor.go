package firstboot

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ward/firstboot/backup"
	"ward/firstboot/logqueue"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// Trouble is something that is wrong, why, and what to do about it.
type Trouble struct {
	What   string `json:"what"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

// Diagnosis is what a doctor's question found.
type Diagnosis struct {
	Name     string    `json:"name"`
	Troubles []Trouble `json:"troubles"`
	Err      string    `json:"error,omitempty"` // why it could not look
}

// Doctor asks what usually goes wrong, and never stops early.
func (m *Machine) Doctor(ctx context.Context) []Diagnosis {
	var all []Diagnosis
	for _, q := range []struct {
		name string
		ask  func(context.Context) ([]Trouble, error)
	}{
		{"configuration", m.askApply},
		{"disk space", m.askSpace},
		{"audit", m.askAudit},
		{"PHI volume", m.askVolumes},
		{"key source", m.askKeys},
		{"PHI permissions", m.askPermissions},
		{"locked accounts", m.askLocked},
		{"log queue", m.askLogQueue},
		{"backup", m.askBackup},
		{"clock", m.askClock},
		{"failed units", m.askUnits},
	} {
		troubles, err := q.ask(ctx)
		d := Diagnosis{Name: q.name, Troubles: troubles}
		if err != nil {
			d.Err = err.Error()
		}
		all = append(all, d)
	}
	return all
}

func (m *Machine) askApply(context.Context) ([]Trouble, error) {
	r := m.Result()
	if r.Done {
		return nil, nil
	}
	hint := r.Hint
	if hint == "" {
		hint = "journalctl -b -u ward-apply; correct the cause; systemctl restart ward-apply"
	}
	return []Trouble{{"the configuration is not applied", r.String(), hint}}, nil
}

// fullAt is the share of a file system above which it is reported, percent.
const fullAt = 90

func (m *Machine) askSpace(context.Context) ([]Trouble, error) {
	var all []Trouble
	dirs := append([]string{"/", "/var/log"}, m.mounts()...)
	seen := map[[2]int32]bool{}
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(path.Join(m.root.Name(), dir), &st); err != nil {
			return all, fmt.Errorf("%s: %w", dir, err)
		}
		if seen[st.Fsid.Val] || st.Blocks == 0 {
			continue
		}
		seen[st.Fsid.Val] = true
		if used := 100 - st.Bavail*100/st.Blocks; used >= fullAt {
			all = append(all, Trouble{fmt.Sprintf("the file system of %s is %d %% full", dir, used), "logs, backups' cache or data grew",
				"`du -xh --max-depth=2 " + dir + " | sort -h | tail` shows what is big; audit logs are moved to the archive, never deleted"})
		}
	}
	return all, nil
}

// unit returns what systemd says of a unit.
func (m *Machine) unit(ctx context.Context, name string) (map[string]string, error) {
	out, err := m.run(ctx, nil, "systemctl", "show", "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus,UnitFileState", name)
	if err != nil {
		return nil, err
	}
	p := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			p[k] = v
		}
	}
	return p, nil
}

func (m *Machine) askAudit(ctx context.Context) ([]Trouble, error) {
	p, err := m.unit(ctx, "auditd.service")
	if err != nil {
		return nil, err
	}
	if p["ActiveState"] != "active" {
		var st unix.Statfs_t
		cause := "auditd is " + p["ActiveState"] + " (" + p["Result"] + ")"
		if err := unix.Statfs(path.Join(m.root.Name(), "var/log/audit"), &st); err == nil && st.Blocks > 0 && st.Bavail*100/st.Blocks < 5 {
			return []Trouble{{"nothing is audited", cause + ", and /var/log/audit has less than 5 % left: the disk is full",
				"move the oldest /var/log/audit/audit.log.* to the archive, then `systemctl start auditd` and `augenrules --load`"}}, nil
		}
		return []Trouble{{"nothing is audited", cause, "`journalctl -b -u auditd` says why; then `systemctl start auditd`"}}, nil
	}
	out, err := m.run(ctx, nil, "auditctl", "-s")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "enabled" && f[1] == "0" {
			return []Trouble{{"nothing is audited", "the kernel's audit is switched off", "restart the machine; the rules are loaded and locked at boot"}}, nil
		}
		if len(f) == 2 && f[0] == "lost" && f[1] != "0" {
			return []Trouble{{f[1] + " audit records were lost", "more happened than the backlog holds", "raise controls.audit.backlog in the profile"}}, nil
		}
	}
	return nil, nil
}

func (m *Machine) askVolumes(ctx context.Context) ([]Trouble, error) {
	states, err := m.Volumes()
	if err != nil {
		return nil, err
	}
	var all []Trouble
	for _, s := range states {
		if !s.Ready {
			all = append(all, Trouble{"volume " + s.Name + " is absent", s.Reason, s.Hint})
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	for _, v := range m.volumes() {
		if on, err := m.mounted(ctx, v.Mount); err != nil {
			return all, err
		} else if !on {
			all = append(all, Trouble{v.Mount + " is not mounted", "its unit " + control.MountUnit(v.Mount) + " is not active", "systemctl restart ward-apply"})
		}
	}
	return all, nil
}

// askKeys really asks the key sources: a machine that runs shows nothing of a key
// that its next boot will not find.
func (m *Machine) askKeys(ctx context.Context) ([]Trouble, error) {
	pins, err := m.pins()
	if err != nil {
		return nil, err
	}
	var all []Trouble
	for _, v := range m.volumes() {
		pin, ok := pins.Find(v.Name)
		if !ok {
			continue // askVolumes says what is wrong
		}
		key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
		if errors.Is(err, keysource.ErrNone) {
			all = append(all, Trouble{"no source has the key of volume " + v.Name + ": the next boot has no PHI", firstLine(err.Error()),
				"attach the key device (label " + handoff.KeyLabel + ") or make the other key source reachable; `wardctl key status" + volumeFlag(v.Name) + "` asks again"})
			continue
		} else if err != nil {
			return all, err
		}
		dev, err := m.luksDevice(pin.LUKSUUID)
		if err == nil {
			var ok bool
			if ok, err = m.opens(ctx, dev, "", key.Bytes()); err == nil && !ok {
				all = append(all, Trouble{"the key of source " + source + " does not open volume " + v.Name + ": the next boot has no PHI", "it is another machine's key, or from before a rotation",
					"attach the key device of this machine; `wardctl key status" + volumeFlag(v.Name) + "` asks again"})
			}
		}
		key.Wipe()
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (m *Machine) askPermissions(ctx context.Context) ([]Trouble, error) {
	var all []Trouble
	c := m.facts.Profile.Controls
	want := c.Accounts.Service + ":" + c.Accounts.Group + " " + strings.TrimLeft(c.PHI.Mode, "0")
	for _, v := range m.volumes() {
		if on, err := m.mounted(ctx, v.Mount); err != nil || !on {
			if err != nil {
				return all, err
			}
			continue
		}
		out, err := m.run(ctx, nil, "stat", "--format", "%U:%G %a", v.Mount)
		if err != nil {
			return all, err
		}
		if got := strings.TrimSpace(out); got != want {
			all = append(all, Trouble{v.Mount + " is " + got, "somebody changed it: `ausearch -k phi_access -i` says who",
				fmt.Sprintf("chown %s:%s %s; chmod %s %s", c.Accounts.Service, c.Accounts.Group, v.Mount, c.PHI.Mode, v.Mount)})
		}
	}
	return all, nil
}

// askLocked counts as pam_faillock does: failures marked V (valid), faillock(8).
func (m *Machine) askLocked(ctx context.Context) ([]Trouble, error) {
	config, err := m.machineFile()
	if err != nil {
		return nil, err
	}
	deny := m.facts.Profile.Controls.Lockout.Deny
	var all []Trouble
	for _, p := range config.People {
		n, err := m.failures(ctx, p.Name)
		if err != nil {
			return all, err
		}
		if deny > 0 && n >= deny {
			all = append(all, Trouble{p.Name + " (" + p.FullName + ") is locked out", fmt.Sprintf("%d failed logins", n),
				"make sure that it was really them, then `wardctl unlock " + p.Name + "`"})
		}
	}
	return all, nil
}

func (m *Machine) failures(ctx context.Context, user string) (int, error) {
	out, err := m.run(ctx, nil, "faillock", "--user", user)
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 4 && f[len(f)-1] == "V" {
			n++
		}
	}
	return n, nil
}

// Unlock lets a person who was locked out try again. It returns how many
// failures were forgotten.
func (m *Machine) Unlock(ctx context.Context, user string) (int, error) {
	if _, err := m.lookups.user(user); err != nil {
		return 0, errHint(fmt.Errorf("account %q: there is none", user), "`wardctl doctor` lists who is locked out")
	}
	n, err := m.failures(ctx, user)
	if err != nil {
		return 0, err
	}
	if _, err := m.run(ctx, nil, "faillock", "--user", user, "--reset"); err != nil {
		return 0, err
	}
	left, err := m.failures(ctx, user)
	if err == nil && left > 0 {
		err = fmt.Errorf("account %s still has %d failures", user, left)
	}
	m.log.Warn("account unlocked", "user", user, "failures", n)
	return n, err
}

func (m *Machine) askLogQueue(ctx context.Context) ([]Trouble, error) {
	config, err := m.machineFile()
	if err != nil || config.Logging == nil {
		return nil, err
	}
	p, err := m.unit(ctx, "rsyslog.service")
	if err != nil {
		return nil, err
	}
	if p["ActiveState"] != "active" {
		return []Trouble{{"no log line leaves the machine", "rsyslog is " + p["ActiveState"], "`journalctl -b -u rsyslog` says why; `rsyslogd -N1` checks its configuration"}}, nil
	}
	t := m.target(config)
	q, full, err := logqueue.Look(ctx, t)
	if err != nil {
		return nil, err
	}
	if q.Lines >= control.LogQueueMany {
		return []Trouble{{fmt.Sprintf("the log server lacks lines: %s (%d%% of %d MiB)", q, full, t.Profile.Controls.RemoteLog.JournalMiB), "the log server " + config.Logging.Server + " is away or refuses this machine",
			"`journalctl -u rsyslog` names the reason (certificate, name, connection); what waits is sent when the server is back"}}, nil
	}
	return nil, nil
}

func (m *Machine) askBackup(ctx context.Context) ([]Trouble, error) {
	config, err := m.machineFile()
	if err != nil || config.Backup == nil {
		return nil, err
	}
	p, err := m.unit(ctx, "ward-backup.service")
	if err != nil {
		return nil, err
	}
	if p["LoadState"] != "loaded" {
		return []Trouble{{"no backup runs", "ward-backup.service is " + p["LoadState"], "the profile's backup control is not applied: wardctl apply"}}, nil
	}
	if p["ActiveState"] != "failed" {
		return nil, nil
	}
	const again = "then `systemctl start ward-backup`"
	state, err := backup.ReadState(path.Join(m.root.Name(), backup.StateFile))
	if err != nil {
		return nil, err
	}
	if state.Kind == "" { // it was killed, or ended before it wrote its state
		return []Trouble{{"the last backup failed", "its unit ended with " + p["Result"], "read `journalctl -u ward-backup`, " + again}}, nil
	}
	remedy := state.Kind.Remedy()
	if remedy == "" {
		remedy = "read `journalctl -u ward-backup`"
	}
	why, _, _ := strings.Cut(state.Error, "\nhint: ")
	return []Trouble{{"the last backup failed", fmt.Sprintf("%s: %s", state.Kind, strings.Join(strings.Fields(why), " ")), remedy + "; " + again}}, nil
}

func (m *Machine) askClock(ctx context.Context) ([]Trouble, error) {
	out, err := m.run(ctx, nil, "chronyc", "-c", "tracking")
	if err != nil {
		return []Trouble{{"the clock is not disciplined", "chronyd does not answer: " + firstLine(err.Error()), "systemctl restart chrony"}}, nil
	}
	f := strings.Split(strings.TrimSpace(out), ",")
	if len(f) < 14 {
		return nil, fmt.Errorf("chronyc tracking printed %q", out)
	}
	if f[13] == "Not synchronised" {
		return []Trouble{{"the clock is not synchronised", "no time server answers", "`chronyc sources` lists them; allow UDP 123 to them, or set time_servers in the machine file"}}, nil
	}
	// Field 5: system time, seconds off NTP time, chronyc(1) -c.
	off, err := strconv.ParseFloat(f[4], 64)
	if err != nil {
		return nil, fmt.Errorf("chronyc tracking: offset %q", f[4])
	}
	if limit := m.facts.Profile.Controls.Time.MaxDrift; off > limit || off < -limit {
		return []Trouble{{fmt.Sprintf("the clock is off by %s", time.Duration(off*float64(time.Second)).Round(time.Millisecond)), "it drifted, or the machine slept",
			"`chronyc makestep` sets it at once; the jump is in the audit log"}}, nil
	}
	return nil, nil
}

func (m *Machine) askUnits(ctx context.Context) ([]Trouble, error) {
	out, err := m.run(ctx, nil, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
	if err != nil {
		return nil, err
	}
	var all []Trouble
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "ward-verify.service" || f[0] == "ward-apply.service" { // they have a line of their own
			continue
		}
		all = append(all, Trouble{f[0] + " failed", "its last run ended with an error", "journalctl -b -u " + f[0]})
	}
	return all, nil
}
