package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// Files of the audit control. augenrules(8) joins rules.d/*.rules in the order
// of their names, and takes the last -D, -b, -f and -e of all of them: so the
// rules come first and those four last, whatever else lies in the folder.
const (
	auditRulesFile = "etc/audit/rules.d/00-ward-audit.rules"
	auditEndFile   = "etc/audit/rules.d/zz-ward-audit.rules"
	auditLockFile  = "etc/audit/rules.d/zzz-ward-audit-lock.rules"
	auditMuteFile  = "etc/audit/rules.d/10-no-audit.rules"
	auditConf      = "etc/audit/auditd.conf"
)

// Audit records who did what, in the kernel, and keeps it.
func Audit(p *profiles.Profile, r distro.Release) Control {
	a := p.Controls.Audit
	settings := []Setting{
		setting{
			name: "rules", apply: func(ctx context.Context, t *Target) error { return applyAuditRules(t, p) },
			want: "all loaded", check: func(ctx context.Context, m *Machine) (string, error) { return checkAuditRules(ctx, m, p) },
		},
		setting{name: "privileged programs", want: "each has a rule", check: checkPrivileged},
		setting{
			name: "locked", apply: func(ctx context.Context, t *Target) error { return applyAuditLock(ctx, t, p) },
			want:  fmt.Sprintf("enabled 2, failure %d, backlog_limit %d, lost 0", a.FailureMode, a.Backlog),
			check: checkAuditStatus,
		},
		setting{name: "kernel line", want: fmt.Sprintf("audit=1 audit_backlog_limit=%d", a.Backlog), check: checkAuditCmdline},
		setting{
			name: "auditd.conf", apply: func(ctx context.Context, t *Target) error { return applyAuditConf(t, a) },
			want: auditStateWant(a), check: checkAuditState,
		},
		setting{name: "full disk", want: auditActions(a), check: checkAuditActions},
		unit{"auditd.service", unitRunning},
	}
	for _, v := range phiVolumes(p) {
		settings = append(settings, setting{name: v.setting("phi_access"), want: "a read of a PHI file is found", check: v.checkAccess})
	}
	if r.Audit >= 4 {
		// From audit 4 on auditd.service loads no rules itself.
		settings = append(settings, unit{"audit-rules.service", unitEnabled})
	}
	return Control{
		ID:    "audit",
		Title: "the kernel records access to PHI, changes of accounts and what is done as root",
		Why:   "Without records nobody can tell after an incident who saw or changed which data.",
		Refs: []string{
			"45 CFR 164.312(b)", "45 CFR 164.308(a)(1)(ii)(D)", "45 CFR 164.308(a)(5)(ii)(C)",
			"NIST 800-53 AU-2", "NIST 800-53 AU-5", "NIST 800-53 AU-9", "NIST 800-53 AU-12",
		},
		Settings: settings,
	}
}

// auditLockUnit finishes the first boot. A dir watch covers the mounts that are
// there when it is loaded and no later one, and on first boot the PHI volumes are
// made long after that: auditctl -q extends the watch to one, which the kernel
// refuses once the rules are locked. So the image does not lock; first boot does,
// last of all, and from then on the volumes are mounted before the rules load.
const auditLockUnit = `[Unit]
Description=Extend the audit watch to the PHI volume and lock the rules
Documentation=man:auditctl(8)
Requires=ward-apply.service
After=auditd.service ward-apply.service
Before=ward-verify.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecCondition=/bin/sh -c '! auditctl -s | grep -q "^enabled 2"'
%sExecStart=/usr/sbin/auditctl -e 2

[Install]
WantedBy=multi-user.target
`

// auditLock is that unit for these volumes.
func auditLock(volumes []phiVolume) string {
	var b strings.Builder
	for _, v := range volumes {
		fmt.Fprintf(&b, "ExecStart=/bin/sh -c 'if mountpoint -q %[1]s; then auditctl -q %[1]s,%[1]s; fi'\n", v.Mount)
	}
	return fmt.Sprintf(auditLockUnit, b.String())
}

// auditAfterPHI holds the rules back until the PHI volumes are mounted, or given
// up; a mount with nofail is not waited for by local-fs.target.
func auditAfterPHI(volumes []phiVolume) string { return "[Unit]\nAfter=" + mountUnits(volumes) + "\n" }

// auditEnd closes the rules: -D clears what was there. With immutable logins not
// even root can make his process descend from another person.
func auditEnd(a profiles.Audit) string {
	return fmt.Sprintf("## ward: audit\n-D\n-b %d\n-f %d\n--backlog_wait_time 60000\n--loginuid-immutable\n-e 1\n", a.Backlog, a.FailureMode)
}

