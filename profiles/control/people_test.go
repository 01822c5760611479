package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/machine"
)

const (
	testKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/HZo959Y6LamquCZWUcBgK+pQQx7Fo2as5OubYvTgq alice@desk"
	otherKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINiOz1ciLmqxNJyu0bGiKNLt7Uyc0K8Gm2f384cjYf/Z bob@desk"
	testHash  = "$6$example$notAHashOfAnyPassword.JustItsShape0123456789abcdefghijklmnop"
	otherHash = "$6$example$anotherHashOfNoPassword.JustItsShape0123456789abcdefghijklm"
)

// unixMachine is as much of a machine as the programs that keep accounts need.
// Everybody in it is whoever runs the test, so that files can be given to them.
type unixMachine struct {
	t        *testing.T
	dir      string
	root     *os.Root
	accounts []account
	shadows  []shadow
	groups   []group
	changes  []string // programs that changed something
	inputs   []string
	fail     string // the program that fails, if any
}

func newUnixMachine(t *testing.T) *unixMachine {
	m := &unixMachine{t: t, dir: t.TempDir()}
	m.root = openRoot(t, m.dir)
	m.add(account{name: "root", uid: 0, gid: 0, home: "/root", shell: shell}, "*")
	m.add(account{name: "phi-service", uid: 999, gid: 996, home: "/nonexistent", shell: nologin}, "!")
	m.groups = append(m.groups, group{name: "phi-access", gid: 996})
	return m
}

func (m *unixMachine) add(a account, hash string) {
	a.password = "x"
	m.accounts = append(m.accounts, a)
	m.shadows = append(m.shadows, shadow{name: a.name, hash: hash, min: "0", max: "99999", warn: "7"})
	if a.gid != 996 {
		m.groups = append(m.groups, group{name: a.name, gid: a.gid})
	}
	if err := os.MkdirAll(filepath.Join(m.dir, a.home), 0o700); err != nil {
		m.t.Fatal(err)
	}
}

func (m *unixMachine) run(ctx context.Context, argv ...string) (string, error) {
	return m.runInput(ctx, "", argv...)
}

func (m *unixMachine) runInput(_ context.Context, stdin string, argv ...string) (string, error) {
	last := argv[len(argv)-1]
	if m.fail != "" && argv[0] == m.fail {
		return "", fmt.Errorf("%q: %w", argv, exitError(1))
	}
	if argv[0] != "getent" && argv[0] != "visudo" && argv[0] != "sh" {
		m.changes = append(m.changes, strings.Join(argv, " "))
	}
	option := func(name string) (string, bool) {
		if i := slices.Index(argv, name); i >= 0 {
			return argv[i+1], true
		}
		return "", false
	}
	switch argv[0] {
	case "getent":
		return m.getent(argv[1:])
	case "visudo", "sh":
		return "", nil
	case "groupadd":
		m.groups = append(m.groups, group{name: last, gid: 2000 + len(m.groups)})
		return "", nil
	case "useradd":
		n := 1000 + len(m.accounts)
		m.add(account{name: last, uid: n, gid: n, home: "/home/" + last}, "!")
	case "chpasswd":
		m.inputs = append(m.inputs, stdin)
		name, hash, _ := strings.Cut(strings.TrimSpace(stdin), ":")
		m.shadow(name).hash = hash
		return "", nil
	}
	i := slices.IndexFunc(m.accounts, func(a account) bool { return a.name == last })
	if i < 0 {
		return "", fmt.Errorf("%q: there is no account %s", argv, last)
	}
	a, s := &m.accounts[i], m.shadow(last)
	if v, ok := option("--shell"); ok {
		a.shell = v
	}
	if v, ok := option("--comment"); ok {
		a.fullName = v
	}
	if v, ok := option("--groups"); ok {
		for i := range m.groups {
			g := &m.groups[i]
			g.members = slices.DeleteFunc(g.members, func(n string) bool { return n == last })
			if v != "" && slices.Contains(strings.Split(v, ","), g.name) {
				g.members = append(g.members, last)
			}
		}
	}
	if slices.Contains(argv, "--lock") && !strings.HasPrefix(s.hash, "!") {
		s.hash = "!" + s.hash
	}
	for name, field := range map[string]*string{"--mindays": &s.min, "--maxdays": &s.max, "--warndays": &s.warn, "--expiredate": &s.expire} {
		if v, ok := option(name); ok {
			*field = map[string]string{"-1": "", "1970-01-02": "1"}[v] + map[bool]string{true: "", false: v}[v == "-1" || v == "1970-01-02"]
		}
	}
	return "", nil
}

