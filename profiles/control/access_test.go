package control_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/control/controltest"
	"ward/profiles/machine"
)

const (
	aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/HZo959Y6LamquCZWUcBgK+pQQx7Fo2as5OubYvTgq alice@desk"
	bobKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINiOz1ciLmqxNJyu0bGiKNLt7Uyc0K8Gm2f384cjYf/Z bob@desk"
	bobHash  = "$6$example$notAHashOfAnyPassword.JustItsShape0123456789abcdefghijklmnop"
)

// accessMachine is the machine that the answers in testdata/answers are of.
func accessMachine() *machine.Machine {
	return &machine.Machine{Hostname: "access", People: []machine.Person{
		{Name: "alice", FullName: "Alice Adams", SSHKeys: []string{aliceKey}, Groups: []string{"phi-access"}, Sudo: true},
		{Name: "bob", FullName: "Bob Brown", SSHKeys: []string{bobKey}, Groups: []string{"radiology"}, PasswordHash: bobHash},
	}}
}

// accessTree is what the controls about access find in an image.
var accessTree = map[string]string{
	"etc/pam.d/sshd": "# PAM\n@include common-auth\naccount required pam_nologin.so\n@include common-account\n",
	"etc/login.defs": "# a comment\nPASS_MAX_DAYS\t99999\nPASS_MIN_DAYS\t0\nPASS_WARN_AGE\t7\nUMASK\t\t022\nUID_MIN\t1000\n",
}

// accessCommand stands for the programs of an image in which nobody is yet.
func accessCommand(tree string, argv []string) (string, error) {
	line := strings.Join(argv, " ")
	switch line {
	case "getent passwd":
		return "root:x:0:0:root:/root:/bin/bash\n", nil
	case "getent shadow":
		return "root::20780:0:99999:7:::\n", nil
	case "getent group":
		return "root:x:0:\nphi-access:x:996:\n", nil
	case "getent passwd alice", "getent passwd bob":
		return fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/bash\n", argv[2], os.Getuid(), os.Getgid(), argv[2]), os.MkdirAll(filepath.Join(tree, "home", argv[2]), 0o700)
	}
	if argv[0] == "getent" {
		return "", &controltest.Exit{Argv: argv, Code: 2}
	}
	return "", nil
}

// answersOf are the recorded answers that a release's machine is given. Ubuntu's
// come from the Debian whose versions are nearest: they show that the controls
// read what these versions print, not what Ubuntu does.
var answersOf = map[string]string{
	"debian-12": "debian-12", "debian-13": "debian-13",
	"ubuntu-22.04": "debian-12", "ubuntu-24.04": "debian-12", "ubuntu-26.04": "debian-13",
}

// runAccess runs the suite of one control on every release. The profile is
// changed before the control is made; change may be nil.
func runAccess(t *testing.T, make func(*profiles.Profile, distro.Release) control.Control, change func(*profiles.Profile), broken func(controltest.Outputs) []controltest.Break) {
	t.Helper()
	for _, r := range distro.All {
		if r.Format != "deb" {
			continue
		}
		t.Run(r.Name(), func(t *testing.T) {
			p, err := profiles.Load("hipaa")
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				change(p)
			}
			c := make(p, r)
			good := controltest.Load(t, filepath.Join("testdata", "answers", answersOf[r.Name()], c.ID+".txtar"))
			breaks := fitting(r, broken(good))
			if running, ok := good[showUnit+"ssh.service"]; ok {
				delete(good, showUnit+"ssh.service")
				good[showUnit+r.SSHUnit] = running
			}
			controltest.Run(t, controltest.Suite{
				Control: c, Release: r, Profile: p, Machine: accessMachine(),
				Tree: accessTree, Command: accessCommand,
				Golden: filepath.Join("apply", r.Name(), c.ID),
				Good:   good, Broken: breaks,
			})
		})
	}
}

// fitting are the breaks of settings that the release has, in its own words.
func fitting(r distro.Release, all []controltest.Break) []controltest.Break {
	lacking := map[string]bool{"SSH sessions": !r.HasOpenSSH(9, 2), "sessions of logind": r.Systemd < 252}
	var fit []controltest.Break
	for _, b := range all {
		if lacking[b.Setting] {
			continue
		}
		if b.Setting == "ssh.service" {
			was := b.Change[showUnit+"ssh.service"]
			b.Setting, b.Change = r.SSHUnit, controltest.Outputs{showUnit + r.SSHUnit: was}
		}
		fit = append(fit, b)
	}
	return fit
}

