package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"ward/profiles"
)

// automaticConf is the configuration of dnf-automatic(8), which has no drop-ins.
const automaticConf = "etc/dnf/automatic.conf"

// dnfAutomatic takes security updates alone: what dnf knows them by is the
// repository's updateinfo.
func dnfAutomatic(u profiles.Updates) string {
	return fmt.Sprintf(`# ward: updates
[commands]
upgrade_type = security
random_sleep = 0
network_online_timeout = 60
download_updates = yes
apply_updates = %s

[emitters]
emit_via = stdio

[base]
debuglevel = 1
gpgcheck = True
`, yesNo(u.Unattended))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// automaticWant is what dnf-automatic's own reader makes of it.
func automaticWant(u profiles.Updates) string {
	return fmt.Sprintf("security, download True, apply %s", map[bool]string{true: "True", false: "False"}[u.Unattended])
}

// automaticAsk has dnf-automatic read its file.
const automaticAsk = `p=/usr/libexec/platform-python; [ -x $p ] || p=python3
exec $p -c 'import dnf.automatic.main as m
c = m.AutomaticConfig("/etc/dnf/automatic.conf").commands
print(c.upgrade_type + ", download", str(c.download_updates) + ", apply", c.apply_updates)'`

func checkAutomatic(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "dnf-automatic", automaticAsk)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(out), nil
}

// dnfSettings are those of releases with rpm packages.
func dnfSettings(u profiles.Updates) []Setting {
	const timer = "dnf-automatic.timer"
	settings := []Setting{
		drop{name: "dnf-automatic", path: automaticConf, content: dnfAutomatic(u), want: automaticWant(u), check: checkAutomatic},
	}
	if u.Unattended {
		settings = append(settings, unit{timer, unitRunning})
	}
	if u.Unattended && u.Window != "" {
		settings = append(settings, drop{
			name: "window", path: "etc/systemd/system/" + timer + ".d/ward-updates.conf",
			content: windowDropIn(u.Window), want: u.Window,
			check: func(ctx context.Context, m *Machine) (string, error) { return checkWindow(ctx, m, timer) },
		})
	}
	return append(settings, setting{name: "pending", want: noPending, check: func(ctx context.Context, m *Machine) (string, error) {
		return checkPendingDNF(ctx, m, u.Unattended)
	}})
}

// dnfFetched prints when each repository's index was last fetched or found to be
// current, in seconds since 1970: dnf sets the time of its copy (dnf.conf(5),
// cachedir, metadata_expire). Nothing is printed where none was ever fetched.
const dnfFetched = `[ ! -d /var/cache/dnf ] || find /var/cache/dnf -path '*/repodata/repomd.xml' -printf '%T@\n'`

// dnfStamp is written by each start of dnf's timer (systemd.timer(5), Persistent=),
// and when there is a timer for the first time: alone it does not show a run.
const dnfStamp = "/var/lib/systemd/timers/stamp-dnf-automatic.timer"

// checkPendingDNF asks dnf, from its cache, which security updates it would
// install, and since when it could not have known of them.
func checkPendingDNF(ctx context.Context, m *Machine, unattended bool) (string, error) {
	a, err := askAges(ctx, m, dnfStamp)
	if err != nil {
		return "", err
	}
	out, err := script(ctx, m, "dnf's cache", dnfFetched)
	if err != nil {
		return "", err
	}
	var fetched int64
	for line := range strings.Lines(out) {
		whole, _, _ := strings.Cut(strings.TrimSpace(line), ".")
		at, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return "", fmt.Errorf("find printed %q", line)
		}
		fetched = max(fetched, at)
	}
	var faults []string
	if age := a.since(fetched); age > listsTooOld && (unattended || fetched == 0) {
		faults = append(faults, fmt.Sprintf("what there is was last fetched %.0f hours ago", age.Hours()))
	}
	if age := a.since(a.stamps[dnfStamp]); unattended && age > listsTooOld {
		faults = append(faults, fmt.Sprintf("dnf-automatic last ran %.0f hours ago", age.Hours()))
	}
	if fetched == 0 {
		return orFaults(faults, noPending), nil // nothing was fetched yet that dnf could answer from
	}
	if out, err = m.Run(ctx, "dnf", "--quiet", "--cacheonly", "updateinfo", "list", "--security"); err != nil {
		return "", err
	}
	var pending []string
	for line := range strings.Lines(out) { // FEDORA-2026-1234 Important/Sec. openssl-3.2.2-7.el9.x86_64
		if f := strings.Fields(line); len(f) == 3 {
			pending = append(pending, f[2])
		}
	}
	if len(pending) > 0 && a.since(a.stamps[dnfStamp]) > waitsTooLong {
		faults = append(faults, fmt.Sprintf("%d security updates wait: %s", len(pending), strings.Join(pending, " ")))
	}
	return orFaults(faults, noPending), nil
}
