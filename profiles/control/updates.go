package control

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

// Updates installs security updates, and says so when they do not come.
func Updates(p *profiles.Profile, r distro.Release) Control {
	u := p.Controls.Updates
	settings := aptSettings(u, r)
	if r.Format == "rpm" {
		settings = dnfSettings(u)
	}
	return Control{
		ID:       "updates",
		Title:    "security updates are installed by themselves",
		Why:      "What is known to be broken is attacked within days.",
		Refs:     []string{"45 CFR 164.308(a)(5)(ii)(B)", "45 CFR 164.308(a)(1)(ii)(B)", "NIST 800-53 SI-2"},
		Settings: settings,
	}
}

// aptSettings are those of releases with deb packages.
func aptSettings(u profiles.Updates, r distro.Release) []Setting {
	settings := []Setting{
		drop{
			name: "apt", path: "etc/apt/apt.conf.d/90ward-updates", content: aptUpdates(u, r),
			want:  strings.Join(aptWant(u, r), "; "),
			check: func(ctx context.Context, m *Machine) (string, error) { return checkApt(ctx, m, aptWant(u, r)) },
		},
	}
	if u.Unattended {
		settings = append(settings, unit{"apt-daily.timer", unitRunning}, unit{"apt-daily-upgrade.timer", unitRunning})
	}
	if u.Unattended && u.Window != "" {
		settings = append(settings, drop{
			name: "window", path: "etc/systemd/system/apt-daily-upgrade.timer.d/ward-updates.conf",
			content: windowDropIn(u.Window), want: u.Window,
			check: func(ctx context.Context, m *Machine) (string, error) {
				return checkWindow(ctx, m, "apt-daily-upgrade.timer")
			},
		})
	}
	return append(settings, setting{name: "pending", want: noPending, check: func(ctx context.Context, m *Machine) (string, error) {
		return checkPending(ctx, m, u.Unattended)
	}})
}

// windowDropIn sets a timer's time. The empty line clears the distribution's own.
func windowDropIn(window string) string {
	return fmt.Sprintf("[Timer]\nOnCalendar=\nOnCalendar=%s\nRandomizedDelaySec=10m\nPersistent=true\n", window)
}

// aptUpdates is a file of apt.conf(5). Its name sorts after the distribution's,
// and #clear empties the lists that would otherwise only grow; Ubuntu's file has
// the first one (unattended-upgrades, README).
func aptUpdates(u profiles.Updates, r distro.Release) string {
	return fmt.Sprintf(`// ward: updates
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "%d";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
#clear Unattended-Upgrade::Allowed-Origins;
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern:: "%s";
Unattended-Upgrade::Automatic-Reboot "false";
Unattended-Upgrade::SyslogEnable "true";
// What the controls wrote into a package's own file stays.
DPkg::Options { "--force-confdef"; "--force-confold"; };
`, oneIf(u.Unattended), r.Security)
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// aptWant are lines that apt-config dump must print.
func aptWant(u profiles.Updates, r distro.Release) []string {
	return []string{
		`APT::Periodic::Update-Package-Lists "1"`,
		fmt.Sprintf(`APT::Periodic::Unattended-Upgrade "%d"`, oneIf(u.Unattended)),
		`APT::Get::AllowUnauthenticated "false"`,
		`Acquire::AllowInsecureRepositories "false"`,
		fmt.Sprintf(`Unattended-Upgrade::Origins-Pattern:: "%s"`, r.Security),
	}
}

// checkApt asks apt for its configuration as it has read it from every file.
func checkApt(ctx context.Context, m *Machine, want []string) (string, error) {
	out, err := m.Run(ctx, "apt-config", "dump")
	if err != nil {
		return "", err
	}
	var got []string
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		key, _, _ := strings.Cut(line, " ")
		if slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, key+" ") }) {
			got = append(got, line)
		}
	}
	slices.SortStableFunc(got, func(a, b string) int { return wantIndex(want, a) - wantIndex(want, b) })
	return strings.Join(got, "; "), nil
}

// wantIndex is where the key of a line stands in want.
func wantIndex(want []string, line string) int {
	key, _, _ := strings.Cut(line, " ")
	return slices.IndexFunc(want, func(w string) bool { return strings.HasPrefix(w, key+" ") })
}

