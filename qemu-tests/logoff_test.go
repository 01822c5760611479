package qemutests

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/proof"
	"ward/builder/vm"
)

// idleFor is what the profile's 900 seconds are in this test.
const idleFor = 10 * time.Second

// TestLogoff leaves real sessions alone and sees that they end. Nothing but the
// time is different from the machine as it was baked.
func TestLogoff(t *testing.T) {
	t.Parallel()
	image(t)
	m, f, _ := reboot(t, nil)
	root := rootShell(t, m, f)

	// Before: a session stays open for as long as it takes to be sure that below
	// it is the limit that ends it.
	t.Run("stays while the limit is far", func(t *testing.T) {
		s := idleSession(t, m, f, nil)
		if took, err := s.wait(t.Context(), 3*idleFor); err == nil {
			t.Errorf("an idle session ended after %s, and the limit is 15 minutes", took)
		}
	})

	run(t, m, root, "echo 'readonly TMOUT=10; export TMOUT' >/etc/profile.d/00-aaa.sh")
	t.Run("shell", func(t *testing.T) {
		s := idleSession(t, m, f, nil)
		took, err := s.wait(within(t, m, 2*time.Minute), 0)
		if err != nil {
			t.Fatalf("an idle login shell goes on: %v\n%s", err, s.output())
		}
		if took < idleFor-2*time.Second {
			t.Errorf("the login shell ended after %s, before its time", took)
		}
		if out := s.output(); !strings.Contains(out, "auto-logout") {
			t.Errorf("the login shell ended after %s and does not say auto-logout: %q", took, out)
		}
	})
	run(t, m, root, "rm /etc/profile.d/00-aaa.sh")

	// In ward's own file, so that the syntax under test is ward's.
	run(t, m, root, "cp -a /etc/ssh/sshd_config.d/00-ward-logoff.conf /run/keep.logoff && sed -i 's/900/10/' /etc/ssh/sshd_config.d/00-ward-logoff.conf && systemctl reload ssh.service && sleep 3")
	t.Run("SSH session", func(t *testing.T) {
		s := idleSession(t, m, f, []string{"sleep", "100000"})
		took, err := s.wait(within(t, m, 2*time.Minute), 0)
		if err != nil {
			t.Fatalf("an idle SSH session goes on: %v", err)
		}
		if took < idleFor-2*time.Second {
			t.Errorf("the SSH session ended after %s, before its time", took)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.client.Wait() }()
		select {
		case <-closed:
		case <-within(t, m, 2*time.Minute).Done():
			t.Error("the session is gone, and the connection stays")
		}
	})
	t.Run("a session in use stays", func(t *testing.T) {
		client, err := proof.Login(within(t, m, 30*time.Second), m, f.Clerk)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		out, err := vm.Command(within(t, m, 2*time.Minute), client, "", "for i in 1 2 3 4 5 6; do echo $i; sleep 5; done; echo end")
		if err != nil || !strings.HasSuffix(strings.TrimSpace(out), "end") {
			t.Errorf("a session that prints every 5 seconds: %q, %v, want it to come to its end", out, err)
		}
	})
	run(t, m, root, "cp -a /run/keep.logoff /etc/ssh/sshd_config.d/00-ward-logoff.conf && systemctl reload ssh.service")
}

// A session that nobody types into.
type session struct {
	client *ssh.Client
	start  time.Time
	done   chan error
	out    *bytes.Buffer
}

// idleSession logs the clerk in, on a terminal: a login shell, or a command.
func idleSession(t *testing.T, m *vm.VM, f *proof.Fixture, argv []string) *session {
	t.Helper()
	client, err := proof.Login(within(t, m, 30*time.Second), m, f.Clerk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	one := &session{client: client, done: make(chan error, 1), out: &bytes.Buffer{}}
	s.Stdout = one.out
	// An end that never comes, so that the shell waits for it.
	if _, err := s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	if len(argv) > 0 {
		err = s.Start(strings.Join(argv, " "))
	} else {
		err = s.Shell()
	}
	if err != nil {
		t.Fatal(err)
	}
	one.start = time.Now()
	go func() { one.done <- s.Wait() }()
	return one
}

// wait returns how long the session lasted, or an error when ctx ends first, or
// after limit when that is not 0.
func (s *session) wait(ctx context.Context, limit time.Duration) (time.Duration, error) {
	var over <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-s.done:
		return time.Since(s.start), nil
	case <-over:
		return 0, errors.New("it goes on")
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// output is what a session that has ended had printed.
func (s *session) output() string { return s.out.String() }
