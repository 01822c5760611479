package control

import (
	"context"
	"fmt"
	"strings"

	"ward/profiles"
)

// auditProbe makes a file on a PHI volume, reads it and removes it, and prints its
// name. The name is new each time, so no older record can be taken for this one.
func auditProbe(mount string) string {
	return `f=$(mktemp ` + mount + `/.ward-audit-XXXXXXXXXX) && echo "$f" && cat "$f" && rm "$f"`
}

// auditSearch looks for the probe's read; auditd writes a moment after the fact,
// so it looks a few times. A program of its own input would be searched instead
// of the logs without --input-logs (ausearch(8)).
const auditSearch = `for i in 1 2 3 4 5 6; do ausearch --input-logs -k phi_access -c cat -f "$1" -ts recent --raw 2>/dev/null && exit 0; sleep 0.5; done; exit 1`

// checkAccess reads a PHI file and searches the records for it, as a person
// who looks into an incident would.
func (v phiVolume) checkAccess(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "probe", auditProbe(v.Mount))
	name := strings.TrimSpace(out)
	if err != nil || name == "" {
		return "", fmt.Errorf("read a file in %s: %w", v.Mount, err)
	}
	found, err := script(ctx, m, "ausearch", auditSearch, name)
	if err != nil && exitCode(err) != 1 {
		return "", fmt.Errorf("search the audit log: %w", err)
	}
	for line := range strings.Lines(found) {
		if strings.Contains(line, "name="+`"`+name+`"`) {
			return "a read of a PHI file is found", nil
		}
	}
	return "no record of the read of " + v.Mount + "/", nil
}

// auditStateKeys are the lines of the daemon's report that say whether it keeps
// what it gets, and how much of it.
var auditStateKeys = []string{
	"writing to logs", "max log size", "space_left setting", "admin_space_left setting",
	"logging suspended", "disk error detected", "plugin queue overflow detected",
}

// auditStateWant is what checkAuditState gets from a daemon that writes and rotates.
func auditStateWant(a profiles.Audit) string {
	return fmt.Sprintf("writing to logs = yes, max log size = %d KB, space_left setting = %d MB, admin_space_left setting = %d MB, "+
		"logging suspended = no, disk error detected = no, plugin queue overflow detected = no", a.MaxLogFile*1024, a.SpaceLeft, a.AdminSpaceLeft)
}

// auditStateDump makes the running daemon write its report, auditd(8) SIGCONT.
const auditStateDump = `rm -f /run/auditd.state; kill -CONT "$(cat /run/auditd.pid)" || exit 1; for i in 1 2 3 4 5 6 7 8 9 10; do grep -qs listening /run/auditd.state && exec cat /run/auditd.state; sleep 0.2; done; exit 1`

// checkAuditState asks the daemon for its own report, not for its file.
func checkAuditState(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "auditd-state", auditStateDump)
	if err != nil {
		return "", fmt.Errorf("ask auditd for its state: %w\nhint: is auditd.service running?", err)
	}
	state := make(map[string]string)
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			state[key] = value
		} else if f := strings.Fields(line); len(f) == 4 && f[1] == "setting" { // "space_left setting 200 MB"
			state[f[0]+" setting"] = f[2] + " " + f[3]
		}
	}
	var got []string
	for _, key := range auditStateKeys {
		got = append(got, key+" = "+state[key])
	}
	return strings.Join(got, ", "), nil
}
