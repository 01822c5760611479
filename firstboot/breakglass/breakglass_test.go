package breakglass

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/HZo959Y6LamquCZWUcBgK+pQQx7Fo2as5OubYvTgq oncall"

// bench is a machine with an emergency account, as far as opening it goes.
type bench struct {
	*Account
	dir   string
	now   time.Time
	did   []string // programs that changed something, and alerts, in order
	input string
	open  bool   // what usermod last made of the account
	fail  string // the program that fails
	mute  bool   // the log takes nothing
}

func newBench(t *testing.T) *bench {
	t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: t.TempDir(), now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)}
	root, err := os.OpenRoot(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	for _, dir := range []string{"home/breakglass", "etc/sudoers.d"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.Account = &Account{
		Target: &control.Target{
			Phase: control.FirstBoot, Root: root, Release: distro.All[0], Profile: p, Log: slog.New(slog.DiscardHandler),
			Run:      func(ctx context.Context, argv ...string) (string, error) { return b.run(ctx, "", argv) },
			RunInput: func(ctx context.Context, in string, argv ...string) (string, error) { return b.run(ctx, in, argv) },
		},
		Now: func() time.Time { return b.now },
		Alert: func(text string) error {
			if b.mute {
				return errors.New("log: connection refused")
			}
			b.did = append(b.did, "alert: "+text)
			return nil
		},
		Who: func() string { return "alice" },
	}
	return b
}

func (b *bench) run(ctx context.Context, stdin string, argv []string) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	line := strings.Join(argv, " ")
	switch {
	case line == "getent passwd breakglass":
		return fmt.Sprintf("breakglass:x:%d:%d::/home/breakglass:/bin/bash\n", os.Getuid(), os.Getgid()), nil
	case line == "getent passwd" && b.open:
		return "breakglass:x:600:600::/home/breakglass:/bin/bash\n", nil
	case line == "getent passwd":
		return "breakglass:x:600:600::/home/breakglass:/usr/sbin/nologin\n", nil
	case line == "getent shadow" && b.open:
		return "breakglass:$y$x:20780::::::\n", nil
	case line == "getent shadow":
		return "breakglass:!:20780:::::1:\n", nil
	case line == "getent group":
		return "breakglass:x:600:\n", nil
	case argv[0] == "sh":
		argv = []string{"end the sessions of", argv[len(argv)-1]}
	}
	b.did = append(b.did, strings.Join(argv, " "))
	if argv[0] == b.fail {
		return "", fmt.Errorf("%s: exit status 1", line)
	}
	switch argv[0] {
	case "usermod":
		b.open = !slices.Contains(argv, "--password")
	case "chpasswd":
		b.input = stdin
	}
	return "", nil
}

func (b *bench) file(name string) string {
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		return ""
	}
	return string(data)
}

var good = Request{Reason: "ward 3 cannot chart", For: 2 * time.Hour}