func applyAuditLock(ctx context.Context, t *Target, p *profiles.Profile) error {
	if t.Phase == FirstBoot {
		return writeFile(t.Root, auditLockFile, "## ward: audit. What is loaded stays until the next boot, auditctl(8).\n-e 2\n", 0o640)
	}
	volumes := phiVolumes(p)
	loader := "auditd.service"
	if t.Release.Audit >= 4 {
		loader = "audit-rules.service"
	}
	if err := errors.Join(
		writeFile(t.Root, auditEndFile, auditEnd(p.Controls.Audit), 0o640),
		writeFile(t.Root, "etc/systemd/system/"+loader+".d/ward-audit.conf", auditAfterPHI(volumes), 0o644),
		writeFile(t.Root, "etc/systemd/system/ward-audit-lock.service", auditLock(volumes), 0o644),
	); err != nil {
		return err
	}
	_, err := t.Run(ctx, "systemctl", "enable", "ward-audit-lock.service")
	return err
}

// applyAuditRules writes the rules at bake. auditctl -R stops at the first rule
// that it cannot load and leaves out all that follow, so folders that are watched
// are made, and -c, the first line, makes it go on; the check then names what is
// not loaded.
func applyAuditRules(t *Target, p *profiles.Profile) error {
	if t.Phase != Bake {
		return nil
	}
	var b strings.Builder
	b.WriteString("## ward: audit\n-c\n")
	for _, r := range auditRules(p) {
		if err := makeWatchable(t.Root, r); err != nil {
			return err
		}
		for _, line := range r.lines(t.Arch) {
			b.WriteString(line + "\n")
		}
	}
	programs, err := privileged(t.Root.FS())
	if err != nil {
		return err
	}
	for _, program := range programs {
		for _, line := range privilegedRule(program).lines(t.Arch) {
			b.WriteString(line + "\n")
		}
	}
	return errors.Join(
		writeFile(t.Root, auditRulesFile, b.String(), 0o640),
		// "-a never,task", the default of some distributions, mutes every rule on a system call.
		removeFile(t.Root, auditMuteFile),
		writeFile(t.Root, "etc/tmpfiles.d/ward-audit.conf", "# The watch on it needs the folder before the first login makes it, pam_faillock(8).\nd /run/faillock 0755 root root -\n", 0o644),
	)
}

// makeWatchable makes the folder that a rule watches, or that its file lies in:
// the kernel refuses a watch below a missing folder.
func makeWatchable(root *os.Root, r auditRule) error {
	name, dir := r.path()
	if name == "" || strings.HasPrefix(name, "/run/") {
		return nil
	}
	name = strings.TrimPrefix(name, "/")
	if !dir {
		name = path.Dir(name)
	}
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := root.MkdirAll(name, 0o755); err != nil {
		return fmt.Errorf("folder of the audit rule %s: %w", r.key, err)
	}
	return nil
}

// privileged lists the programs with a set-user or set-group bit, as absolute paths.
func privileged(tree fs.FS) ([]string, error) {
	var found []string
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"proc", "sys", "dev", "run"}, name) {
			return fs.SkipDir // of the build host, if anything is there
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			found = append(found, "/"+name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for set-user programs: %w", err)
	}
	slices.Sort(found)
	return found, nil
}

// loadedRules asks the kernel for its rules, in normal form.
func loadedRules(ctx context.Context, m *Machine) ([]string, error) {
	out, err := m.Run(ctx, "auditctl", "-l")
	if err != nil {
		return nil, err
	}
	var rules []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-") {
			rules = append(rules, normalRule(line))
		} else if line != "" && line != "No rules" {
			return nil, fmt.Errorf("auditctl -l printed %q, which is no rule", line)
		}
	}
	return rules, nil
}

func checkAuditRules(ctx context.Context, m *Machine, p *profiles.Profile) (string, error) {
	loaded, err := loadedRules(ctx, m)
	if err != nil {
		return "", err
	}
	var faults []string
	for _, rule := range loaded {
		if strings.HasPrefix(rule, "never,") || strings.Contains(rule, ",never ") {
			faults = append(faults, "muted by "+rule)
		}
	}
	for _, r := range auditRules(p) {
		for _, line := range r.lines(m.Arch) {
			if !slices.Contains(loaded, normalRule(line)) {
				faults = append(faults, "not loaded: "+line)
			}
		}
	}
	return orFaults(faults, "all loaded"), nil
}

func checkPrivileged(ctx context.Context, m *Machine) (string, error) {
	programs, err := findPrivileged(ctx, m)
	if err != nil {
		return "", err
	}
	loaded, err := loadedRules(ctx, m)
	if err != nil {
		return "", err
	}
	var faults []string
	for _, p := range programs {
		for _, line := range privilegedRule(p).lines(m.Arch) {
			if !slices.Contains(loaded, normalRule(line)) {
				faults = append(faults, "not loaded: "+line)
			}
		}
	}
	return orFaults(faults, "each has a rule"), nil
}

// findPrivileged lists the set-user and set-group programs of the running system.
func findPrivileged(ctx context.Context, m *Machine) ([]string, error) {
	out, err := m.Run(ctx, "find", "/", "-xdev", "-type", "f", "-perm", "/6000")
	if err != nil {
		return nil, err
	}
	programs := strings.Fields(out)
	slices.Sort(programs)
	return programs, nil
}

