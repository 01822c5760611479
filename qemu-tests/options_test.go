package qemutests

import (
	"encoding/base32"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles/control"
)

// strict is a profile with the options that hipaa leaves to the site.
const strict = `name: strict
extends: hipaa
controls:
  mfa:
    enabled: true
  firewall:
    egress: true
`

// TestOptions bakes an image with the options that the default profile leaves
// out, and proves them from outside: a one-time password beside the key, and no
// way out but to the machine's own servers.
func TestOptions(t *testing.T) {
	t.Parallel()
	image(t)
	i := bakeWith(t, strict)
	if !i.Profile.Controls.MFA.Enabled || !i.Profile.Controls.Firewall.Egress {
		t.Fatal("the image was baked without the options")
	}
	f := fixture(t)
	c := f.VM(i)
	m := start(t, c)
	r := verdict(t, m, "")
	allPass(t, r)
	if len(findings(r, "mfa")) == 0 {
		t.Error("the report says nothing about mfa")
	}

	// Nobody is enrolled, so nobody gets in from outside: the first person is
	// enrolled at the console.
	code := func() string { return "000000" }
	ask := func(p proof.Person, code func() string) error { return loginCode(t, m, p, ssh.PublicKeys(p.Key), code) }
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	refused("before anybody is enrolled", ask(f.Admin, code))
	secret := enrolAtConsole(t, m, f.Admin)
	right := func() string { return control.TOTP(secret, time.Now()) }
	used := ""
	refused("the key alone", tryLogin(t, m, f.Admin.Name, f.Admin.Key))
	refused("the code alone", loginCode(t, m, f.Admin, nil, right))
	refused("a wrong code", ask(f.Admin, func() string { w := []byte(right()); w[0] = '0' + (w[0]-'0'+5)%10; return string(w) }))
	if err := ask(f.Admin, func() string { used = right(); return used }); err != nil {
		t.Errorf("key and code: %v, want a login", err)
	}
	refused("a code that was used", ask(f.Admin, func() string { return used }))
	refused("another person with that code", ask(f.Clerk, right))

	t.Run("Egress", func(t *testing.T) {
		// A server on the same host as the lab's that the machine was not told of.
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		seen := make(chan struct{}, 8)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				seen <- struct{}{}
				conn.Close()
			}
		}()
		reach := func(port int) string {
			mark := word()
			say(t, m, fmt.Sprintf("timeout 20 bash -c 'echo >/dev/tcp/%s/%d' 2>/dev/null; echo %s-$?", vm.HostAddr, port, mark))
			// Not at the line's start: bash writes a control sequence before the output.
			got, err := m.Expect(within(t, m, time.Minute), mark+`-(\d+)`)
			if err != nil {
				t.Fatal(err)
			}
			return got[1]
		}
		if got := reach(f.Lab.Logs.Port()); got != "0" {
			t.Errorf("the log server cannot be reached: status %s", got)
		}
		if got := reach(listener.Addr().(*net.TCPAddr).Port); got == "0" {
			t.Error("a server that the machine was not told of can be reached")
		}
		if len(seen) > 0 {
			t.Errorf("that server saw %d connections", len(seen))
		}
	})
	powerDown(t, m)
}

// loginCode logs in with a key, when there is one, and a one-time password.
func loginCode(t *testing.T, m *vm.VM, p proof.Person, key ssh.AuthMethod, code func() string) error {
	t.Helper()
	ctx := within(t, m, 30*time.Second)
	var auth []ssh.AuthMethod
	if key != nil {
		auth = append(auth, key)
	}
	auth = append(auth, ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range answers {
			answers[i] = code()
		}
		return answers, nil
	}))
	client, err := m.SSH(ctx, &ssh.ClientConfig{User: p.Name, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return err
	}
	defer client.Close()
	name, err := vm.Command(ctx, client, "", "id -un")
	if err == nil && strings.TrimSpace(name) != p.Name {
		err = fmt.Errorf("id -un said %q", name)
	}
	return err
}

// say types a line at the console.
func say(t *testing.T, m *vm.VM, line string) {
	t.Helper()
	if _, err := fmt.Fprintf(m.Console(), "%s\n", line); err != nil {
		t.Fatal(err)
	}
}

// enrolAtConsole logs a person in at the console, where the shell stays, enrols
// them, and returns the secret that is shown.
func enrolAtConsole(t *testing.T, m *vm.VM, p proof.Person) []byte {
	t.Helper()
	say(t, m, p.Name)
	// After a message on the console the name is alone on its line.
	if _, err := m.Expect(within(t, m, time.Minute), `(?m)(?:^|login: )`+p.Name+`\s*$`); err != nil {
		t.Fatal(err)
	}
	// The question for the password does not end its line, so it is not waited for:
	// what is typed before login reads it would be thrown away.
	mark := word()
	time.Sleep(m.Timeout(time.Second))
	say(t, m, p.Password)
	time.Sleep(m.Timeout(time.Second))
	say(t, m, "echo "+mark+"-$((40+2))")
	if _, err := m.Expect(within(t, m, 30*time.Second), mark+"-42"); err != nil {
		t.Fatal(err)
	}
	say(t, m, "sudo -S -p '' wardctl mfa enrol "+p.Name)
	time.Sleep(m.Timeout(time.Second))
	say(t, m, p.Password)
	got, err := m.Expect(within(t, m, time.Minute), `otpauth://\S*secret=([A-Z2-7]+)`)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(got[1])
	if err != nil {
		t.Fatal(err)
	}
	return secret
}