func (m *unixMachine) shadow(name string) *shadow {
	i := slices.IndexFunc(m.shadows, func(s shadow) bool { return s.name == name })
	if i < 0 {
		m.t.Fatalf("no shadow entry of %s", name)
	}
	return &m.shadows[i]
}

func (m *unixMachine) getent(args []string) (string, error) {
	var b strings.Builder
	switch args[0] {
	case "passwd":
		for _, a := range m.accounts {
			if len(args) == 2 && args[1] != a.name {
				continue
			}
			uid, gid := strconv.Itoa(a.uid), strconv.Itoa(a.gid)
			if len(args) == 2 {
				uid, gid = strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
			}
			fmt.Fprintf(&b, "%s:x:%s:%s:%s:%s:%s\n", a.name, uid, gid, a.fullName, a.home, a.shell)
		}
	case "shadow":
		for _, s := range m.shadows {
			fmt.Fprintf(&b, "%s:%s:20780:%s:%s:%s::%s:\n", s.name, s.hash, s.min, s.max, s.warn, s.expire)
		}
	case "group":
		for _, g := range m.groups {
			fmt.Fprintf(&b, "%s:x:%d:%s\n", g.name, g.gid, strings.Join(g.members, ","))
		}
	}
	if b.Len() == 0 {
		return "", exitError(2)
	}
	return b.String(), nil
}

// apply makes the machine's people those, and returns the programs that changed
// something.
func (m *unixMachine) apply(people ...machine.Person) ([]string, error) {
	m.t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		m.t.Fatal(err)
	}
	m.changes, m.inputs = nil, nil
	err = applyPeople(m.t.Context(), &Target{
		Phase: FirstBoot, Root: m.root, Release: distro.All[0], Profile: p, Machine: &machine.Machine{People: people},
		Log: slog.New(slog.DiscardHandler), Run: m.run, RunInput: m.runInput,
	})
	return m.changes, err
}

func (m *unixMachine) mustApply(people ...machine.Person) []string {
	m.t.Helper()
	changes, err := m.apply(people...)
	if err != nil {
		m.t.Fatalf("applyPeople() = %v", err)
	}
	return changes
}

func (m *unixMachine) file(name string) string {
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return string(b)
}

func alice() machine.Person {
	return machine.Person{Name: "alice", FullName: "Alice Adams", SSHKeys: []string{testKey}, Groups: []string{"phi-access"}, Sudo: true}
}

func bob() machine.Person {
	return machine.Person{Name: "bob", FullName: "Bob Brown", SSHKeys: []string{otherKey}, Groups: []string{"radiology", "phi-access"}, PasswordHash: testHash}
}

func TestPeopleAreMadeOnce(t *testing.T) {
	m := newUnixMachine(t)
	first := m.mustApply(alice(), bob())
	if len(first) == 0 {
		t.Error("applying people to a new machine changed nothing")
	}
	if got := m.file("home/alice/.ssh/authorized_keys"); got != testKey+"\n" {
		t.Errorf("alice's authorized_keys is %q, want her key", got)
	}
	if got := m.file("etc/sudoers.d/ward-alice"); !strings.Contains(got, "alice ALL=(ALL:ALL) NOPASSWD: ALL") {
		t.Errorf("the sudo rule of alice, who has no password, is %q", got)
	}
	if got := m.file("etc/sudoers.d/ward-bob"); got != "" {
		t.Errorf("bob, who may not use sudo, has the rule %q", got)
	}
	if got := m.shadow("alice").hash; got != "*" {
		t.Errorf("alice's password field is %q, want *", got)
	}
	if got := m.shadow("bob").hash; got != testHash {
		t.Errorf("bob's password field is %q, want his hash", got)
	}
	for _, argv := range first {
		if strings.Contains(argv, testHash) {
			t.Errorf("the hash is an argument: %s", argv)
		}
	}
	if again := m.mustApply(alice(), bob()); len(again) != 0 {
		t.Errorf("applied again: changed %q, want nothing", again)
	}
}

