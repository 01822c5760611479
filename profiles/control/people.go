package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"ward/profiles"
	"ward/profiles/machine"
)

const (
	peoplePath = "var/lib/ward/people.json"
	// firstPerson is the lowest number of a person's account, login.defs(5) UID_MIN
	// on every release that ward knows.
	firstPerson = 1000
	// lastPerson is UID_MAX. What lies above is made by systemd and nobody.
	lastPerson = 60000
	nologin    = "/usr/sbin/nologin"
	shell      = "/bin/bash"
)

// A roster is who ever had an account by a machine file. It outlives the file, so
// that who is taken off it is known and loses the access.
type roster struct {
	Version int     `json:"version"`
	People  []entry `json:"people"`
}

type entry struct {
	Name string `json:"name"`
	// Hash is the SHA-256 of the password hash that was set, so that a password
	// which the person has changed since is not set back at every boot.
	Hash    string `json:"hash,omitempty"`
	Removed bool   `json:"removed,omitempty"`
}

func loadRoster(root *os.Root) (*roster, error) {
	data, err := root.ReadFile(peoplePath)
	if errors.Is(err, fs.ErrNotExist) {
		return &roster{Version: 1}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", peoplePath, err)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	var r roster
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("read /%s: %w\nhint: it lists who had an account; restore it, or remove it and look at the accounts by hand", peoplePath, err)
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("/%s has version %d, want 1", peoplePath, r.Version)
	}
	for _, one := range r.People {
		if !loginName.MatchString(one.Name) {
			return nil, fmt.Errorf("/%s: %q is not a login name", peoplePath, one.Name)
		}
	}
	return &r, nil
}

func (r *roster) save(root *os.Root) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(root, peoplePath, string(data)+"\n", 0o600)
}

// one returns the entry of a name, made if need be.
func (r *roster) one(name string) *entry {
	i := slices.IndexFunc(r.People, func(o entry) bool { return o.Name == name })
	if i < 0 {
		r.People = append(r.People, entry{Name: name})
		i = len(r.People) - 1
	}
	return &r.People[i]
}