// checkAuditStatus asks the kernel whether it audits, is locked, and has lost records.
func checkAuditStatus(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "auditctl", "-s")
	if err != nil {
		return "", err
	}
	status := make(map[string]string)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 {
			status[f[0]] = f[1]
		}
	}
	var got []string
	for _, key := range []string{"enabled", "failure", "backlog_limit", "lost"} {
		if status[key] == "" {
			return "", fmt.Errorf("auditctl -s does not say %s: %q", key, out)
		}
		got = append(got, key+" "+status[key])
	}
	return strings.Join(got, ", "), nil
}

// checkAuditCmdline reads the kernel line of this boot: audit=1 there makes the
// processes that start before auditd auditable, and the backlog of 64 that is
// the kernel's own default overflows while systemd starts.
func checkAuditCmdline(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "cat", "/proc/cmdline")
	if err != nil {
		return "", err
	}
	var got []string
	for word := range strings.FieldsSeq(out) {
		if strings.HasPrefix(word, "audit=") || strings.HasPrefix(word, "audit_backlog_limit=") {
			got = append(got, word)
		}
	}
	slices.Sort(got)
	return strings.Join(got, " "), nil
}

// applyAuditConf states every size and every action on a full disk in
// auditd.conf, which has no drop-in folder.
func applyAuditConf(t *Target, a profiles.Audit) error {
	old, err := t.Root.ReadFile(auditConf)
	if err != nil {
		return fmt.Errorf("read %s: %w\nhint: the image needs the audit daemon", auditConf, err)
	}
	return writeFile(t.Root, auditConf, setKeys(string(old), [][2]string{
		{"local_events", "yes"},
		{"write_logs", "yes"},
		{"log_format", "ENRICHED"}, // names beside numbers: records outlive the accounts
		{"name_format", "HOSTNAME"},
		{"flush", "INCREMENTAL_ASYNC"},
		{"freq", "50"},
		{"max_log_file", strconv.Itoa(a.MaxLogFile)},
		{"num_logs", strconv.Itoa(a.NumLogs)},
		{"max_log_file_action", "ROTATE"},
		{"space_left", strconv.Itoa(a.SpaceLeft)},
		{"space_left_action", a.SpaceLeftAction},
		{"admin_space_left", strconv.Itoa(a.AdminSpaceLeft)},
		{"admin_space_left_action", a.AdminSpaceLeftAction},
		{"disk_full_action", a.DiskFullAction},
		{"disk_error_action", a.DiskErrorAction},
		// What waits for the plugin that feeds the log server. The default of 1200 has
		// overflowed on a slow machine; the kernel may hand over a whole backlog at once.
		{"q_depth", strconv.Itoa(2 * a.Backlog)},
		{"overflow_action", "SYSLOG"},
	}), 0o640)
}

// auditActions is what auditd does when the disk fills, as auditd.conf says it.
func auditActions(a profiles.Audit) string {
	return fmt.Sprintf("max_log_file_action ROTATE, space_left_action %s, admin_space_left_action %s, disk_full_action %s, disk_error_action %s",
		a.SpaceLeftAction, a.AdminSpaceLeftAction, a.DiskFullAction, a.DiskErrorAction)
}

// checkAuditActions reads auditd.conf, since the daemon tells nobody its actions;
// a file that is newer than the daemon is not what it runs with.
func checkAuditActions(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "cat", "/"+auditConf)
	if err != nil {
		return "", err
	}
	conf := make(map[string]string)
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(line, "="); ok {
			conf[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	var got []string
	for _, key := range []string{"max_log_file_action", "space_left_action", "admin_space_left_action", "disk_full_action", "disk_error_action"} {
		got = append(got, key+" "+conf[key])
	}
	if newer, err := m.Run(ctx, "find", "/"+auditConf, "-newer", "/run/auditd.pid"); err != nil {
		return "", err
	} else if strings.TrimSpace(newer) != "" {
		got = append(got, "changed since auditd started")
	}
	return strings.Join(got, ", "), nil
}

// setKeys sets "key = value" lines: a key's first line is replaced, its further
// ones are removed, and a missing key is added at the end. Comments stay.
func setKeys(content string, keys [][2]string) string {
	var b strings.Builder
	done := make(map[string]bool)
	for line := range strings.Lines(content) {
		key, _, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		i := slices.IndexFunc(keys, func(k [2]string) bool { return strings.EqualFold(k[0], key) })
		switch {
		case !ok || i < 0:
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		case !done[keys[i][0]]:
			done[keys[i][0]] = true
			b.WriteString(keys[i][0] + " = " + keys[i][1] + "\n")
		}
	}
	for _, k := range keys {
		if !done[k[0]] {
			b.WriteString(k[0] + " = " + k[1] + "\n")
		}
	}
	return b.String()
}

// orFaults is what a check got: good, or the faults, few enough to read.
func orFaults(faults []string, good string) string {
	const most = 10
	if len(faults) == 0 {
		return good
	}
	if len(faults) > most {
		faults = append(faults[:most:most], fmt.Sprintf("and %d more", len(faults)-most))
	}
	return strings.Join(faults, "; ")
}
