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
	"ward/profiles/machine"
)

// Accounts is that each person has one account of their own, and nobody else has one.
func Accounts(p *profiles.Profile, r distro.Release) Control {
	c := p.Controls.Accounts
	wantDefaults, checkDefaults := checkSudoDefaults(p)
	return Control{
		ID:    "accounts",
		Title: "Every person has one account of their own, and nobody else can log in",
		Why:   "A shared or forgotten account hides who acted, and goes on opening the door after a person has left.",
		Refs: []string{
			"45 CFR 164.312(a)(2)(i)",     // unique user identification
			"45 CFR 164.312(d)",           // person or entity authentication
			"45 CFR 164.308(a)(3)(ii)(C)", // termination procedures
			"45 CFR 164.308(a)(4)(ii)(C)", // access establishment and modification
			"NIST 800-53 AC-2", "NIST 800-53 IA-2", "NIST 800-53 AC-6(9)",
		},
		Settings: []Setting{
			setting{name: "group", apply: applyGroup(c.Group), want: c.Group, check: checkGroup(c.Group)},
			setting{name: "service account", apply: applyService(c), want: c.Service + ": locked, no shell, group " + c.Group, check: checkService(c)},
			setting{name: "root", apply: lockRoot, want: "locked", check: checkRoot},
			setting{
				name: "ageing of new accounts", apply: applyLoginDefs(c),
				want:  fmt.Sprintf("max %d, min %d, warn %d days", c.MaxDays, c.MinDays, c.WarnDays),
				check: checkNewAccount,
			},
			setting{name: "sudo options", apply: applySudoDefaults(p), want: wantDefaults, check: checkDefaults},
			setting{name: "people", apply: applyPeople, want: allPeople, check: checkPeople},
			setting{name: "nobody else", want: nobodyElse, check: checkOthers},
			setting{name: "identities", want: oneEach, check: checkIdentities},
			setting{name: "sudo", want: sudoAsListed, check: checkSudo},
		},
	}
}

func applyGroup(name string) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		if t.Phase != Bake {
			return nil
		}
		if _, err := t.Run(ctx, "getent", "group", name); exitCode(err) != 2 { // getent(1): 2, not found
			return err
		}
		_, err := t.Run(ctx, "groupadd", "--system", name)
		return err
	}
}

func checkGroup(name string) func(context.Context, *Machine) (string, error) {
	return func(ctx context.Context, m *Machine) (string, error) {
		db, err := readUserDB(ctx, m.Run)
		if err != nil {
			return "", err
		}
		g, ok := db.group(name)
		if !ok {
			return "no group " + name, nil
		}
		return g.name, nil
	}
}

// applyService makes the account that owns PHI. Programs run as it; nobody logs
// in as it.
func applyService(c profiles.Accounts) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		if t.Phase != Bake {
			return nil
		}
		if _, err := t.Run(ctx, "getent", "passwd", c.Service); exitCode(err) != 2 {
			return err
		}
		_, err := t.Run(ctx, "useradd", "--system", "--gid", c.Group, "--no-create-home", "--home-dir", "/nonexistent", "--shell", nologin, "--comment", "owner of PHI", c.Service)
		return err
	}
}

func checkService(c profiles.Accounts) func(context.Context, *Machine) (string, error) {
	return func(ctx context.Context, m *Machine) (string, error) {
		db, err := readUserDB(ctx, m.Run)
		if err != nil {
			return "", err
		}
		a, there := db.account(c.Service)
		if !there {
			return "no account " + c.Service, nil
		}
		s, _ := db.shadow(c.Service)
		got := []string{"locked", "no shell"}
		if s.usable() {
			got[0] = "has a password"
		}
		if a.shell != nologin {
			got[1] = "shell " + a.shell
		}
		return fmt.Sprintf("%s: %s, group %s", a.name, strings.Join(got, ", "), strings.Join(db.groupsOf(a), " ")), nil
	}
}

func lockRoot(ctx context.Context, t *Target) error {
	if t.Phase != Bake {
		return nil
	}
	db, err := readUserDB(ctx, t.Run)
	if err != nil {
		return err
	}
	if s, ok := db.shadow("root"); ok && !s.usable() {
		return nil
	}
	_, err = t.Run(ctx, "usermod", "--lock", "root")
	return err
}

func checkRoot(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "passwd", "--status", "root")
	if err != nil {
		return "", err
	}
	// passwd(1): name, then L locked, NP no password or P usable password;
	// "LK", "NP" and "PS" on rpm releases.
	f := strings.Fields(out)
	if len(f) < 2 || f[0] != "root" {
		return "", fmt.Errorf("passwd --status root printed %q", out)
	}
	switch f[1] {
	case "L", "LK":
		return "locked", nil
	case "NP":
		return "no password is asked for", nil
	}
	return "has a password (" + f[1] + ")", nil
}

// loginDefs are the lines of login.defs(5) that decide about new accounts; the
// file has no drop-ins.
func loginDefs(c profiles.Accounts) [][2]string {
	return [][2]string{
		{"PASS_MAX_DAYS", strconv.Itoa(c.MaxDays)},
		{"PASS_MIN_DAYS", strconv.Itoa(c.MinDays)},
		{"PASS_WARN_AGE", strconv.Itoa(c.WarnDays)},
		{"HOME_MODE", "0700"},
		{"UMASK", "027"},
	}
}