func TestOpenAndClose(t *testing.T) {
	b := newBench(t)
	use, password, err := b.Open(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if use.By != "alice" || use.Reason != good.Reason || !use.Until.Equal(b.now.Add(2*time.Hour)) {
		t.Errorf("Open() = %+v", use)
	}
	if !regexp.MustCompile(`^([A-Za-z2-9]{5}-){4}[A-Za-z2-9]{5}$`).MatchString(password) {
		t.Errorf("the password is %q, want five groups of five", password)
	}
	if want := "breakglass:" + password + "\n"; b.input != want {
		t.Errorf("chpasswd read %q, want %q", b.input, want)
	}
	// Told before it is opened, and its end arranged before as well.
	order := []string{"alert: emergency account breakglass is opened by alice until 2026-11-23T12:00:00Z, because: ward 3 cannot chart", "systemd-run", "usermod", "visudo", "chpasswd"}
	if !inOrder(b.did, order) {
		t.Errorf("it did\n%s\nwant in this order\n%s", strings.Join(b.did, "\n"), strings.Join(order, "\n"))
	}
	if !slices.ContainsFunc(b.did, func(s string) bool {
		return strings.HasPrefix(s, "systemd-run") && strings.Contains(s, "--on-active=7200") && strings.HasSuffix(s, "/usr/sbin/wardctl breakglass close --expired")
	}) {
		t.Errorf("no timer of 7200 s that closes it: %q", b.did)
	}
	for _, line := range b.did {
		if strings.Contains(line, password) {
			t.Errorf("the password is in an argument or in the log: %s", line)
		}
	}
	if strings.Contains(b.file(control.BreakglassState), password) {
		t.Error("the password is in the state file")
	}
	if got := b.file("etc/sudoers.d/ward-breakglass"); !strings.Contains(got, "breakglass ALL=(ALL:ALL) NOPASSWD: ALL") {
		t.Errorf("the sudo rule is %q", got)
	}

	if _, _, err := b.Open(t.Context(), good); err == nil || !strings.Contains(err.Error(), "it is open already, until 2026-11-23T12:00:00Z, by alice") {
		t.Errorf("opened twice: Open() = %v, want an error that says who has it open", err)
	}

	b.did, b.now = nil, b.now.Add(time.Hour)
	if err := b.Close(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	order = []string{"usermod --password ! --expiredate 1970-01-02 --shell /usr/sbin/nologin --groups  breakglass", "end the sessions of breakglass", "systemctl stop ward-breakglass-close.timer", "alert: emergency account breakglass is sealed by bob; it was opened by alice at 2026-11-23T10:00:00Z"}
	if !inOrder(b.did, order) {
		t.Errorf("it did\n%s\nwant in this order\n%s", strings.Join(b.did, "\n"), strings.Join(order, "\n"))
	}
	if got := b.file("etc/sudoers.d/ward-breakglass"); got != "" {
		t.Errorf("the sudo rule is still there: %q", got)
	}
	uses, err := b.Uses()
	if err != nil || len(uses.Uses) != 1 || uses.Open() != nil || uses.Uses[0].ClosedBy != "bob" || !uses.Uses[0].Closed.Equal(b.now) {
		t.Errorf("Uses() = %+v, %v, want one that bob closed", uses, err)
	}
	b.did = nil
	if err := b.Close(t.Context(), "a reboot"); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(b.did, func(s string) bool { return strings.HasPrefix(s, "alert") || strings.HasPrefix(s, "usermod") }) {
		t.Errorf("closed again it did %q, want neither a change nor an alert", b.did)
	}
	// A second use is written after the first.
	if _, _, err := b.Open(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if uses, err = b.Uses(); err != nil || len(uses.Uses) != 2 || uses.Open() == nil {
		t.Errorf("Uses() = %+v, %v, want two, the second open", uses, err)
	}
}

func TestOpenWithAKey(t *testing.T) {
	b := newBench(t)
	r := good
	r.Key = key + "\n"
	use, password, err := b.Open(t.Context(), r)
	if err != nil || password != "" || use.Key != key {
		t.Fatalf("Open() = %+v, %q, %v, want no password", use, password, err)
	}
	if got := b.file("home/breakglass/.ssh/authorized_keys"); got != key+"\n" {
		t.Errorf("authorized_keys is %q, want the key", got)
	}
	if b.input != "" {
		t.Errorf("a password was set: %q", b.input)
	}
	if err := b.Close(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if got := b.file("home/breakglass/.ssh/authorized_keys"); got != "" {
		t.Errorf("closed, and authorized_keys is %q", got)
	}
}

// Whatever fails, the account is sealed and no use stays open.
func TestOpenThatFailsSealsAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*bench) context.Context
		want string
	}{
		{"nobody is told", func(b *bench) context.Context { b.mute = true; return context.Background() }, "connection refused"},
		{"no timer", func(b *bench) context.Context { b.fail = "systemd-run"; return context.Background() }, "systemd-run"},
		{"no sudo", func(b *bench) context.Context { b.fail = "visudo"; return context.Background() }, "visudo"},
		{"no password", func(b *bench) context.Context { b.fail = "chpasswd"; return context.Background() }, "chpasswd"},
		{"the caller is gone", func(*bench) context.Context {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx
		}, "context canceled"},
	} {
		b := newBench(t)
		ctx := c.make(b)
		_, password, err := b.Open(ctx, good)
		if err == nil || !strings.Contains(err.Error(), "not opened: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Open() = %v, want an error with %q", c.name, err, c.want)
		}
		if password != "" {
			t.Errorf("%s: Open() gave a password", c.name)
		}
		if b.open || b.file("etc/sudoers.d/ward-breakglass") != "" {
			t.Errorf("%s: the account is open: %q", c.name, b.did)
		}
		if uses, err := b.Uses(); err != nil || uses.Open() != nil || len(uses.Uses) != 1 {
			t.Errorf("%s: Uses() = %+v, %v, want the try, closed", c.name, uses, err)
		}
	}
}

func TestRequestIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		want []string
	}{
		{"no reason", Request{For: time.Hour}, []string{"--reason"}},
		{"a word", Request{Reason: "testing", For: time.Hour}, []string{"--reason: say why in at least 10 characters"}},
		{"two lines", Request{Reason: "ward 3 cannot chart\nroot", For: time.Hour}, []string{"--reason: has a line break"}},
		{"a novel", Request{Reason: strings.Repeat("x", 501), For: time.Hour}, []string{"--reason: has 501 characters"}},
		{"too long", Request{Reason: good.Reason, For: 5 * time.Hour}, []string{"--for: 5h0m0s is not between 1m and 4h0m0s"}},
		{"not at all", Request{Reason: good.Reason}, []string{"--for: 0s is not"}},
		{"backwards", Request{Reason: good.Reason, For: -time.Hour}, []string{"--for: -1h0m0s is not"}},
		{"not a key", Request{Reason: good.Reason, For: time.Hour, Key: "hello"}, []string{"--key: "}},
		{"all of it", Request{Key: "x"}, []string{"--reason", "--for", "--key"}},
	} {
		b := newBench(t)
		_, _, err := b.Open(t.Context(), c.r)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Open() = %v, want %q in it", c.name, err, want)
			}
		}
		if len(b.did) != 0 || b.file(control.BreakglassState) != "" {
			t.Errorf("%s: it did %q before it refused", c.name, b.did)
		}
	}
}

