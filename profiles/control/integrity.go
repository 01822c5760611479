package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// Files of AIDE; the unit names are ward's own.
const (
	aideConf = "etc/aide/ward-integrity.conf"
	aideDB   = "var/lib/aide/ward-integrity.db"

	// IntegrityConf, IntegrityDB and IntegrityUpdate are for whoever changes the
	// machine on purpose: AIDE's files, relative to /, and the unit that takes the
	// changes over into the database.
	IntegrityConf   = aideConf
	IntegrityDB     = aideDB
	IntegrityUpdate = "ward-integrity-update.service"
)

// Integrity compares programs and configuration with what they were on first boot.
func Integrity(p *profiles.Profile, r distro.Release) Control {
	i := p.Controls.Integrity
	settings := []Setting{
		setting{
			name: "files", apply: func(ctx context.Context, t *Target) error { return applyIntegrity(ctx, t, r, i) },
			want: unchanged, check: checkIntegrity,
		},
		unit{"ward-integrity.timer", unitRunning},
	}
	if i.Root == profiles.RootVerity {
		settings = append(settings, setting{name: "root", want: rootVerified, check: checkVerifiedRoot})
	}
	return Control{
		ID:       "integrity",
		Title:    "a changed program or configuration file is found",
		Why:      "Whoever breaks in changes programs in order to stay.",
		Refs:     []string{"45 CFR 164.312(c)(1)", "45 CFR 164.312(c)(2)", "NIST 800-53 SI-7"},
		Settings: settings,
	}
}

// aideConfig is aide.conf(5). Files that change in a machine's ordinary life are
// left out; the audit rules watch who changes those that matter.
//
// Before 0.17 database_in was called database, and there was no caps (AIDE's NEWS).
func aideConfig(r distro.Release, paths []string) string {
	in, caps := "database_in", "+caps"
	if r.Aide != [2]int{} && r.Aide[0] == 0 && r.Aide[1] < 17 {
		in, caps = "database", "+xattrs"
	}
	var b strings.Builder
	b.WriteString("# ward: integrity\n" + in + "=file:/" + aideDB + "\ndatabase_out=file:/" + aideDB + ".new\n")
	b.WriteString("gzip_dbout=no\nreport_url=stdout\nWard = ftype+l+p+u+g+s+sha256" + caps + "\n\n")
	for _, path := range paths {
		b.WriteString(regexp.QuoteMeta(path) + " Ward\n")
	}
	b.WriteString(`
!/etc/(\.pwd\.lock|\.updated|adjtime|machine-id|resolv\.conf|mtab)$
!/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$
!/etc/(shadow|gshadow)$
!/etc/audit/audit\.rules(\.prev)?$
!/etc/ward(/|$)
!/var/lib/aide
`)
	return b.String()
}

// aidePath is where most releases have aide(1).
const aidePath = "/usr/bin/aide"

// aideMake makes the database and tells the log, and so the log server, its
// digest: a database that somebody replaces later has another one.
const aideMake = `/bin/sh -c 'aide --config=/` + aideConf + ` --init >/dev/null && mv -f /` + aideDB + `.new /` + aideDB +
	` && logger -p authpriv.notice -t ward-integrity "database $(sha256sum </` + aideDB + `)"'`

// integrityUnits are made at bake. The database waits for the end of apply, and
// verify for the database. A package manager's changes are taken over after a
// check, so that they cannot carry others with them unseen.
var integrityUnits = map[string]string{
	"ward-integrity-init.service": `[Unit]
Description=Make the database of programs and configuration
Documentation=man:aide(1)
ConditionPathExists=!/` + aideDB + `
Requires=ward-apply.service
After=ward-apply.service
Before=ward-verify.service

[Service]
Type=oneshot
RemainAfterExit=yes
Nice=10
IOSchedulingClass=idle
ExecStart=` + aideMake + `

[Install]
WantedBy=multi-user.target
`,
	"ward-integrity.service": `[Unit]
Description=Compare programs and configuration with the database
Documentation=man:aide(1)
After=ward-integrity-init.service
ConditionPathExists=/` + aideDB + `

[Service]
Type=oneshot
Nice=10
IOSchedulingClass=idle
ExecStart=` + aidePath + ` --config=/` + aideConf + ` --check
SyslogLevel=err
`,
	"ward-integrity-update.service": `[Unit]
Description=Take intended changes over into the database
Documentation=man:aide(1)
After=ward-integrity-init.service
Before=ward-verify.service

[Service]
Type=oneshot
Nice=10
ExecStart=` + aideMake + `
`,
}

