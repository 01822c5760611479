package mfa

import (
	"bytes"
	"encoding/base32"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

func target(t *testing.T) (*control.Target, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.MFA.Enabled = true
	return &control.Target{Root: root, Profile: p, Machine: &machine.Machine{Hostname: "db1", People: []machine.Person{{Name: "alice"}, {Name: "bob"}}}}, dir
}

func TestEnrol(t *testing.T) {
	tg, dir := target(t)
	uri, scratch, err := Enrol(tg, "alice")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/db1:alice" || u.Query().Get("issuer") != "db1" {
		t.Errorf("the address for the app is %q, %v", uri, err)
	}
	secret := u.Query().Get("secret")
	if raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret); err != nil || len(raw) != 20 {
		t.Errorf("the secret %q is %d bytes, %v, want 20", secret, len(raw), err)
	} else if code := control.TOTP(raw, time.Now()); !regexp.MustCompile(`^[0-9]{6}$`).MatchString(code) {
		t.Errorf("its code is %q", code)
	}
	file := filepath.Join(dir, control.MFADir, "alice")
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%s: %v, %v, want mode 0600", file, info, err)
	}
	if dir, err := os.Stat(filepath.Dir(file)); err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the secrets is %v, %v, want mode 0700", dir.Mode(), err)
	}
	text, _ := os.ReadFile(file)
	if !strings.HasPrefix(string(text), secret+"\n\" RATE_LIMIT 3 30\n") || !strings.Contains(string(text), "\" DISALLOW_REUSE\n\" TOTP_AUTH\n") {
		t.Errorf("the file is\n%s", text)
	}
	if len(scratch) != scratchCodes {
		t.Errorf("%d codes for the day without the phone, want %d", len(scratch), scratchCodes)
	}
	for _, code := range scratch {
		if !regexp.MustCompile(`^[1-9][0-9]{7}$`).MatchString(code) || !strings.Contains(string(text), "\n"+code+"\n") {
			t.Errorf("code %q is not 8 digits in the file", code)
		}
	}
	// A second time would shut the person out.
	if _, _, err := Enrol(tg, "alice"); err == nil || !strings.Contains(err.Error(), "alice is enrolled already\nhint: wardctl mfa remove alice") {
		t.Errorf("Enrol() again = %v, want an error that says so", err)
	}
	if again, _ := os.ReadFile(file); string(again) != string(text) {
		t.Error("the second enrolment changed the secret")
	}
	other, _, err := Enrol(tg, "bob")
	if err != nil || strings.Contains(other, secret) {
		t.Errorf("bob's address is %q, %v, want another secret", other, err)
	}
}

func TestEnrolRefuses(t *testing.T) {
	for _, c := range []struct {
		name, who string
		change    func(*control.Target)
		want      string
	}{
		{"a stranger", "mallory", nil, `"mallory" is not one of this machine's people: alice, bob`},
		{"a path", "../../../etc/cron.d/x", nil, "is not one of this machine's people"},
		{"root", "root", nil, "is not one of this machine's people"},
		{"nobody is known", "alice", func(t *control.Target) { t.Machine = nil }, "there is no machine file"},
		{"the profile does not ask", "alice", func(t *control.Target) { t.Profile.Controls.MFA.Enabled = false }, "does not ask for one-time passwords\nhint:"},
	} {
		tg, dir := target(t)
		if c.change != nil {
			c.change(tg)
		}
		if _, _, err := Enrol(tg, c.who); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Enrol() = %v, want an error with %q", c.name, err, c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: it left %v", c.name, left)
		}
	}
}

func TestCommand(t *testing.T) {
	tg, _ := target(t)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := Command(func() (*control.Target, func() error, error) { return tg, func() error { return nil }, nil })
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceUsage, c.SilenceErrors = true, true
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, c := range []struct{ args, want, err string }{
		{"status", "alice: not enrolled\nbob: not enrolled\n", ""},
		{"remove alice", "", "alice is not enrolled"},
		{"enrol alice", "alice is enrolled. This is shown once.\nFor the app: otpauth://totp/db1:alice?", ""},
		{"status", "alice: enrolled\nbob: not enrolled\n", ""},
		{"remove alice", "alice is not enrolled any more.\n", ""},
		{"status", "alice: not enrolled\n", ""},
		{"enrol", "", "accepts 1 arg"},
		{"remove ../x", "", "is not one of this machine's people"},
	} {
		out, err := run(strings.Fields(c.args)...)
		switch {
		case c.err == "" && err != nil, c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("mfa %s: %v, want an error with %q", c.args, err, c.err)
		case !strings.Contains(out, c.want):
			t.Errorf("mfa %s: %q, want %q in it", c.args, out, c.want)
		}
	}
}