// A state that cannot be read does not keep the account open.
func TestCloseWithoutAState(t *testing.T) {
	b := newBench(t)
	b.open = true
	if err := control.WriteFile(b.Target.Root, control.BreakglassState, `{"version":1,"uses":[{`, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context(), "alice"); err == nil || !strings.Contains(err.Error(), "breakglass.json") {
		t.Errorf("Close() = %v, want an error about the state", err)
	}
	if b.open {
		t.Error("the account is still open")
	}
	if _, _, err := b.Open(t.Context(), good); err == nil || !strings.Contains(err.Error(), "breakglass.json") {
		t.Errorf("Open() = %v, want an error about the state", err)
	}
	if b.open {
		t.Error("the account was opened, and nobody could have written it down")
	}
}

func TestCloseThatFailsIsTold(t *testing.T) {
	b := newBench(t)
	if _, _, err := b.Open(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	b.fail, b.did = "usermod", nil
	if err := b.Close(t.Context(), "the end of its time"); err == nil || !strings.Contains(err.Error(), "seal the emergency account breakglass") {
		t.Errorf("Close() = %v, want an error that says it is not sealed", err)
	}
	if !slices.ContainsFunc(b.did, func(s string) bool { return strings.Contains(s, "could NOT be sealed") }) {
		t.Errorf("nobody was told: %q", b.did)
	}
	if uses, err := b.Uses(); err != nil || uses.Open() == nil {
		t.Errorf("Uses() = %+v, %v, want it still open", uses, err)
	}
	if slices.ContainsFunc(b.did, func(s string) bool { return strings.HasPrefix(s, "systemctl stop") }) {
		t.Error("the timer was stopped, so nothing will try again")
	}
}

func TestPasswords(t *testing.T) {
	seen := make(map[string]bool)
	for range 200 {
		p, err := newPassword()
		if err != nil {
			t.Fatal(err)
		}
		if len(p) != 29 || !fits(p) || strings.ContainsAny(p, "0O1lI") || seen[p] {
			t.Fatalf("newPassword() = %q", p)
		}
		seen[p] = true
	}
}

func TestWho(t *testing.T) {
	for _, c := range []struct{ loginuid, want string }{
		{"1000\n", "alice"}, {"4294967295", "root (no login)"}, {"1234", "uid 1234"}, {"", "root (no login)"},
	} {
		b := newBench(t)
		for name, text := range map[string]string{"proc/self/loginuid": c.loginuid, "etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/bash\n"} {
			if err := control.WriteFile(b.Target.Root, name, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := who(b.Target.Root); got != c.want {
			t.Errorf("who() with loginuid %q = %q, want %q", c.loginuid, got, c.want)
		}
	}
}

func TestCommand(t *testing.T) {
	b := newBench(t)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := Command(func() (*control.Target, func() error, error) { return b.Target, func() error { return nil }, nil })
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceUsage, c.SilenceErrors = true, true
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run("status"); err != nil || out != "breakglass is sealed\n" {
		t.Errorf("status: %q, %v", out, err)
	}
	if _, err := run("open", "--for", "1h"); err == nil || !strings.Contains(err.Error(), `"reason" not set`) {
		t.Errorf("open without a reason: %v, want an error that names it", err)
	}
	if _, err := run("open", "--reason", good.Reason, "--for", "1h", "--key", filepath.Join(b.dir, "none.pub")); err == nil || !strings.Contains(err.Error(), "none.pub") {
		t.Errorf("open with a key file that is not there: %v, want an error that names it", err)
	}
	if err := control.WriteFile(b.Target.Root, "var/lib/ward/breakglass.json", `{"version":1,"uses":[{"opened":"2026-11-23T10:00:00Z","until":"2026-11-23T12:00:00Z","by":"alice","reason":"ward 3 cannot chart"}]}`, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run("status")
	if err != nil || !strings.Contains(out, "breakglass is open until 2026-11-23T12:00:00Z\n") || !strings.Contains(out, "2026-11-23T10:00:00Z  alice  -") {
		t.Errorf("status: %q, %v", out, err)
	}
	out, err = run("status", "--json")
	if err != nil || !strings.Contains(out, `"by": "alice"`) {
		t.Errorf("status --json: %q, %v", out, err)
	}
}

// inOrder tells whether lines with these beginnings are there in this order.
func inOrder(lines, want []string) bool {
	for _, line := range lines {
		if len(want) > 0 && strings.HasPrefix(line, want[0]) {
			want = want[1:]
		}
	}
	return len(want) == 0
}
