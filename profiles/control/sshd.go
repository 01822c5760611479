package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// sshdDropIn sorts before what cloud images bring (50-cloud-init.conf): for
// sshd the first value of a keyword wins, sshd_config(5).
const sshdDropIn = "00-ward-sshd.conf"

// issueNet is the text that the SSH server shows before login.
const issueNet = "/etc/issue.net"

// SSHD is what the SSH server lets in, and how.
func SSHD(p *profiles.Profile, r distro.Release) Control {
	groups := sshdGroups(p, r)
	c := Control{
		ID:    "sshd",
		Title: "The SSH server lets in listed people with a key, over modern cryptography, and nobody as root",
		Why:   "Passwords are guessed, root is nobody's name, and old cryptography can be read or changed on the way.",
		Refs: []string{
			"45 CFR 164.312(d)",        // person or entity authentication
			"45 CFR 164.312(a)(1)",     // access control
			"45 CFR 164.312(e)(2)(i)",  // integrity controls in transmission
			"45 CFR 164.312(e)(2)(ii)", // encryption in transmission
			"NIST 800-53 AC-17", "NIST 800-53 IA-2", "NIST 800-53 SC-8", "NIST 800-53 SC-13",
		},
	}
	for i, g := range groups {
		s := setting{name: g.name, want: g.want(), check: g.check}
		if i == 0 {
			s.apply = applySSHD(groups)
		}
		c.Settings = append(c.Settings, s)
	}
	wantLive := liveWant(p, r)
	c.Settings = append(c.Settings,
		setting{name: "alike for everybody", want: sshdAlike, check: checkSSHDAlike},
		setting{name: "running server", want: wantLive, check: checkSSHDLive},
		unit{r.SSHUnit, unitRunning},
	)
	return c
}

// A keyword of sshd_config(5) and its value, spelled as sshd -T prints both
// except for the capitals.
type keyword struct{ name, value string }

// sshdGroup is the keywords that answer one question.
type sshdGroup struct {
	name     string
	comment  string
	keywords []keyword
}

func sshdGroups(p *profiles.Profile, r distro.Release) []sshdGroup {
	c := p.Controls.SSHD
	methods, keyboard := "publickey", "no"
	if p.Controls.MFA.Enabled {
		methods, keyboard = "publickey,keyboard-interactive", "yes"
	}
	return knownKeywords(r, []sshdGroup{
		{"who", "Who may log in.", []keyword{
			{"PermitRootLogin", "no"},
			{"AllowGroups", c.Group},
			{"MaxAuthTries", strconv.Itoa(c.MaxAuthTries)},
			{"LoginGraceTime", strconv.Itoa(c.LoginGrace)},
			{"MaxStartups", "10:30:60"},
		}},
		{"proof of identity", "What they have to show.", []keyword{
			{"PubkeyAuthentication", "yes"},
			{"AuthenticationMethods", methods},
			{"PasswordAuthentication", "no"},
			{"KbdInteractiveAuthentication", keyboard},
			{"PermitEmptyPasswords", "no"},
			{"HostbasedAuthentication", "no"},
			{"GSSAPIAuthentication", "no"},
			{"KerberosAuthentication", "no"},
			{"IgnoreRhosts", "yes"},
			{"UsePAM", "yes"},
			{"StrictModes", "yes"},
			// One file for keys, which the people control owns; no command and no
			// authority beside it.
			{"AuthorizedKeysFile", ".ssh/authorized_keys"},
			{"AuthorizedKeysCommand", "none"},
			{"TrustedUserCAKeys", "none"},
			{"RequiredRSASize", strconv.Itoa(rsaBits)},
		}},
		{"sessions", "What a session is, and that its key is in the log.", []keyword{
			{"Banner", issueNet},
			{"LogLevel", "VERBOSE"},
			{"ClientAliveInterval", strconv.Itoa(c.AliveInterval)},
			{"ClientAliveCountMax", strconv.Itoa(c.AliveCount)},
			{"DisableForwarding", "yes"},
			{"X11Forwarding", "no"},
			{"AllowTcpForwarding", "no"},
			{"AllowAgentForwarding", "no"},
			{"AllowStreamLocalForwarding", "no"},
			{"PermitTunnel", "no"},
			{"GatewayPorts", "no"},
			{"PermitUserEnvironment", "no"},
			{"PermitUserRC", "no"},
		}},
		{"cryptography", "What the connection is protected by.", []keyword{
			{"Ciphers", strings.Join(knownTo(r, c.Ciphers), ",")},
			{"KexAlgorithms", strings.Join(knownTo(r, c.KexAlgorithms), ",")},
			{"MACs", strings.Join(knownTo(r, c.MACs), ",")},
			{"HostKeyAlgorithms", strings.Join(hostKeyAlgorithms, ",")},
		}},
	})
}

