package control

import (
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/machine"
)

// Time keeps the clock true by chronyd.
func Time(p *profiles.Profile, r distro.Release) Control {
	t := p.Controls.Time
	return Control{
		ID:    "time",
		Title: "the clock follows the configured time servers",
		Why:   "Records of several machines cannot be put in order when their clocks differ, and certificates are judged by the clock.",
		Refs:  []string{"45 CFR 164.312(b)", "NIST 800-53 AU-8", "NIST 800-53 SC-45"},
		Settings: []Setting{
			setting{
				name:  "servers",
				apply: func(ctx context.Context, target *Target) error { return applyTime(ctx, target, r, t) },
				want:  "the configured ones and no other",
				check: func(ctx context.Context, m *Machine) (string, error) {
					return checkTimeServers(ctx, m, timeServers(t, m.Config))
				},
			},
			setting{
				name: "drift", want: fmt.Sprintf("synchronised, within %gs", t.MaxDrift),
				check: func(ctx context.Context, m *Machine) (string, error) { return checkDrift(ctx, m, t.MaxDrift) },
			},
			unit{r.TimeUnit, unitRunning},
		},
	}
}

// timeServers are the machine's own, or else the profile's.
func timeServers(t profiles.Time, m *machine.Machine) []string {
	if m != nil && len(m.Time) > 0 {
		return m.Time
	}
	return t.Servers
}

// chronySources has the servers, in chrony's own form of a list of sources: the
// image's file has the profile's, which a machine that names its own removes.
const chronySources = "etc/chrony/ward.d/"

// chronyConf is the whole of chrony.conf(5): the distribution's own names a pool
// of its own and takes whatever server DHCP offers.
const chronyConf = `# ward: time
sourcedir /` + chronySources + `
driftfile /var/lib/chrony/chrony.drift
ntsdumpdir /var/lib/chrony
logdir /var/log/chrony
# A step only while nothing but the boot depends on the clock.
makestep 1 3
maxupdateskew 100.0
rtcsync
leapsectz right/UTC
# Say so in the log when the clock is corrected by more than half a second.
logchange 0.5
# No NTP server for others, and chronyc on this machine alone.
port 0
bindcmdaddress 127.0.0.1
bindcmdaddress ::1
`

func timeSources(servers []string) string {
	var b strings.Builder
	b.WriteString("# ward: time\n")
	for _, s := range servers {
		host, port := splitPort(s)
		b.WriteString("server " + host)
		if port != "" {
			b.WriteString(" port " + port)
		}
		b.WriteString(" iburst\n")
	}
	return b.String()
}

// splitPort takes a server apart; the port is empty when it has none.
func splitPort(server string) (host, port string) {
	if host, port, err := net.SplitHostPort(server); err == nil {
		return host, port
	}
	return server, ""
}

func applyTime(ctx context.Context, t *Target, r distro.Release, p profiles.Time) error {
	use, drop := chronySources+"profile.sources", chronySources+"machine.sources"
	if t.Machine != nil && len(t.Machine.Time) > 0 {
		use, drop = drop, use
	}
	conf, err := updateFile(t.Root, r.Chrony, chronyConf, 0o644)
	if err != nil {
		return err
	}
	sources, err := updateFile(t.Root, use, timeSources(timeServers(p, t.Machine)), 0o644)
	if err != nil {
		return err
	}
	if t.Phase == Bake {
		return nil
	}
	if err := removeFile(t.Root, drop); err != nil || !(conf || sources) {
		return err
	}
	// chronyd runs already, with what the image has.
	_, err = t.Run(ctx, "systemctl", "try-restart", r.TimeUnit)
	return err
}

// checkTimeServers asks chronyd for its sources, by the names it was given (-N).
// A name that does not resolve is a source all the same, with -a.
func checkTimeServers(ctx context.Context, m *Machine, servers []string) (string, error) {
	out, err := m.Run(ctx, "chronyc", "-c", "-N", "sources", "-a")
	if err != nil {
		return "", fmt.Errorf("ask chronyd: %w", err)
	}
	var want, got []string
	for _, s := range servers {
		host, _ := splitPort(s)
		want = append(want, host)
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), ","); len(f) > 2 {
			got = append(got, f[2])
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(got, want) {
		return "the configured ones and no other", nil
	}
	return "sources " + strings.Join(got, " ") + ", configured " + strings.Join(want, " "), nil
}

// checkDrift asks chronyd how far the clock is from true. Just after boot it
// waits a little for the first answers: chronyd asks four times, two seconds apart.
func checkDrift(ctx context.Context, m *Machine, most float64) (string, error) {
	if _, err := m.Run(ctx, "chronyc", "waitsync", "10", "0", "0", "1"); err != nil && exitCode(err) != 1 {
		return "", fmt.Errorf("wait for chronyd: %w", err)
	}
	out, err := m.Run(ctx, "chronyc", "-c", "tracking")
	if err != nil {
		return "", fmt.Errorf("ask chronyd: %w", err)
	}
	// Fields of tracking, chronyc(1): 0 reference, 1 name, 2 stratum, 3 time,
	// 4 the system time's offset in seconds, ..., 13 leap status.
	f := strings.Split(strings.TrimSpace(out), ",")
	if len(f) != 14 {
		return "", fmt.Errorf("chronyc tracking printed %d fields, want 14: %q", len(f), out)
	}
	if f[13] == "Not synchronised" {
		return "not synchronised", nil
	}
	// Not the root dispersion: for minutes after a start it tells how little
	// chronyd knows of the oscillator, whatever the clock shows.
	offset, err := strconv.ParseFloat(f[4], 64)
	if err != nil {
		return "", fmt.Errorf("read chronyc tracking: %w", err)
	}
	if math.Abs(offset) > most {
		return fmt.Sprintf("synchronised, %.3gs off", math.Abs(offset)), nil
	}
	return fmt.Sprintf("synchronised, within %gs", most), nil
}