func TestPeopleKeepThePasswordTheyChose(t *testing.T) {
	m := newUnixMachine(t)
	m.mustApply(bob())
	m.shadow("bob").hash = "$y$j9T$chosenByBob"
	if again := m.mustApply(bob()); len(again) != 0 {
		t.Errorf("after bob changed his password: changed %q, want nothing", again)
	}
	b := bob()
	b.PasswordHash = otherHash
	m.mustApply(b)
	if got := m.shadow("bob").hash; got != otherHash {
		t.Errorf("a new hash in the machine file: the password field is %q, want it", got)
	}
	b.PasswordHash = ""
	m.mustApply(b)
	if got := m.shadow("bob").hash; got != "*" {
		t.Errorf("no hash in the machine file any more: the password field is %q, want *", got)
	}
	b.PasswordHash = testHash
	m.mustApply(b)
	m.shadow("bob").hash = ""
	m.mustApply(b)
	if got := m.shadow("bob").hash; got != testHash {
		t.Errorf("after somebody emptied the password: the field is %q, want the hash", got)
	}
}

func TestPeopleWhoAreTakenOffLoseTheAccess(t *testing.T) {
	m := newUnixMachine(t)
	m.mustApply(alice(), bob())
	m.mustApply(bob())
	db, err := readUserDB(t.Context(), m.run)
	if err != nil {
		t.Fatal(err)
	}
	a, there := db.account("alice")
	s, _ := db.shadow("alice")
	if !there || a.shell != nologin || s.usable() || s.expire != "1" || len(db.groupsOf(a)) > 0 {
		t.Errorf("alice is %+v %+v in %v, want an account without any way in", a, s, db.groupsOf(a))
	}
	for _, name := range []string{"home/alice/.ssh/authorized_keys", "etc/sudoers.d/ward-alice"} {
		if got := m.file(name); got != "" {
			t.Errorf("%s is still there: %q", name, got)
		}
	}
	if _, err := os.Stat(filepath.Join(m.dir, "home/alice")); err != nil {
		t.Errorf("alice's files: %v, want them kept", err)
	}
	if again := m.mustApply(bob()); len(again) != 0 {
		t.Errorf("applied again: changed %q, want nothing", again)
	}
	// She comes back: the same account, with what the machine file says now.
	back := alice()
	back.Sudo, back.SSHKeys = false, []string{testKey}
	m.mustApply(back, bob())
	db, err = readUserDB(t.Context(), m.run)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := db.account("alice"); b.uid != a.uid || b.shell != shell {
		t.Errorf("alice is %+v, want uid %d with a shell", b, a.uid)
	}
	if s, _ := db.shadow("alice"); s.expire != "" || s.hash != "*" {
		t.Errorf("alice's shadow entry is %+v, want neither expired nor locked", s)
	}
	if got := m.file("home/alice/.ssh/authorized_keys"); got != testKey+"\n" {
		t.Errorf("alice's authorized_keys is %q, want her key", got)
	}
}

func TestPeopleGoOnWhereTheyWereStopped(t *testing.T) {
	for _, program := range []string{"useradd", "chpasswd", "chage", "groupadd"} {
		m := newUnixMachine(t)
		m.fail = program
		if _, err := m.apply(alice(), bob()); err == nil || !strings.Contains(err.Error(), program) {
			t.Errorf("%s fails: applyPeople() = %v, want an error that names it", program, err)
		}
		m.fail = ""
		m.mustApply(alice(), bob())
		if again := m.mustApply(alice(), bob()); len(again) != 0 {
			t.Errorf("%s had failed: the third time changed %q, want nothing", program, again)
		}
		// Whoever was made before the failure is known, and can be taken off.
		m.mustApply()
		for _, name := range []string{"alice", "bob"} {
			if s := m.shadow(name); s.usable() || s.expire != "1" {
				t.Errorf("%s had failed: %s is %+v after they were taken off", program, name, *s)
			}
		}
	}
}

func TestPeopleRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		people []machine.Person
		make   func(*unixMachine)
		want   []string
	}{
		{"a system account of the image", []machine.Person{{Name: "tcpdump", FullName: "T", SSHKeys: []string{testKey}}},
			func(m *unixMachine) { m.add(account{name: "tcpdump", uid: 105, gid: 105, home: "/x"}, "!") }, []string{`"tcpdump" is a system account of this image (uid 105)`}},
		{"a folder where the keys go", []machine.Person{alice()}, func(m *unixMachine) {
			m.mustApply(alice())
			m.mustApply()
			if err := os.Mkdir(filepath.Join(m.dir, "home/alice/.ssh/authorized_keys"), 0o700); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"alice", "is a directory"}},
		{"a link out of the home", []machine.Person{alice()}, func(m *unixMachine) {
			m.mustApply(alice())
			if err := errors.Join(os.RemoveAll(filepath.Join(m.dir, "home/alice/.ssh")), os.Symlink("/etc", filepath.Join(m.dir, "home/alice/.ssh"))); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"alice", ".ssh is not a directory"}},
		{"a roster that is cut", nil, func(m *unixMachine) {
			if err := writeFile(m.root, peoplePath, `{"version":1,"people":[`, 0o600); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"people.json", "hint:"}},
		{"a roster of a later version", nil, func(m *unixMachine) {
			if err := writeFile(m.root, peoplePath, `{"version":2,"people":[]}`, 0o600); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"version 2, want 1"}},
		{"a roster with a path in it", nil, func(m *unixMachine) {
			if err := writeFile(m.root, peoplePath, `{"version":1,"people":[{"name":"../x"}]}`, 0o600); err != nil {
				m.t.Fatal(err)
			}
		}, []string{`"../x" is not a login name`}},
		{"a roster with a system account", nil, func(m *unixMachine) {
			if err := writeFile(m.root, peoplePath, `{"version":1,"people":[{"name":"phi-service"}]}`, 0o600); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"phi-service", "stays as it is"}},
	} {
		m := newUnixMachine(t)
		c.make(m)
		_, err := m.apply(c.people...)
		if err == nil {
			t.Errorf("%s: applyPeople() = nil, want an error", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: applyPeople() = %v, want %q in it", c.name, err, want)
			}
		}
	}
}