// aptIntegrity checks before dpkg works and takes over what it did.
const aptIntegrity = `// ward: integrity
DPkg::Pre-Invoke { "if [ -d /run/systemd/system ]; then systemctl start ward-integrity.service || true; fi"; };
DPkg::Post-Invoke { "if [ -d /run/systemd/system ]; then systemctl start --no-block ward-integrity-update.service || true; fi"; };
`

// dnfIntegrity is of dnf's plugin post-transaction-actions, which has no hook before
// a transaction: what somebody else changed since the last comparison is taken over
// with it, and is in the report of ward-integrity.timer only if that ran between.
const dnfIntegrity = `# ward: integrity
*:any:/usr/bin/systemctl start --no-block ward-integrity-update.service
`

// integrityHooks are how the package managers of the formats tell of their changes.
var integrityHooks = map[string]map[string]string{
	"deb": {"etc/apt/apt.conf.d/91ward-integrity": aptIntegrity},
	"rpm": {"etc/dnf/plugins/post-transaction-actions.d/ward-integrity.action": dnfIntegrity},
}

func applyIntegrity(ctx context.Context, t *Target, r distro.Release, i profiles.Integrity) error {
	if t.Phase != Bake {
		return nil
	}
	faults := []error{
		writeFile(t.Root, aideConf, aideConfig(r, i.Paths), 0o600),
		t.Root.MkdirAll("var/lib/aide", 0o700),
		writeFile(t.Root, "etc/systemd/system/ward-integrity.timer", fmt.Sprintf("[Unit]\nDescription=Compare programs and configuration daily\n\n[Timer]\nOnCalendar=%s\nRandomizedDelaySec=15m\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n", i.OnCalendar), 0o644),
	}
	for name, content := range integrityUnits {
		content = strings.ReplaceAll(content, aidePath, cmp.Or(r.AidePath, aidePath))
		faults = append(faults, writeFile(t.Root, "etc/systemd/system/"+name, content, 0o644))
	}
	for name, content := range integrityHooks[r.Format] {
		faults = append(faults, writeFile(t.Root, name, content, 0o644))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	_, err := t.Run(ctx, "systemctl", "enable", "ward-integrity-init.service")
	return err
}

const unchanged = "as on first boot"

// checkIntegrity lets AIDE read every file again. Its exit status is the sum of 1
// for new files, 2 for removed and 4 for changed ones; from 14 on it could not
// look (aide(1)).
func checkIntegrity(ctx context.Context, m *Machine) (string, error) {
	db, err := modified(ctx, m, "/"+aideDB)
	if err != nil {
		return "", err
	}
	if len(db) == 0 {
		return "there is no database", nil
	}
	out, err := m.Run(ctx, "aide", "--config=/"+aideConf, "--check")
	switch code := exitCode(err); {
	case code == 0:
		return unchanged, nil
	case code < 0 || code > 7:
		return "", err
	}
	var faults []string
	for line := range strings.Lines(out) {
		// "f   ...    .C... : /usr/bin/true", "f++++++++++++++++: /usr/bin/new"
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ": /"); ok && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "File") {
			faults = append(faults, "/"+path)
		}
	}
	if len(faults) == 0 {
		faults = []string{"files differ"}
	}
	return orFaults(faults, unchanged), nil
}