// applyPeople makes the machine's accounts those of its machine file. Each step
// looks before it changes, so that it may run again and goes on where the power
// was cut.
func applyPeople(ctx context.Context, t *Target) error {
	if t.Phase != FirstBoot {
		return nil
	}
	if t.Machine == nil {
		return fmt.Errorf("there is no machine file, so nobody is known")
	}
	want := t.Machine.People
	if err := ValidatePeople(want, t.Profile); err != nil {
		return err
	}
	db, err := readUserDB(ctx, t.Run)
	if err != nil {
		return err
	}
	var faults []error
	for i, w := range want {
		if a, there := db.account(w.Name); there && a.uid < firstPerson {
			faults = append(faults, fmt.Errorf("people[%d].name: %q is a system account of this image (uid %d); give the person's own name", i, w.Name, a.uid))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	known, err := loadRoster(t.Root)
	if err != nil {
		return err
	}
	// Who gets an account is written down before the account is made.
	for _, w := range want {
		known.one(w.Name).Removed = false
	}
	if err := known.save(t.Root); err != nil {
		return err
	}
	for _, w := range want {
		if err := applyPerson(ctx, t, db, w, known); err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	for i, k := range known.People {
		if slices.ContainsFunc(want, func(w machine.Person) bool { return w.Name == k.Name }) {
			continue
		}
		if err := removePerson(ctx, t, db, k.Name); err != nil {
			return fmt.Errorf("take the access from %s: %w", k.Name, err)
		}
		known.People[i] = entry{Name: k.Name, Removed: true}
	}
	return known.save(t.Root)
}

func applyPerson(ctx context.Context, t *Target, db *userDB, w machine.Person, known *roster) error {
	for _, g := range w.Groups {
		if _, there := db.group(g); there {
			continue
		}
		t.Log.Warn("group of the machine file was not there and is made", "group", g, "person", w.Name)
		if _, err := t.Run(ctx, "groupadd", g); err != nil {
			return err
		}
		db.groups = append(db.groups, group{name: g, gid: -1})
	}
	groups := strings.Join(slices.Sorted(slices.Values(w.Groups)), ",")
	a, there := db.account(w.Name)
	if !there {
		argv := []string{"useradd", "--create-home", "--key", "HOME_MODE=0700", "--shell", shell, "--user-group", "--comment", w.FullName, "--groups", groups, w.Name}
		if _, err := t.Run(ctx, argv...); err != nil {
			return err
		}
	} else if have := strings.Join(slices.Sorted(slices.Values(db.groupsOf(a))), ","); have != groups || a.fullName != w.FullName || a.shell != shell {
		if _, err := t.Run(ctx, "usermod", "--shell", shell, "--comment", w.FullName, "--groups", groups, w.Name); err != nil {
			return err
		}
	}
	if err := applyPassword(ctx, t, db, w, known); err != nil {
		return err
	}
	c := t.Profile.Controls.Accounts
	s, _ := db.shadow(w.Name)
	if s.min != strconv.Itoa(c.MinDays) || s.max != strconv.Itoa(c.MaxDays) || s.warn != strconv.Itoa(c.WarnDays) || s.expire != "" {
		if _, err := t.Run(ctx, "chage", "--mindays", strconv.Itoa(c.MinDays), "--maxdays", strconv.Itoa(c.MaxDays), "--warndays", strconv.Itoa(c.WarnDays), "--expiredate", "-1", w.Name); err != nil {
			return err
		}
	}
	if err := putKeys(ctx, t, w.Name, keyLines(w)); err != nil {
		return err
	}
	return applySudo(ctx, t, w)
}

// applyPassword sets the password of the machine file once. An account without
// one gets "*": "!" in front would look like an account that somebody locked,
// and sshd without UsePAM refuses even a key for that.
func applyPassword(ctx context.Context, t *Target, db *userDB, w machine.Person, known *roster) error {
	s, there := db.shadow(w.Name)
	k := known.one(w.Name)
	digest := ""
	if w.PasswordHash != "" {
		sum := sha256.Sum256([]byte(w.PasswordHash))
		digest = hex.EncodeToString(sum[:])
	}
	hash := w.PasswordHash
	switch {
	case hash == "" && there && s.hash == "*":
		return nil
	case hash == "":
		hash = "*"
	case there && k.Hash == digest && s.usable() && s.hash != "":
		return nil
	}
	// By standard input: everybody may read an argument.
	if t.RunInput == nil {
		return fmt.Errorf("set the password: the target runs no program with standard input")
	}
	if _, err := t.RunInput(ctx, w.Name+":"+hash+"\n", "chpasswd", "--encrypted"); err != nil {
		return err
	}
	k.Hash = digest
	return known.save(t.Root)
}

// putKeys writes the authorized_keys, sshd(8), of an account: its own, and
// readable by nobody else.
func putKeys(ctx context.Context, t *Target, user, content string) error {
	out, err := t.Run(ctx, "getent", "passwd", user)
	if err != nil {
		return err
	}
	f := strings.Split(strings.TrimSpace(out), ":")
	if len(f) != 7 {
		return fmt.Errorf("getent passwd %s printed %q", user, out)
	}
	uid, err1 := strconv.Atoi(f[2])
	gid, err2 := strconv.Atoi(f[3])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("getent passwd %s: %w", user, err)
	}
	home, ok := strings.CutPrefix(path.Clean(f[5]), "/")
	if !ok || home == "" {
		return fmt.Errorf("the home directory is %q", f[5])
	}
	// Below their home a person decides what is a link; none leads out of it.
	root, err := t.Root.OpenRoot(home)
	if err != nil {
		return fmt.Errorf("home directory: %w", err)
	}
	defer root.Close()
	if info, err := root.Lstat(".ssh"); errors.Is(err, fs.ErrNotExist) {
		if err := root.Mkdir(".ssh", 0o700); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("/%s/.ssh is not a directory\nhint: move it away", home)
	}
	dir, err := root.Open(".ssh")
	if err != nil {
		return err
	}
	err = errors.Join(dir.Chown(uid, gid), dir.Chmod(0o700), dir.Close())
	if err != nil {
		return fmt.Errorf("/%s/.ssh: %w", home, err)
	}
	_, err = put{name: ".ssh/authorized_keys", content: content, mode: 0o600, uid: uid, gid: gid}.into(root)
	return err
}

// keyLines is authorized_keys with the keys of a person.
func keyLines(w machine.Person) string {
	var b strings.Builder
	for _, k := range w.SSHKeys {
		b.WriteString(strings.TrimSpace(k) + "\n")
	}
	return b.String()
}

// removePerson takes every way in from an account and keeps the account, its
// number and its files: the records name the number, and no later person may
// get it (45 CFR 164.308(a)(3)(ii)(C)).
func removePerson(ctx context.Context, t *Target, db *userDB, name string) error {
	for _, file := range []string{sudoersPath(name), MFADir + "/" + name} {
		if err := removeFile(t.Root, file); err != nil {
			return err
		}
	}
	a, there := db.account(name)
	if !there {
		return nil
	}
	if a.uid < firstPerson {
		return fmt.Errorf("uid %d is a system account's, and stays as it is\nhint: take %s out of /%s", a.uid, name, peoplePath)
	}
	s, _ := db.shadow(name)
	if s.usable() || s.expire != "1" || a.shell != nologin || len(db.groupsOf(a)) > 0 {
		// Day 1 of 1970: 0 is read as "never" by some programs, shadow(5).
		if _, err := t.Run(ctx, "usermod", "--lock", "--expiredate", "1970-01-02", "--shell", nologin, "--groups", "", name); err != nil {
			return err
		}
	}
	if home, ok := strings.CutPrefix(path.Clean(a.home), "/"); ok && home != "" {
		if err := removeKeys(t.Root, home); err != nil {
			return err
		}
	}
	// An open session has its access already, so it ends here.
	out, err := t.Run(ctx, "sh", "-c", endSessions, "end-sessions", name)
	if err != nil {
		return fmt.Errorf("sessions go on: %w: %s", err, out)
	}
	return nil
}

// endSessions kills what runs under the name $1, and fails if something still
// does. pkill has status 1 when there was nothing to kill.
const endSessions = `pgrep -u "$1" >/dev/null || exit 0
loginctl terminate-user "$1" 2>/dev/null
pkill -KILL -u "$1"
for i in 1 2 3 4 5; do
	pgrep -u "$1" >/dev/null || exit 0
	sleep 1
done
echo "still running: $(pgrep -l -u "$1" | tr '\n' ' ')"
exit 1`

func removeKeys(root *os.Root, home string) error {
	sub, err := root.OpenRoot(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	for _, name := range []string{".ssh/authorized_keys", ".ssh/authorized_keys2"} {
		if err := removeFile(sub, name); err != nil {
			return err
		}
	}
	return nil
}

const allPeople = "everybody is as the machine file says"

// checkPeople compares every person of the machine file with the machine.
func checkPeople(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil {
		return "", fmt.Errorf("there is no machine file to compare with")
	}
	db, err := readUserDB(ctx, m.Run)
	if err != nil {
		return "", err
	}
	var wrong []string
	for _, w := range m.Config.People {
		found, err := checkPerson(ctx, m, db, w)
		if err != nil {
			return "", err
		}
		wrong = append(wrong, found...)
	}
	return report(wrong, allPeople), nil
}

func checkPerson(ctx context.Context, m *Machine, db *userDB, w machine.Person) ([]string, error) {
	a, there := db.account(w.Name)
	if !there {
		return []string{w.Name + " has no account"}, nil
	}
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, w.Name+": "+fmt.Sprintf(format, args...)) }
	if a.uid < firstPerson || a.uid > lastPerson {
		say("uid %d", a.uid)
	}
	if a.fullName != w.FullName {
		say("full name %q", a.fullName)
	}
	if a.shell != shell {
		say("shell %s", a.shell)
	}
	have, want := slices.Sorted(slices.Values(db.groupsOf(a))), slices.Sorted(slices.Values(w.Groups))
	if !slices.Equal(have, want) {
		say("groups %v, want %v", have, want)
	}
	if own, _ := db.group(w.Name); own.gid != a.gid || len(own.members) > 0 {
		say("primary group %d with members %v", a.gid, own.members)
	}
	s, _ := db.shadow(w.Name)
	wrong = append(wrong, ageing(s, m.Profile)...)
	if s.expire != "" {
		say("expires on day %s", s.expire)
	}
	switch {
	case s.hash == "":
		say("empty password")
	case w.PasswordHash == "" && s.usable():
		say("has a password, and the machine file gives none")
	case w.PasswordHash != "" && !s.usable():
		say("password is locked")
	}
	// stat and cat in one go: sshd reads this file, and nothing else, for keys.
	file := path.Join(a.home, ".ssh/authorized_keys")
	out, err := m.Run(ctx, "stat", "--format=%U %a %F", file)
	if code := exitCode(err); code == 1 {
		if len(w.SSHKeys) > 0 {
			say("no %s", file)
		}
		return wrong, nil
	} else if code != 0 {
		return nil, err
	}
	if got, good := strings.TrimSpace(out), w.Name+" 600 regular"; !strings.HasPrefix(got, good) {
		say("%s is %q, want %q", file, got, good+" file")
	}
	lines, err := m.Run(ctx, "cat", file)
	if err != nil {
		return nil, err
	}
	wantKeys := make(map[string]bool)
	for _, k := range w.SSHKeys {
		key, err := ParseKey(k)
		if err != nil {
			return nil, fmt.Errorf("machine file: key of %s %w", w.Name, err)
		}
		wantKeys[key] = true
	}
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := ParseKey(line)
		if err != nil || !wantKeys[key] {
			say("a key that the machine file does not have: %.60s", line)
			continue
		}
		delete(wantKeys, key)
	}
	for key := range wantKeys {
		say("key is missing: %.60s", key)
	}
	return wrong, nil
}

// ageing compares the ageing of one account with the profile's.
func ageing(s shadow, p *profiles.Profile) []string {
	c := p.Controls.Accounts
	got := fmt.Sprintf("%s/%s/%s", s.max, s.min, s.warn)
	if want := fmt.Sprintf("%d/%d/%d", c.MaxDays, c.MinDays, c.WarnDays); got != want {
		return []string{fmt.Sprintf("%s: ageing %s, want %s", s.name, got, want)}
	}
	return nil
}

// report is good when nothing is wrong, and else what is.
func report(wrong []string, good string) string {
	if len(wrong) == 0 {
		return good
	}
	return strings.Join(wrong, "; ")
}