// keywordSince is the OpenSSH that first had a keyword, where that is newer than
// the oldest release ward knows. sshd does not start with one that it does not know.
var keywordSince = map[string][2]int{"RequiredRSASize": {9, 1}}

// knownKeywords leaves out what the release's OpenSSH does not know.
func knownKeywords(r distro.Release, groups []sshdGroup) []sshdGroup {
	for i := range groups {
		groups[i].keywords = slices.DeleteFunc(groups[i].keywords, func(k keyword) bool {
			since, ok := keywordSince[k.name]
			return ok && !r.HasOpenSSH(since[0], since[1]) && !slices.Contains(r.SSHBackports, k.name)
		})
	}
	return groups
}

var hostKeyAlgorithms = []string{"ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"}

// algorithmSince is the OpenSSH that first had an algorithm, where that is newer
// than the oldest release ward knows (release notes, openssh.com/releasenotes.html).
// sshd does not start with a name that it does not know.
var algorithmSince = map[string][2]int{
	"sntrup761x25519-sha512@openssh.com": {8, 5},
	"sntrup761x25519-sha512":             {9, 9},
	"mlkem768x25519-sha256":              {9, 9},
}

// knownTo leaves out what the release's OpenSSH does not know.
func knownTo(r distro.Release, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		since, ok := algorithmSince[name]
		return ok && !r.HasOpenSSH(since[0], since[1])
	})
}

// sshdFolder is what sshd wants to be there, also to print what it would do (-T);
// where a socket listens for it, the service that makes it starts with the first
// connection.
const sshdFolder = "# ward: sshd\nd /run/sshd 0755 root root -\n"

func applySSHD(groups []sshdGroup) func(context.Context, *Target) error {
	var b strings.Builder
	b.WriteString("# ward: sshd. The first value of a keyword wins, so this file sorts first.\n")
	for _, g := range groups {
		b.WriteString("\n# " + g.comment + "\n")
		for _, k := range g.keywords {
			b.WriteString(k.name + " " + k.value + "\n")
		}
	}
	return func(ctx context.Context, t *Target) error {
		if t.Release.SSHUnit != t.Release.SSHService() {
			if err := writeFile(t.Root, "etc/tmpfiles.d/ward-sshd.conf", sshdFolder, 0o644); err != nil {
				return err
			}
		}
		return dropSSHD(ctx, t, sshdDropIn, b.String())
	}
}

// dropSSHD writes one of ward's files for sshd. On a running machine sshd reads
// it at once; one that is not running reads it when it starts.
func dropSSHD(ctx context.Context, t *Target, name, content string) (err error) {
	file := sshdConfig
	if t.Release.SSHDropIn != "" {
		file = t.Release.SSHDropIn + "/" + name
	} else if content, err = withoutInclude(t, name, content); err != nil {
		return err
	}
	changed, err := updateFile(t.Root, file, content, 0o600)
	if err != nil || !changed || t.Phase != FirstBoot {
		return err
	}
	_, err = t.Run(ctx, "systemctl", "--no-block", "try-reload-or-restart", t.Release.SSHService())
	return err
}

const sshdConfig = "etc/ssh/sshd_config"

// withoutInclude is sshd_config with a block of ward's before everything else, for
// an OpenSSH that has no Include. There the unit also puts the system's policy for
// cryptography on the command line, which would win; its file of variables is read
// last (sshd.service of such releases).
func withoutInclude(t *Target, name, content string) (string, error) {
	old, err := t.Root.ReadFile(sshdConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read /%s: %w", sshdConfig, err)
	}
	const variables = "etc/sysconfig/sshd"
	vars, err := t.Root.ReadFile(variables)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read /%s: %w", variables, err)
	}
	if err := writeFile(t.Root, variables, withBlock(string(vars), "sshd", "CRYPTO_POLICY=\n"), 0o640); err != nil {
		return "", err
	}
	begin, end := "# ward: "+name+" begin\n", "# ward: "+name+" end\n"
	text := string(old)
	if before, rest, ok := strings.Cut(text, begin); ok {
		if _, after, ok := strings.Cut(rest, end); ok {
			text = before + after
		}
	}
	return begin + content + end + text, nil
}

// sshdAsk returns what sshd would do for a connection, keyword by keyword.
func sshdAsk(ctx context.Context, m *Machine, user, host, addr string) (map[string]string, error) {
	out, err := m.Run(ctx, "sshd", "-T", "-C", "user="+user+",host="+host+",addr="+addr)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if old, more := values[key]; more {
			value = old + " " + value // one line for each group, port, host key ...
		}
		values[key] = value
	}
	if len(values) < 20 {
		return nil, fmt.Errorf("sshd -T printed %d keywords: %.200q", len(values), out)
	}
	return values, nil
}

func (g sshdGroup) want() string {
	var words []string
	for _, k := range g.keywords {
		words = append(words, strings.ToLower(k.name)+" "+k.value)
	}
	return strings.Join(words, "; ")
}