func TestValidatePeople(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	if err := ValidatePeople([]machine.Person{alice(), bob()}, p); err != nil {
		t.Errorf("ValidatePeople() of good people = %v", err)
	}
	with := func(change func(*machine.Person)) []machine.Person {
		a := alice()
		change(&a)
		return []machine.Person{a}
	}
	named := func(name string) []machine.Person { return with(func(a *machine.Person) { a.Name = name }) }
	keyed := func(key string) []machine.Person { return with(func(a *machine.Person) { a.SSHKeys = []string{key} }) }
	for _, c := range []struct {
		name   string
		people []machine.Person
		want   string
	}{
		{"no name", named(""), `people[0].name: "" is not a login name`},
		{"a dot, which sudo does not read", named("a.adams"), "is not a login name"},
		{"a path", named("../root"), "is not a login name"},
		{"a line break", named("alice\nroot"), "is not a login name"},
		{"root", named("root"), "is a system account"},
		{"the service account", named("phi-service"), "is used by the profile itself"},
		{"the emergency account", named("breakglass"), "is used by the profile itself"},
		{"a shared name", named("nurse"), "45 CFR 164.312(a)(2)(i)"},
		{"twice", []machine.Person{alice(), alice()}, `people[1].name: "alice" is people[0] already`},
		{"one key, two people", []machine.Person{alice(), with(func(a *machine.Person) { a.Name, a.SSHKeys = "eve", []string{testKey + " again"} })[0]}, "people[1].ssh_keys[0]: is a key of people[0] (alice) already"},
		{"no full name", with(func(a *machine.Person) { a.FullName = " " }), "full_name: is missing"},
		{"a colon", with(func(a *machine.Person) { a.FullName = "A:0:0" }), "which passwd(5) cannot hold"},
		{"a group that is root", with(func(a *machine.Person) { a.Groups = []string{"docker"} }), `groups[0]: "docker" is as good as root`},
		{"a group with a comma", with(func(a *machine.Person) { a.Groups = []string{"a,sudo"} }), "is not the name of a group"},
		{"a group twice", with(func(a *machine.Person) { a.Groups = []string{"x", "x"} }), `groups[1]: "x" is there twice`},
		{"their own group", with(func(a *machine.Person) { a.Groups = []string{"alice"} }), "is the person's own group"},
		{"a password in clear", with(func(a *machine.Person) { a.PasswordHash = "hunter2hunter2" }), "is not a hash of crypt(5)"},
		{"an MD5 hash", with(func(a *machine.Person) { a.PasswordHash = "$1$abcdefgh$0123456789abcdefghijkl" }), "is not a hash of crypt(5)"},
		{"a hash with a line break", with(func(a *machine.Person) { a.PasswordHash = testHash + "\nroot:x" }), "is not a hash of crypt(5)"},
		{"no way in", with(func(a *machine.Person) { a.SSHKeys = nil }), "has neither a key nor a password"},
		{"a key with options", keyed(`command="id" ` + testKey), "accepted are: ssh-ed25519"},
		{"a DSA key", keyed("ssh-dss AAAAB3NzaC1kc3MAAACB"), `starts with "ssh-dss"`},
		{"a cut key", keyed("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/HZo959Y6LamquCZWUcBgK+p"), "is cut or changed"},
		{"another type inside", keyed("ecdsa-sha2-nistp256 " + strings.Fields(testKey)[1]), "holds another type"},
		{"a type and no key", keyed("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"), "ends after its type"},
		{"a short RSA key", keyed("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCx"), "is not an RSA key inside"},
		{"two lines", keyed(testKey + "\n" + otherKey), "is more than one line"},
		{"a private key", keyed("-----BEGIN OPENSSH PRIVATE KEY----- x"), "is a private key"},
		{"a very long line", keyed("ssh-rsa " + strings.Repeat("A", 9000)), "is longer than 8192"},
	} {
		err := ValidatePeople(c.people, p)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: ValidatePeople() = %v, want an error with %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats what may be a password: %v", c.name, err)
		}
	}
	// All at once.
	err = ValidatePeople([]machine.Person{{Name: "root"}, {Name: "nurse", FullName: "N"}}, p)
	for _, want := range []string{"people[0].name", "people[0].full_name", "people[0].ssh_keys", "people[1].name", "people[1].ssh_keys"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("many faults: ValidatePeople() = %v, want %q in it", err, want)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{testKey, otherKey, "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCx", "ssh-ed25519 AAAA", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParseKey(line)
		if err != nil {
			return
		}
		again, err := ParseKey(key + " comment")
		if err != nil || again != key {
			t.Errorf("ParseKey(%q) = %q, which reads as %q, %v", line, key, again, err)
		}
	})
}

func TestWithKeywords(t *testing.T) {
	values := [][2]string{{"PASS_MAX_DAYS", "90"}, {"HOME_MODE", "0700"}}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "PASS_MAX_DAYS\t90\nHOME_MODE\t0700\n"},
		{"in its place", "A 1\nPASS_MAX_DAYS 99999\nB 2\n", "A 1\nPASS_MAX_DAYS\t90\nB 2\nHOME_MODE\t0700\n"},
		{"twice", "PASS_MAX_DAYS 1\nPASS_MAX_DAYS 2\n", "PASS_MAX_DAYS\t90\nHOME_MODE\t0700\n"},
		{"a comment is not one", "#PASS_MAX_DAYS 5\n# HOME_MODE 0755\n", "#PASS_MAX_DAYS 5\n# HOME_MODE 0755\nPASS_MAX_DAYS\t90\nHOME_MODE\t0700\n"},
		{"no line break at the end", "A 1", "A 1\nPASS_MAX_DAYS\t90\nHOME_MODE\t0700\n"},
	} {
		got := withKeywords(c.text, values)
		if got != c.want {
			t.Errorf("%s: withKeywords() = %q, want %q", c.name, got, c.want)
		}
		if again := withKeywords(got, values); again != got {
			t.Errorf("%s: again: %q, want it unchanged", c.name, again)
		}
	}
}
