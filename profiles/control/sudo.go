package control

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"ward/profiles"
	"ward/profiles/machine"
)

const sudoLog = "/var/log/sudo.log"

func sudoersPath(name string) string { return "etc/sudoers.d/ward-" + name }

// sudoDefaults are the rules for everybody who may use sudo. sudo's own log is
// beside what it sends to the journal: it can be read without the journal.
func sudoDefaults(p *profiles.Profile) string {
	return fmt.Sprintf(`# ward: accounts. Who acts as root leaves a trace, and is asked again.
Defaults use_pty
Defaults logfile=%s
Defaults timestamp_timeout=%d
Defaults passwd_tries=3
`, sudoLog, p.Controls.Accounts.SudoTimeout)
}

// sudoRule lets one person do everything as root. A person without a password
// cannot be asked for one; their key is what they have shown.
func sudoRule(w machine.Person) string {
	tag := ""
	if w.PasswordHash == "" {
		tag = "NOPASSWD: "
	}
	return fmt.Sprintf("# ward: accounts. %s\n%s ALL=(ALL:ALL) %sALL\n", w.FullName, w.Name, tag)
}

// putSudoers writes a file that sudo reads, after visudo(8) has parsed it: sudo
// refuses to work at all when one of its files has a fault.
func putSudoers(ctx context.Context, t *Target, name, content string) error {
	_, err := put{name: name, content: content, mode: 0o440, uid: -1, gid: -1, proof: func(temp string) error {
		_, err := t.Run(ctx, "visudo", "--check", "--quiet", "--file=/"+temp)
		return err
	}}.into(t.Root)
	return err
}

func applySudo(ctx context.Context, t *Target, w machine.Person) error {
	if !w.Sudo {
		return removeFile(t.Root, sudoersPath(w.Name))
	}
	return putSudoers(ctx, t, sudoersPath(w.Name), sudoRule(w))
}

const sudoAsListed = "only who the machine file lets"

// checkSudo asks sudo what each account may do: those of people, and all others
// that have a shell.
func checkSudo(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil {
		return "", fmt.Errorf("there is no machine file to compare with")
	}
	db, err := readUserDB(ctx, m.Run)
	if err != nil {
		return "", err
	}
	var wrong []string
	for _, a := range db.accounts {
		i := slices.IndexFunc(m.Config.People, func(w machine.Person) bool { return w.Name == a.name })
		// The emergency account's seal is looked at by its own control.
		if a.uid == 0 || a.name == m.Profile.Controls.Breakglass.User || i < 0 && noShell(a.shell) {
			continue
		}
		out, err := m.Run(ctx, "sudo", "--list", "--other-user="+a.name)
		if err != nil {
			return "", err
		}
		_, rules, may := strings.Cut(out, "may run the following commands")
		_, rules, _ = strings.Cut(rules, "\n")
		rules = strings.Join(strings.Fields(rules), " ")
		want := ""
		if i >= 0 && m.Config.People[i].Sudo {
			want = "(ALL : ALL) ALL"
			if m.Config.People[i].PasswordHash == "" {
				want = "(ALL : ALL) NOPASSWD: ALL"
			}
		}
		switch {
		case !may && !strings.Contains(out, "is not allowed to run sudo"):
			return "", fmt.Errorf("sudo --list says neither that %s may nor that they may not: %q", a.name, out)
		case rules != want:
			wrong = append(wrong, fmt.Sprintf("%s may run %q, want %q", a.name, rules, want))
		}
	}
	return report(wrong, sudoAsListed), nil
}

// noShell tells whether nobody can work with this shell.
func noShell(shell string) bool {
	return slices.Contains([]string{"nologin", "false", "sync", "halt", "shutdown"}, path.Base(shell))
}

// checkSudoDefaults asks sudo for the options that hold for root's own use,
// which are those that hold for everybody.
func checkSudoDefaults(p *profiles.Profile) (want string, check func(context.Context, *Machine) (string, error)) {
	keys := []string{"use_pty", "logfile", "timestamp_timeout"}
	want = fmt.Sprintf("use_pty, logfile=%s, timestamp_timeout=%d", sudoLog, p.Controls.Accounts.SudoTimeout)
	return want, func(ctx context.Context, m *Machine) (string, error) {
		out, err := m.Run(ctx, "sudo", "--list", "--other-user=root")
		if err != nil {
			return "", err
		}
		_, out, ok := strings.Cut(out, "Matching Defaults entries")
		if !ok {
			return "no options at all", nil
		}
		out, _, _ = strings.Cut(out, "\n\n")
		_, out, _ = strings.Cut(out, ":\n")
		last := make(map[string]string) // the last of an option counts, sudoers(5)
		for word := range strings.SplitSeq(strings.Join(strings.Fields(out), " "), ", ") {
			key, _, _ := strings.Cut(strings.TrimPrefix(word, "!"), "=")
			last[key] = word
		}
		var got []string
		for _, k := range keys {
			if last[k] == "" {
				last[k] = "no " + k
			}
			got = append(got, last[k])
		}
		return strings.Join(got, ", "), nil
	}
}