func applyLoginDefs(c profiles.Accounts) func(context.Context, *Target) error {
	const file = "etc/login.defs"
	return func(_ context.Context, t *Target) error {
		old, err := t.Root.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read /%s: %w", file, err)
		}
		return writeFile(t.Root, file, withKeywords(string(old), loginDefs(c)), 0o644)
	}
}

// withKeywords gives each keyword its value in a text of lines "KEYWORD VALUE":
// the first line of a keyword is changed in its place, more of them are dropped,
// and what has no line yet comes at the end.
func withKeywords(text string, values [][2]string) string {
	var b strings.Builder
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		i := -1
		if len(f) > 0 {
			i = slices.IndexFunc(values, func(kv [2]string) bool { return kv[0] == f[0] })
		}
		switch {
		case i < 0:
			b.WriteString(line)
		case !seen[f[0]]:
			seen[f[0]] = true
			fmt.Fprintf(&b, "%s\t%s\n", values[i][0], values[i][1])
		}
	}
	if text := b.String(); text != "" && !strings.HasSuffix(text, "\n") {
		b.WriteString("\n")
	}
	for _, kv := range values {
		if !seen[kv[0]] {
			fmt.Fprintf(&b, "%s\t%s\n", kv[0], kv[1])
		}
	}
	return b.String()
}

// checkNewAccount looks at what a new account gets. pwconv(8) makes the shadow
// entry from login.defs, as useradd does, and writes no record of a new account.
func checkNewAccount(ctx context.Context, m *Machine) (string, error) {
	script := fmt.Sprintf("printf '%%s\\n' '%s:x:%d:65534::/nonexistent:%s' >>/etc/passwd\npwconv || exit 91\nsay \"$(getent shadow %s | cut -d: -f4-6)\"\n", probeUser, probeUID, nologin, probeUser)
	said, err := aside(ctx, m, "new-account", script)
	if err != nil {
		return "", err
	}
	f := strings.Split(said[0], ":")
	if len(f) != 3 {
		return "", fmt.Errorf("a new account has the ageing %q", said[0])
	}
	return fmt.Sprintf("max %s, min %s, warn %s days", f[1], f[0], f[2]), nil
}

func applySudoDefaults(p *profiles.Profile) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		return putSudoers(ctx, t, "etc/sudoers.d/00-ward-accounts", sudoDefaults(p))
	}
}

const nobodyElse = "nobody else can log in"

// checkOthers looks at every account that is neither root, nor the emergency
// account, nor a person's of the machine file.
func checkOthers(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil {
		return "", fmt.Errorf("there is no machine file to compare with")
	}
	db, err := readUserDB(ctx, m.Run)
	if err != nil {
		return "", err
	}
	var wrong []string
	for _, a := range db.accounts {
		listed := slices.ContainsFunc(m.Config.People, func(w machine.Person) bool { return w.Name == a.name })
		if listed || a.uid == 0 || a.name == m.Profile.Controls.Breakglass.User {
			continue
		}
		s, _ := db.shadow(a.name)
		if s.usable() {
			wrong = append(wrong, fmt.Sprintf("%s (uid %d) has a password", a.name, a.uid))
		}
		if !noShell(a.shell) {
			wrong = append(wrong, fmt.Sprintf("%s (uid %d) has the shell %s", a.name, a.uid, a.shell))
		}
		if a.uid >= firstPerson && a.uid <= lastPerson && s.expire != "1" {
			wrong = append(wrong, fmt.Sprintf("%s (uid %d) is not in the machine file and has not expired", a.name, a.uid))
		}
	}
	// The group sudo (wheel on rpm releases) may do everything in the
	// distribution's own sudoers; membership would be a way past the machine file.
	for _, name := range []string{"sudo", "wheel"} {
		if g, ok := db.group(name); ok && len(g.members) > 0 {
			wrong = append(wrong, fmt.Sprintf("group %s has the members %s", name, strings.Join(g.members, " ")))
		}
	}
	return report(wrong, nobodyElse), nil
}

const oneEach = "one name, one number, one person; no empty password"

func checkIdentities(ctx context.Context, m *Machine) (string, error) {
	db, err := readUserDB(ctx, m.Run)
	if err != nil {
		return "", err
	}
	var wrong []string
	names, uids := make(map[string]bool), make(map[int]string)
	for _, a := range db.accounts {
		if names[a.name] {
			wrong = append(wrong, "the name "+a.name+" is there twice")
		}
		names[a.name] = true
		switch other, twice := uids[a.uid]; {
		case a.uid == 0 && a.name != "root":
			wrong = append(wrong, a.name+" is root under another name (uid 0)")
		case twice:
			wrong = append(wrong, fmt.Sprintf("%s and %s are both uid %d", other, a.name, a.uid))
		}
		uids[a.uid] = a.name
		switch {
		case strings.HasPrefix(a.password, "!") || strings.HasPrefix(a.password, "*"):
			continue // systemd's own, of a unit with DynamicUser=
		case a.password != "x":
			wrong = append(wrong, a.name+" has its password, or none, in /etc/passwd")
			continue
		}
		if s, ok := db.shadow(a.name); !ok {
			wrong = append(wrong, a.name+" has no entry in /etc/shadow")
		} else if s.hash == "" {
			wrong = append(wrong, a.name+" has an empty password")
		}
	}
	return report(wrong, oneEach), nil
}
