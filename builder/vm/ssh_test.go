package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshServer runs commands by /bin/sh on this host. "sudo" it does not run: it
// takes a password line, as sudo -S does, and then is a shell.
func sshServer(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{
		MaxAuthTries: 3,
		PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if string(p) != "right" {
				return nil, errors.New("no")
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config)
		}
	}()
	return l.Addr().String()
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			defer channel.Close()
			for r := range requests {
				var p struct{ Command string }
				if r.Type != "exec" || ssh.Unmarshal(r.Payload, &p) != nil {
					r.Reply(false, nil)
					continue
				}
				r.Reply(true, nil)
				if strings.HasPrefix(p.Command, "exec sudo -k -S ") {
					password := make([]byte, len("right\n"))
					io.ReadFull(channel, password)
					p.Command = "echo sorry >&2; exit 1"
					if string(password) == "right\n" {
						p.Command = "exec /bin/sh"
					}
				}
				cmd := exec.Command("/bin/sh", "-c", p.Command)
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				in, _ := cmd.StdinPipe() // not cmd.Stdin: Run would wait for the client's end
				go func() { io.Copy(in, channel); in.Close() }()
				code := uint32(0)
				if err := cmd.Run(); err != nil {
					code = uint32(cmd.ProcessState.ExitCode())
				}
				channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code}))
				return
			}
		}()
	}
}

func login(t *testing.T, addr, password string) (*ssh.Client, error) {
	t.Helper()
	client, err := DialSSH(limit(t, 20*time.Second), addr, &ssh.ClientConfig{
		User: "me", Auth: []ssh.AuthMethod{ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err == nil {
		t.Cleanup(func() { client.Close() })
	}
	return client, err
}

func TestDialSSHTellsNobodyFromNo(t *testing.T) {
	addr := sshServer(t)
	if _, err := login(t, addr, "right"); err != nil {
		t.Error(err)
	}
	var silent *NoServerError
	if _, err := login(t, addr, "wrong"); err == nil || errors.As(err, &silent) || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("a wrong password: %v, want the server's no", err)
	}
	// A port on which nobody listens, and one that is closed at once, as QEMU's
	// forward is while the guest does not listen.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if _, err := login(t, l.Addr().String(), "right"); !errors.As(err, &silent) {
		t.Errorf("a closed connection: %v, want NoServerError", err)
	}
	l.Close()
	if _, err := login(t, l.Addr().String(), "right"); !errors.As(err, &silent) {
		t.Errorf("nobody: %v, want NoServerError", err)
	}
	// One that accepts and says nothing ends with the context.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = DialSSH(ctx, mute.Addr().String(), &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a mute server: %v, want the deadline", err)
	}
}

func TestCommand(t *testing.T) {
	client, err := login(t, sshServer(t), "right")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := Command(t.Context(), client, "input", "cat; echo more"); out != "inputmore\n" || err != nil {
		t.Errorf("Command() = %q, %v", out, err)
	}
	out, err := Command(t.Context(), client, "", "echo half; echo why >&2; exit 7")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 || out != "half\n" || !strings.Contains(err.Error(), "why") {
		t.Errorf("Command() = %q, %v, want exit code 7 and why", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Command(ctx, client, "", "sleep 60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Command() of a sleeper = %v, want the deadline", err)
	}
}

// A server that lets somebody in and then says nothing more is given up with the context.
func TestCommandGivesUpASilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	go func() {
		theirs, err := listener.Accept()
		if err != nil {
			return
		}
		if _, _, requests, err := ssh.NewServerConn(theirs, config); err == nil {
			ssh.DiscardRequests(requests) // and a channel is never accepted
		}
	}()
	ours, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	conn, channels, requests, err := ssh.NewClientConn(ours, "silent", &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Command(ctx, ssh.NewClient(conn, channels, requests), "", "true"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "open a session") {
		t.Errorf("Command() = %v, want the deadline, and that no session was opened", err)
	}
}

func TestRootShell(t *testing.T) {
	client, err := login(t, sshServer(t), "right")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRootShell(limit(t, 20*time.Second), client, "wrong"); err == nil || !strings.Contains(err.Error(), "sorry") {
		t.Errorf("with a wrong password: %v, want what sudo said", err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := session.StdinPipe()
	out, _ := session.StdoutPipe()
	if err := session.Start("exec /bin/sh"); err != nil {
		t.Fatal(err)
	}
	s := &RootShell{session: session, in: in, out: newLineReader(out)}
	defer s.Close()
	for _, c := range []struct {
		script, want string
		code         int
	}{
		{"echo one; echo two >&2", "one\ntwo\n", 0},
		{"printf 'no end of line'", "no end of line", 0},
		{"", "", 0},
		{"exit 3", "", 3},
		{"printf x; exit 4", "x", 4},
		{"cat", "", 0}, // its input is empty, not our commands
		{"x=1; cd /; set -e; false; echo on", "", 1}, // and changes nothing of the shell
		{"pwd >/dev/null; echo \"$x|\"", "|\n", 0},
		{"echo 'a quote '\\'' and $HOME' \"and \\\"two\\\"\"", "a quote ' and $HOME and \"two\"\n", 0},
		{"printf '\\n\\n'", "\n\n", 0},
	} {
		got, code, err := s.Run(limit(t, 20*time.Second), c.script)
		if got != c.want || code != c.code || err != nil {
			t.Errorf("Run(%q) = %q, %d, %v, want %q, %d", c.script, got, code, err, c.want, c.code)
		}
	}
	long, code, err := s.Run(limit(t, 20*time.Second), "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done")
	if err != nil || code != 0 || len(long) != 220000 {
		t.Errorf("Run() of much output = %d bytes, %d, %v", len(long), code, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := s.Run(ctx, "sleep 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run() of a sleeper = %v, want the deadline", err)
	}
	session.Close()
	if _, _, err := s.Run(limit(t, 20*time.Second), "true"); err == nil {
		t.Error("Run() on a shell that is gone: no error")
	}
}

func TestOutputIsBounded(t *testing.T) {
	var b bytes.Buffer
	w := &limitedWriter{&b, 10}
	if _, err := w.Write(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte("x")); err == nil || b.Len() != 10 {
		t.Errorf("an eleventh byte: %v, %d kept", err, b.Len())
	}
}