// check asks for a user that does not exist: what holds for a stranger.
func (g sshdGroup) check(ctx context.Context, m *Machine) (string, error) {
	values, err := sshdAsk(ctx, m, probeUser, "localhost", "127.0.0.1")
	if err != nil {
		return "", err
	}
	var words []string
	for _, k := range g.keywords {
		key := strings.ToLower(k.name)
		value, ok := values[key]
		if !ok {
			value = "is not known to this sshd"
		}
		words = append(words, key+" "+value)
	}
	return strings.Join(words, "; "), nil
}

const sshdAlike = "no Match block; the same for every person, root, a stranger and from afar"

// checkSSHDAlike looks for people or places to whom other rules apply.
func checkSSHDAlike(ctx context.Context, m *Machine) (string, error) {
	base, err := sshdAsk(ctx, m, probeUser, "localhost", "127.0.0.1")
	if err != nil {
		return "", err
	}
	if m.Config == nil {
		return "", fmt.Errorf("there is no machine file that says who the people are")
	}
	users := []string{"root", m.Profile.Controls.Breakglass.User}
	for _, w := range m.Config.People {
		users = append(users, w.Name)
	}
	var wrong []string
	compare := func(who, user, host, addr string) error {
		values, err := sshdAsk(ctx, m, user, host, addr)
		if err != nil {
			return err
		}
		for _, key := range sortedKeys(base, values) {
			if base[key] != values[key] {
				wrong = append(wrong, fmt.Sprintf("%s: %s %s", who, key, values[key]))
			}
		}
		return nil
	}
	for _, user := range users {
		if err := compare(user, user, "localhost", "127.0.0.1"); err != nil {
			return "", err
		}
	}
	// 198.51.100.0/24 is nobody's, RFC 5737.
	if err := compare("from afar", probeUser, "host.invalid", "198.51.100.7"); err != nil {
		return "", err
	}
	// A block may name an address that was not asked for.
	argv := []string{"grep", "-rilE", `^[[:space:]]*match[[:space:]]`, "/" + sshdConfig}
	if m.Release.SSHDropIn != "" {
		argv = append(argv, "/"+m.Release.SSHDropIn)
	}
	out, err := m.Run(ctx, argv...)
	switch code := exitCode(err); {
	case code == 0:
		wrong = append(wrong, "Match block in "+strings.Join(strings.Fields(out), " "))
	case code != 1: // grep(1): 1, no line
		return "", err
	}
	return report(wrong, sshdAlike), nil
}

func sortedKeys(maps ...map[string]string) []string {
	var keys []string
	for _, m := range maps {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func liveWant(p *profiles.Profile, r distro.Release) string {
	c := p.Controls.SSHD
	return fmt.Sprintf("kex %s; ciphers %s; macs %s; asks for publickey",
		strings.Join(knownTo(r, c.KexAlgorithms), ","), strings.Join(knownTo(r, c.Ciphers), ","), strings.Join(knownTo(r, c.MACs), ","))
}

// sshLive connects to the running server as a stranger who shows nothing, and
// returns what the client has to tell: sshd -T reads the files, and a server
// that was not started again since they changed does something else.
func sshLive(ctx context.Context, m *Machine) (string, error) {
	const script = `exec ssh -F /dev/null -vv -o ConnectTimeout=20 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o IdentityFile=/dev/null -o IdentityAgent=none -o PreferredAuthentications=none "$1@localhost" true 2>&1`
	out, err := m.Run(ctx, "sh", "-c", script, "ssh", probeUser)
	if exitCode(err) != 255 { // ssh(1): 255, an error; here that it may not come in
		if err == nil {
			return "", fmt.Errorf("a stranger who shows nothing was let in by the SSH server")
		}
		return "", err
	}
	return strings.ReplaceAll(out, "\r", ""), nil
}

func checkSSHDLive(ctx context.Context, m *Machine) (string, error) {
	out, err := sshLive(ctx, m)
	if err != nil {
		return "", err
	}
	_, peer, ok := strings.Cut(out, "peer server KEXINIT proposal")
	if !ok {
		return "does not answer: " + lastLine(out), nil
	}
	// Both directions are offered alike by sshd, which has one list.
	value := func(label string) string {
		_, rest, _ := strings.Cut(peer, label)
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(line)
	}
	kex := slices.DeleteFunc(strings.Split(value("KEX algorithms: "), ","), func(s string) bool {
		// Markers of protocol extensions, which are no key exchange: OpenSSH
		// PROTOCOL 1.10, RFC 8308.
		return strings.HasPrefix(s, "kex-strict-") || s == "ext-info-s"
	})
	return fmt.Sprintf("kex %s; ciphers %s; macs %s; asks for %s",
		strings.Join(kex, ","), value("ciphers stoc: "), value("MACs stoc: "), value("Authentications that can continue: ")), nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