// answer changes one recorded answer, and fails the test when there is nothing
// to change: a tamper that changes nothing proves nothing.
func answer(t *testing.T, good controltest.Outputs, argv, old, new string) controltest.Outputs {
	t.Helper()
	out, ok := good[argv]
	if !ok {
		t.Fatalf("no recorded answer of %q", argv)
	}
	changed := strings.Replace(out.Stdout, old, new, 1)
	if changed == out.Stdout {
		t.Fatalf("%q is not in the answer of %q:\n%s", old, argv, out.Stdout)
	}
	return controltest.Outputs{argv: {Stdout: changed, Exit: out.Exit}}
}

// find returns the only recorded argv that starts so.
func find(t *testing.T, good controltest.Outputs, prefix string) string {
	t.Helper()
	var found []string
	for argv := range good {
		if strings.HasPrefix(argv, prefix) {
			found = append(found, argv)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d recorded answers start with %q: %q", len(found), prefix, found)
	}
	return found[0]
}

func TestAccounts(t *testing.T) {
	runAccess(t, control.Accounts, nil, func(good controltest.Outputs) []controltest.Break {
		one := func(name, setting, argv, old, new, got string) controltest.Break {
			return controltest.Break{Name: name, Setting: setting, Change: answer(t, good, argv, old, new), Got: got}
		}
		const aside = `unshare --mount --propagation private sh -c eval "$(cat)" new-account`
		const aliceKeys = "/home/alice/.ssh/authorized_keys"
		return []controltest.Break{
			one("renamed", "group", "getent group", "\nphi-access:", "\nphi-acess:", "no group phi-access"),
			one("a password", "service account", "getent shadow", "phi-service:!:", "phi-service:$y$j9T$x:", "has a password"),
			one("a shell", "service account", "getent passwd", "/nonexistent:/usr/sbin/nologin\nbreakglass", "/nonexistent:/bin/sh\nbreakglass", "shell /bin/sh"),
			one("removed", "service account", "getent passwd", "\nphi-service:", "\nphi-servant:", "no account phi-service"),
			one("unlocked", "root", "passwd --status root", "root L ", "root P ", "has a password"),
			one("emptied", "root", "passwd --status root", "root L ", "root NP ", "no password is asked for"),
			one("login.defs as it came", "ageing of new accounts", aside, "7:90:14", "0:99999:7", "max 99999, min 0, warn 7"),
			one("no log", "sudo options", "sudo --list --other-user=root", "logfile=/var/log/sudo.log", "!logfile", "!logfile"),
			one("no limit", "sudo options", "sudo --list --other-user=root", "timestamp_timeout=5", "timestamp_timeout=-1", "timestamp_timeout=-1"),

			one("deleted", "people", "getent passwd", "\nalice:", "\nmalice:", "alice has no account"),
			one("renamed", "people", "getent passwd", "Alice Adams", "Mallory", `alice: full name "Mallory"`),
			one("another shell", "people", "getent passwd", "/home/alice:/bin/bash", "/home/alice:/bin/sh", "alice: shell /bin/sh"),
			one("another group", "people", "getent group", "\nadm:x:4:", "\nadm:x:4:bob", "bob: groups [adm radiology]"),
			one("out of the group", "people", "getent group", ":alice\n", ":\n", "alice: groups []"),
			one("somebody else in their own group", "people", "getent group", "\nalice:x:1000:", "\nalice:x:1000:bob", "alice: primary group"),
			one("a password", "people", "getent shadow", "\nalice:*:", "\nalice:$y$j9T$x:", "alice: has a password, and the machine file gives none"),
			one("no password", "people", "getent shadow", "\nbob:$6$", "\nbob:!$6$", "bob: password is locked"),
			one("an empty password", "people", "getent shadow", "\nalice:*:", "\nalice::", "alice: empty password"),
			one("no ageing", "people", "getent shadow", ":7:90:14:::\nbob", ":0:99999:7:::\nbob", "alice: ageing 99999/0/7, want 90/7/14"),
			one("expires", "people", "getent shadow", ":7:90:14:::\nbob", ":7:90:14::20790:\nbob", "alice: expires on day 20790"),
			one("another key", "people", "cat "+aliceKeys, "ssh-ed25519", bobKey+"\nssh-ed25519", "alice: a key that the machine file does not have: ssh-ed25519"),
			one("a key with a command", "people", "cat "+aliceKeys, "ssh-ed25519", `command="id" ssh-ed25519`, "alice: a key that the machine file does not have: command="),
			one("no key", "people", "cat "+aliceKeys, aliceKey, "", "alice: key is missing"),
			one("readable", "people", "stat --format=%U %a %F "+aliceKeys, "alice 600", "alice 644", `"alice 644 regular file"`),
			{Name: "no file", Setting: "people", Change: controltest.Outputs{"stat --format=%U %a %F " + aliceKeys: {Exit: 1}}, Got: "alice: no " + aliceKeys},

			one("a new account", "nobody else", "getent passwd", "\nbob:", "\nmallory:x:1066:1066::/home/mallory:/bin/bash\nbob:", "mallory (uid 1066) has the shell /bin/bash; mallory (uid 1066) is not in the machine file"),
			one("a system account's password", "nobody else", "getent shadow", "\ngames:*:", "\ngames:$y$j9T$x:", "games (uid 5) has a password"),
			one("a system account's shell", "nobody else", "getent passwd", "/usr/games:/usr/sbin/nologin", "/usr/games:/bin/bash", "games (uid 5) has the shell /bin/bash"),
			one("in the group sudo", "nobody else", "getent group", "\nsudo:x:27:", "\nsudo:x:27:bob", "group sudo has the members bob"),

			one("uid 0", "identities", "getent passwd", "games:x:5:", "games:x:0:", "games is root under another name"),
			one("the same uid", "identities", "getent passwd", "bob:x:1001:", "bob:x:1000:", "alice and bob are both uid 1000"),
			one("the same name", "identities", "getent passwd", "\nbob:", "\nalice:", "the name alice is there twice"),
			one("an empty password", "identities", "getent shadow", "\ngames:*:", "\ngames::", "games has an empty password"),
			one("no x", "identities", "getent passwd", "games:x:5:", "games::5:", "games has its password, or none, in /etc/passwd"),
			one("no shadow", "identities", "getent shadow", "\ngames:", "\nframes:", "games has no entry in /etc/shadow"),

			{Name: "sudo for bob", Setting: "sudo", Change: controltest.Outputs{"sudo --list --other-user=bob": {Stdout: "User bob may run the following commands on access:\n    (ALL : ALL) ALL\n"}}, Got: `bob may run "(ALL : ALL) ALL", want ""`},
			{Name: "no sudo for alice", Setting: "sudo", Change: controltest.Outputs{"sudo --list --other-user=alice": {Stdout: "User alice is not allowed to run sudo on access.\n"}}, Got: `alice may run ""`},
		}
	})
}

func TestBreakglass(t *testing.T) {
	runAccess(t, control.Breakglass, nil, func(good controltest.Outputs) []controltest.Break {
		open := controltest.Outputs{
			"cat /var/lib/ward/breakglass.json": {Stdout: `{"version":1,"uses":[{"opened":"2026-11-23T10:00:00Z","until":"2026-11-23T12:00:00Z","by":"alice","reason":"ward 3 cannot chart"}]}`},
		}
		sealed := controltest.Outputs{
			"cat /var/lib/ward/breakglass.json": {Stdout: `{"version":1,"uses":[{"opened":"2026-11-23T10:00:00Z","until":"2026-11-23T12:00:00Z","by":"alice","reason":"ward 3 cannot chart","closed":"2026-11-23T11:00:00Z","closed_by":"alice"}]}`},
		}
		seal := func(name, argv, old, new, got string, state controltest.Outputs) controltest.Break {
			return controltest.Break{Name: name, Setting: "seal", Change: answer(t, good, argv, old, new).With(state), Got: got}
		}
		pgrep := find(t, good, "pgrep --list-name --uid ")
		return []controltest.Break{
			seal("a password", "getent shadow", "\nbreakglass:!:", "\nbreakglass:$y$j9T$x:", "open until 2026-11-23T12:00:00Z, by alice, because: ward 3 cannot chart: it has a password", open),
			seal("a password, by hand", "getent shadow", "\nbreakglass:!:", "\nbreakglass:$y$j9T$x:", "OPEN, and nobody wrote down why: it has a password", sealed),
			seal("a password, nothing written", "getent shadow", "\nbreakglass:!:", "\nbreakglass:$y$j9T$x:", "OPEN, and nobody wrote down why: it has a password", nil),
			seal("not expired", "getent shadow", "\nbreakglass:!:20780:::::1:", "\nbreakglass:!:20780::::::", "it has not expired", sealed),
			seal("a shell", "getent passwd", "/home/breakglass:/usr/sbin/nologin", "/home/breakglass:/bin/bash", "it has the shell /bin/bash", sealed),
			seal("in the group", "getent group", ":alice\n", ":alice,breakglass\n", "it is in phi-access", sealed),
			seal("another uid", "getent passwd", "breakglass:x:600:", "breakglass:x:601:", "its uid is 601", sealed.With(controltest.Outputs{"pgrep --list-name --uid 601": {Exit: 1}})),
			seal("removed", "getent passwd", "\nbreakglass:", "\nbrokenglass:", "there is no account breakglass", sealed),
			{Name: "sudo", Setting: "seal", Change: controltest.Outputs{"sudo --list --other-user=breakglass": {Stdout: "User breakglass may run the following commands on access:\n    (ALL : ALL) NOPASSWD: ALL\n"}}.With(sealed), Got: "it may use sudo"},
			{Name: "a key", Setting: "seal", Change: controltest.Outputs{"stat --format=%F /home/breakglass/.ssh/authorized_keys": {Stdout: "regular file\n"}}.With(sealed), Got: "it has /home/breakglass/.ssh/authorized_keys"},
			{Name: "a process", Setting: "seal", Change: controltest.Outputs{pgrep: {Stdout: "4711 bash\n"}}.With(sealed), Got: "it runs 4711 bash"},
			{Name: "no rules", Setting: "record", Change: controltest.Outputs{"auditctl -l": {Stdout: "No rules\n"}}, Got: "no audit rule"},
			{Name: "disabled", Setting: "sealed after a reboot", Change: answer(t, good, find(t, good, "systemctl show "), "UnitFileState=enabled", "UnitFileState=disabled"), Got: "disabled, active"},
		}
	})
}

func TestPasswords(t *testing.T) {
	runAccess(t, control.Passwords, nil, func(good controltest.Outputs) []controltest.Break {
		argv := find(t, good, "unshare ")
		one := func(name, old, new, got string) controltest.Break {
			return controltest.Break{Name: name, Setting: "new passwords", Change: answer(t, good, argv, old, new), Got: got}
		}
		const (
			done = "passwd: password updated successfully"
			few  = "BAD PASSWORD: The password contains less than 3 character classes"
		)
		return []controltest.Break{
			one("short", "1 Current password: New password: BAD PASSWORD", "1 Current password: New password: Retype new password: "+done, "too short: accepted"),
			one("root may", "2 New password: BAD PASSWORD", "2 New password: Retype new password: "+done, "too short, set by root: accepted"),
			one("no words", "6 Current password: New password: BAD PASSWORD", "6 Current password: "+done, "a word of the dictionary: accepted"),
			one("history", "old Current password", "old "+done+" Current password", "an old one again: accepted"),
			one("empty", "empty Password: su: Authentication failure", "empty Password: is in", "an empty one: logs in"),
			one("nothing is accepted", done, "passwd: Authentication token lock busy", "a good one: refused for another reason"),
			one("another reason", few+" New password: "+few, "no", "too few kinds of characters: refused for another reason"),
		}
	})
}

func TestLockout(t *testing.T) {
	runAccess(t, control.Lockout, nil, func(good controltest.Outputs) []controltest.Break {
		argv := find(t, good, "unshare ")
		one := func(name, old, new, got string) controltest.Break {
			return controltest.Break{Name: name, Setting: "failed logins", Change: answer(t, good, argv, old, new), Got: got}
		}
		return []controltest.Break{
			one("nobody gets in", "fresh Password: is in", "fresh Password: su: Authentication failure", "the right password: locked"),
			one("not counted", "counted 5", "counted 0", "5 wrong ones: 0 counted"),
			one("not locked", "locked Password: su: Authentication failure", "locked Password: is in", "5 counted, in"),
			one("says so", "locked Password: su: Authentication failure", "locked The account is locked due to 5 failed logins.", `said as "The account is locked`),
			one("no reset", "reset Password: is in", "reset Password: su: Authentication failure", "after faillock --reset: locked"),
			one("too early", "1 Password: is in", "1 Password: su: Authentication failure", "after 4 failures: locked"),
			one("opens early", "3 Password: su: Authentication failure", "3 Password: is in", "1680 s after the last of 5: in"),
			one("never opens", "4 Password: is in", "4 Password: su: Authentication failure", "1860 s after the last of 5: locked"),
			one("root never", "5 Password: su: Authentication failure", "5 Password: is in", "root after 5: in"),
			{Name: "a stack of its own", Setting: "every door", Change: controltest.Outputs{find(t, good, "grep -LE "): {Stdout: "/etc/pam.d/sudo\n"}}, Got: "not through the common stack: /etc/pam.d/sudo"},
		}
	})
}

func TestSSHD(t *testing.T) {
	runAccess(t, control.SSHD, nil, func(good controltest.Outputs) []controltest.Break {
		const ask = "sshd -T -C user=ward-probe,host=localhost,addr=127.0.0.1"
		one := func(name, setting, old, new, got string) controltest.Break {
			return controltest.Break{Name: name, Setting: setting, Change: answer(t, good, ask, old, new), Got: got}
		}
		alike := func(name, argv, old, new, got string) controltest.Break {
			return controltest.Break{Name: name, Setting: "alike for everybody", Change: answer(t, good, argv, old, new), Got: got}
		}
		live := find(t, good, "sh -c exec ssh ")
		return []controltest.Break{
			one("root", "who", "permitrootlogin no", "permitrootlogin yes", "permitrootlogin yes"),
			one("groups", "who", "allowgroups phi-access", "allowgroups phi-access\nallowgroups users", "allowgroups phi-access users"),
			one("anybody", "who", "allowgroups phi-access\n", "", "allowgroups is not known"),
			one("passwords", "proof of identity", "passwordauthentication no", "passwordauthentication yes", "passwordauthentication yes"),
			one("keys elsewhere", "proof of identity", "authorizedkeysfile .ssh/authorized_keys", "authorizedkeysfile .ssh/authorized_keys /etc/keys", "authorizedkeysfile .ssh/authorized_keys /etc/keys"),
			one("forwarding", "sessions", "allowtcpforwarding no", "allowtcpforwarding yes", "allowtcpforwarding yes"),
			one("no banner", "sessions", "banner /etc/issue.net", "banner none", "banner none"),
			one("an old cipher", "cryptography", "ciphers ", "ciphers 3des-cbc,", "ciphers 3des-cbc,"),
			alike("bob by password", "sshd -T -C user=bob,host=localhost,addr=127.0.0.1", "passwordauthentication no", "passwordauthentication yes", "bob: passwordauthentication yes"),
			alike("root at all", "sshd -T -C user=root,host=localhost,addr=127.0.0.1", "permitrootlogin no", "permitrootlogin yes", "root: permitrootlogin yes"),
			alike("from afar", "sshd -T -C user=ward-probe,host=host.invalid,addr=198.51.100.7", "passwordauthentication no", "passwordauthentication yes", "from afar: passwordauthentication yes"),
			{Name: "a Match block", Setting: "alike for everybody", Change: controltest.Outputs{find(t, good, "grep -rilE "): {Stdout: "/etc/ssh/sshd_config\n"}}, Got: "Match block in /etc/ssh/sshd_config"},
			{Name: "passwords, until it starts again", Setting: "running server", Change: answer(t, good, live, "Authentications that can continue: publickey", "Authentications that can continue: publickey,password"), Got: "asks for publickey,password"},
			{Name: "down", Setting: "running server", Change: controltest.Outputs{live: {Stdout: "ssh: connect to host localhost port 22: Connection refused\r\n", Exit: 255}}, Got: "does not answer: ssh: connect to host"},
			{Name: "stopped", Setting: "ssh.service", Change: answer(t, good, find(t, good, "systemctl show "), "ActiveState=active", "ActiveState=inactive"), Got: "enabled, inactive"},
		}
	})
}

// TestSSHDLetsAStrangerIn is about a server so broken that the check's own
// connection is let in.
func TestSSHDLetsAStrangerIn(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	r, err := distro.Find("debian", "12")
	if err != nil {
		t.Fatal(err)
	}
	good := controltest.Load(t, "testdata/answers/debian-12/sshd.txtar")
	m := good.With(controltest.Outputs{find(t, good, "sh -c exec ssh "): {}}).Machine(r, p, accessMachine())
	for _, s := range control.SSHD(p, r).Settings {
		if s.Name() != "running server" {
			continue
		}
		if got, err := s.Check(t.Context(), m); err == nil || !strings.Contains(err.Error(), "was let in") {
			t.Errorf("Check() = %q, %v, want an error that says a stranger was let in", got, err)
		}
		return
	}
	t.Error("there is no setting for the running server")
}

func TestLogoff(t *testing.T) {
	runAccess(t, control.Logoff, nil, func(good controltest.Outputs) []controltest.Break {
		shell, logind := find(t, good, "env -i "), find(t, good, "busctl ")
		const ask = "sshd -T -C user=ward-probe,host=localhost,addr=127.0.0.1"
		return []controltest.Break{
			{Name: "not set", Setting: "login shells", Change: controltest.Outputs{shell: {Stdout: "value=\nunset=yes\nchanged=yes\nend=yes\n"}}, Got: "no TMOUT, can be unset"},
			{Name: "longer", Setting: "login shells", Change: answer(t, good, shell, "value=900", "value=90000"), Got: "TMOUT 90000, cannot be unset"},
			{Name: "not readonly", Setting: "login shells", Change: answer(t, good, shell, "end=yes", "unset=yes\nend=yes"), Got: "TMOUT 900, can be unset"},
			{Name: "can be set", Setting: "login shells", Change: answer(t, good, shell, "end=yes", "changed=yes\nend=yes"), Got: "TMOUT 900, can be changed"},
			{Name: "the form that does nothing", Setting: "SSH sessions", Change: answer(t, good, ask, "channeltimeout session:*=900", "channeltimeout session=900"), Got: "channeltimeout session=900"},
			{Name: "connections stay", Setting: "SSH sessions", Change: answer(t, good, ask, "unusedconnectiontimeout 900", "unusedconnectiontimeout none"), Got: "unusedconnectiontimeout none"},
			{Name: "never", Setting: "sessions of logind", Change: controltest.Outputs{logind: {Stdout: "t 18446744073709551615\n"}}, Got: "never ended"},
			{Name: "later", Setting: "sessions of logind", Change: controltest.Outputs{logind: {Stdout: "t 9000000000\n"}}, Got: "ended after 9000 s"},
		}
	})
}

func TestBanners(t *testing.T) {
	runAccess(t, control.Banners, nil, func(good controltest.Outputs) []controltest.Break {
		live, issue, motd := find(t, good, "sh -c exec ssh "), find(t, good, "script "), find(t, good, "unshare ")
		return []controltest.Break{
			{Name: "another text", Setting: "before an SSH login", Change: answer(t, good, live, "This system holds", "Welcome! This system holds"), Got: "Welcome! This"},
			{Name: "the release", Setting: "before a console login", Change: answer(t, good, issue, "This system", "Debian GNU/Linux access tty1 This system"), Got: "Debian GNU/Linux"},
			{Name: "none", Setting: "after login", Change: controltest.Outputs{motd: {Stdout: "ward-probe: \n"}}, Got: "no text"},
			{Name: "none", Setting: "before an SSH login", Change: answer(t, good, live, profileText(t), ""), Got: "no text"},
		}
	})
}

// profileText is the login banner of the hipaa profile, as it is shown.
func profileText(t *testing.T) string {
	t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(p.Controls.Banners.Login) + "\n"
}

// enableMFA is the option switched on.
func enableMFA(p *profiles.Profile) { p.Controls.MFA.Enabled = true }

func TestMFA(t *testing.T) {
	runAccess(t, control.MFA, enableMFA, func(good controltest.Outputs) []controltest.Break {
		const ask = "sshd -T -C user=ward-probe,host=localhost,addr=127.0.0.1"
		codes := find(t, good, "unshare ")
		return []controltest.Break{
			{Name: "either", Setting: "both are asked for", Change: answer(t, good, ask, "publickey,keyboard-interactive", "publickey"), Got: "authenticationmethods publickey; "},
			{Name: "again", Setting: "one-time passwords", Change: answer(t, good, codes, "same Verification code: su: Authentication failure", "same Verification code: is in"), Got: "the same again: in"},
			{Name: "any code", Setting: "one-time passwords", Change: answer(t, good, codes, "wrong Verification code: su: Authentication failure", "wrong Verification code: is in"), Got: "a wrong one: in"},
			{Name: "who is not enrolled", Setting: "one-time passwords", Change: answer(t, good, codes, "none Verification code: su: Authentication failure", "none is in"), Got: "not enrolled: in"},
			{Name: "nobody", Setting: "one-time passwords", Change: answer(t, good, codes, "right Verification code: is in", "right Verification code: su: Authentication failure"), Got: "the right code: refused"},
		}
	})
}
