package control

import (
	"context"
	"fmt"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// Banners is that whoever comes to the door reads whose it is.
func Banners(p *profiles.Profile, r distro.Release) Control {
	c := p.Controls.Banners
	login, motd := strings.TrimSpace(c.Login), strings.TrimSpace(c.MOTD)
	return Control{
		ID:    "banners",
		Title: "Who logs in is told before it that use is restricted and recorded, and reminded after it",
		Why:   "Nobody can say that they did not know; and the text does not tell a stranger what runs here.",
		Refs: []string{
			"45 CFR 164.308(a)(5)(ii)(A)", // security reminders
			"45 CFR 164.310(b)",           // workstation use: what may be done there
			"NIST 800-53 AC-8",
		},
		Settings: []Setting{
			drop{name: "before an SSH login", path: strings.TrimPrefix(issueNet, "/"), content: login + "\n", want: oneLine(login), check: checkSSHBanner},
			// agetty(8) reads a backslash as the start of an item of its own.
			drop{name: "before a console login", path: "etc/issue", content: strings.ReplaceAll(login, `\`, `\\`) + "\n\n", want: oneLine(login), check: checkIssue},
			drop{name: "after login", path: "etc/motd", content: motd + "\n", want: oneLine(motd), check: checkMOTD},
		},
	}
}

// oneLine joins the words of a text by single blanks.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// shown is what a check saw.
func shown(text string) string {
	if text = oneLine(text); text == "" {
		return "no text"
	}
	return text
}

// checkSSHBanner connects to the SSH server and reads what it shows a stranger.
func checkSSHBanner(ctx context.Context, m *Machine) (string, error) {
	out, err := sshLive(ctx, m)
	if err != nil {
		return "", err
	}
	_, text, ok := strings.Cut(out, "SSH2_MSG_SERVICE_ACCEPT received\n")
	if !ok {
		return "", fmt.Errorf("the SSH server does not answer: %s", lastLine(out))
	}
	text, _, _ = strings.Cut(text, "debug1: ")
	return shown(text), nil
}

// checkIssue has agetty(8) print what it shows above "login:". It wants a
// terminal, which script(1) gives it.
func checkIssue(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "script", "--quiet", "--return", "--command", "agetty --show-issue", "/dev/null")
	if err != nil {
		return "", err
	}
	return shown(out), nil
}

// motdScript logs the throw-away account in on a terminal, with the lines of
// sshd's PAM stack that show the message of the day. login(1) shows what they say;
// su(1) would swallow it. It takes the shell's place, since util-linux's makes a process
// group of its own, which the terminal would stop as one in the background.
var motdScript = fmt.Sprintf(`
printf '%%s\n' '%s:x:%d:65534::/:/bin/true' >>/etc/passwd
printf '%%s\n' '%s:*:1::::::' >>/etc/shadow
{
	echo 'auth sufficient pam_rootok.so'
	echo 'account required pam_permit.so'
	echo 'session required pam_permit.so'
	grep -E '^session[[:space:]].*pam_motd\.so' /etc/pam.d/sshd | grep -v motd.dynamic
} >/etc/pam.d/login
script --quiet --return --command 'exec login -f %s' /dev/null </dev/null >/tmp/shown || exit 91
tr -d '\r' </tmp/shown | while IFS= read -r line; do say "$line"; done
say
`, probeUser, probeUID, probeUser, probeUser)

func checkMOTD(ctx context.Context, m *Machine) (string, error) {
	said, err := aside(ctx, m, "motd", motdScript)
	if err != nil {
		return "", err
	}
	return shown(strings.Join(said, " ")), nil
}
