package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// logoffSSHD sorts before everything else that sshd includes.
const logoffSSHD = "00-ward-logoff.conf"

// Logoff is that a session which nobody uses ends.
//
// Three things see to it, since each has a gap. TMOUT ends a bash that waits for
// a line, and whoever wants to can start a shell without it. sshd cuts a session
// through which nothing flows, in either direction: a program that prints goes
// on. logind ends sessions that it counts as idle, on terminals: by the terminal's
// last use. ClientAlive, which guides name for this, tells dead clients from
// living ones and ends no idle session.
func Logoff(p *profiles.Profile, r distro.Release) Control {
	idle := p.Controls.Logoff.Idle
	c := Control{
		ID:    "logoff",
		Title: "A session without activity ends by itself",
		Why:   "A session that somebody walked away from works for whoever comes next, under the first one's name.",
		Refs: []string{
			"45 CFR 164.312(a)(2)(iii)", // automatic logoff
			"NIST 800-53 AC-12", "NIST 800-53 SC-10",
		},
		Settings: []Setting{
			drop{
				name: "login shells", path: "etc/profile.d/00-ward-logoff.sh", content: tmoutProfile(idle),
				want: fmt.Sprintf("TMOUT %d, cannot be unset or changed", idle), check: checkTMOUT,
			},
		},
	}
	// ChannelTimeout and UnusedConnectionTimeout came with OpenSSH 9.2.
	if r.HasOpenSSH(9, 2) {
		// session:* and not session, which the newer manual page shows: channels are
		// labelled session:shell and the like, and "session" fits none of them.
		keywords := []keyword{{"ChannelTimeout", "session:*=" + strconv.Itoa(idle)}, {"UnusedConnectionTimeout", strconv.Itoa(idle)}}
		g := sshdGroup{name: "SSH sessions", comment: "Cut a session through which nothing flows, and a connection that has none.", keywords: keywords}
		c.Settings = append(c.Settings, setting{name: g.name, want: g.want(), check: g.check, apply: func(ctx context.Context, t *Target) error {
			text := "# ward: logoff. " + g.comment + "\n"
			for _, k := range keywords {
				text += k.name + " " + k.value + "\n"
			}
			return dropSSHD(ctx, t, logoffSSHD, text)
		}})
	}
	// StopIdleSessionSec= came with systemd 252.
	if r.Systemd >= 252 {
		c.Settings = append(c.Settings, drop{
			// For systemd the last value wins.
			name: "sessions of logind", path: "etc/systemd/logind.conf.d/99-ward-logoff.conf",
			content: fmt.Sprintf("# ward: logoff. End a session that nobody uses, after so many seconds.\n[Login]\nStopIdleSessionSec=%d\n", idle),
			want:    fmt.Sprintf("ended after %d s", idle), check: checkLogind,
			after: func(ctx context.Context, t *Target) error {
				if t.Phase != FirstBoot {
					return nil
				}
				_, err := t.Run(ctx, "systemctl", "--no-block", "try-reload-or-restart", "systemd-logind.service")
				return err
			},
		})
	}
	return c
}

// tmoutProfile is read by every login shell that reads /etc/profile. In a shell
// where TMOUT is readonly already (a profile that is read twice) setting it again
// would stop the profile with an error.
func tmoutProfile(idle int) string {
	return fmt.Sprintf(`# ward: logoff. bash and ksh end after so many seconds at an empty prompt.
if (unset TMOUT) 2>/dev/null; then
	TMOUT=%d
	readonly TMOUT
	export TMOUT
fi
`, idle)
}

// checkTMOUT starts a login shell without anything from here in its environment,
// and tries to get rid of TMOUT in it.
func checkTMOUT(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "env", "-i", "HOME=/nonexistent", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-l", "-c",
		`echo "value=${TMOUT-}"; (unset TMOUT) 2>/dev/null && echo unset=yes; (TMOUT=0) 2>/dev/null && echo changed=yes; echo end=yes`)
	if err != nil {
		return "", err
	}
	p := properties(out)
	if p["end"] != "yes" {
		return "", fmt.Errorf("a login shell printed %q", out)
	}
	got := "no TMOUT"
	if p["value"] != "" {
		got = "TMOUT " + p["value"]
	}
	switch {
	case p["unset"] == "yes":
		got += ", can be unset"
	case p["changed"] == "yes":
		got += ", can be changed"
	default:
		got += ", cannot be unset or changed"
	}
	return got, nil
}

// checkLogind asks logind itself; the property is in microseconds, and the
// largest number means never (org.freedesktop.login1(5)).
func checkLogind(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "StopIdleSessionUSec")
	if err != nil {
		return "", err
	}
	number, ok := strings.CutPrefix(strings.TrimSpace(out), "t ")
	us, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return "", fmt.Errorf("busctl printed %q", out)
	}
	if us == 1<<64-1 {
		return "never ended", nil
	}
	return fmt.Sprintf("ended after %d s", us/1_000_000), nil
}