func checkWindow(ctx context.Context, m *Machine, timer string) (string, error) {
	out, err := m.Run(ctx, "systemctl", "show", "--property=TimersCalendar", timer)
	if err != nil {
		return "", err
	}
	// TimersCalendar={ OnCalendar=*-*-* 02:00:00 ; next_elapse=... }
	var events []string
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "OnCalendar="); ok {
			event, _, _ := strings.Cut(rest, " ;")
			events = append(events, strings.TrimSpace(event))
		}
	}
	return strings.Join(events, ", "), nil
}

const (
	noPending = "no security update waits for more than a day"
	// Two nights: one run may fail for a reason that passes.
	listsTooOld  = 50 * time.Hour
	waitsTooLong = 26 * time.Hour
)

// Stamps that apt's daily service leaves, and the machine's first boot.
const (
	machineStamp = "/etc/machine-id"
	listsStamp   = "/var/lib/apt/periodic/update-success-stamp"
	upgradeStamp = "/var/lib/apt/periodic/unattended-upgrades-stamp"
)

// checkPending asks apt what it would install, and since when nobody did. A
// machine that is younger than a stamp may be is measured from its first boot.
func checkPending(ctx context.Context, m *Machine, unattended bool) (string, error) {
	a, err := askAges(ctx, m, listsStamp, upgradeStamp)
	if err != nil {
		return "", err
	}
	var faults []string
	if age := a.since(a.stamps[listsStamp]); age > listsTooOld {
		faults = append(faults, fmt.Sprintf("package lists were last renewed %.0f hours ago", age.Hours()))
	}
	if age := a.since(a.stamps[upgradeStamp]); unattended && age > listsTooOld {
		faults = append(faults, fmt.Sprintf("unattended-upgrade last ran %.0f hours ago", age.Hours()))
	}
	out, err := m.Run(ctx, "apt-get", "--simulate", "--quiet", "-o", "Debug::NoLocking=1", "dist-upgrade")
	if err != nil {
		return "", err
	}
	if !strings.Contains(out, "newly installed") {
		return "", fmt.Errorf("apt-get printed no summary: %q", out)
	}
	var pending []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "Inst" && strings.Contains(line, "ecurity") { // Debian-Security, jammy-security
			pending = append(pending, f[1])
		}
	}
	if len(pending) > 0 && a.since(a.stamps[upgradeStamp]) > waitsTooLong {
		faults = append(faults, fmt.Sprintf("%d security updates wait: %s", len(pending), strings.Join(pending, " ")))
	}
	return orFaults(faults, noPending), nil
}

// ages are the machine's time, its first boot and when stamps were written; times
// are seconds since 1970.
type ages struct {
	now    time.Time
	born   int64
	stamps map[string]int64
}

func askAges(ctx context.Context, m *Machine, stamps ...string) (a ages, err error) {
	if a.now, err = clock(ctx, m); err != nil {
		return ages{}, err
	}
	if a.stamps, err = modified(ctx, m, append([]string{machineStamp}, stamps...)...); err != nil {
		return ages{}, err
	}
	var ok bool
	if a.born, ok = a.stamps[machineStamp]; !ok {
		return ages{}, fmt.Errorf("%s is not there, so the machine's age is not known", machineStamp)
	}
	return a, nil
}

// since is how long ago that was, or the first boot when it came later.
func (a ages) since(at int64) time.Duration { return a.now.Sub(time.Unix(max(at, a.born), 0)) }

// clock is the machine's time.
func clock(ctx context.Context, m *Machine) (time.Time, error) {
	out, err := m.Run(ctx, "date", "+%s")
	if err != nil {
		return time.Time{}, err
	}
	s, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock: %w", err)
	}
	return time.Unix(s, 0), nil
}

// modified returns when files were last written, in seconds since 1970; one that
// is not there is left out.
func modified(ctx context.Context, m *Machine, files ...string) (map[string]int64, error) {
	out, err := m.Run(ctx, append([]string{"stat", "--format=%Y %n"}, files...)...)
	if err != nil && exitCode(err) != 1 { // 1: one of them is not there
		return nil, err
	}
	at := make(map[string]int64)
	for line := range strings.Lines(out) {
		seconds, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		s, err := strconv.ParseInt(seconds, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("stat printed %q", line)
		}
		at[name] = s
	}
	return at, nil
}
