package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSH logs in to the machine from outside. While nothing answers as an SSH
// server yet it tries again until ctx ends or the machine is lost; what a server
// answered is final.
func (m *VM) SSH(ctx context.Context, config *ssh.ClientConfig) (*ssh.Client, error) {
	for {
		client, err := DialSSH(ctx, m.SSHAddr(), config)
		var silent *NoServerError
		if err == nil || !errors.As(err, &silent) {
			return client, err
		}
		if lost := m.Err(); lost != nil {
			return nil, lost
		}
		select {
		case <-ctx.Done():
			return nil, &WaitError{"SSH server", fmt.Errorf("%w (%w)", context.Cause(ctx), err), m.Tail(TailLines)}
		case <-m.done:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// NoServerError is a connection on which no SSH server spoke. QEMU accepts for
// the guest, so a closed port in the guest looks like a connection that ends.
type NoServerError struct{ Err error }

func (e *NoServerError) Error() string { return fmt.Sprintf("no SSH server: %v", e.Err) }
func (e *NoServerError) Unwrap() error { return e.Err }

// DialSSH logs in once. It ends when ctx does, also in the middle of a handshake.
func DialSSH(ctx context.Context, addr string, config *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &NoServerError{err}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	heard := &heardConn{Conn: conn}
	c, channels, requests, err := ssh.NewClientConn(heard, addr, config)
	if err != nil {
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("ssh %s@%s: %w", config.User, addr, context.Cause(ctx))
		case !heard.any.Load():
			return nil, &NoServerError{err}
		}
		return nil, fmt.Errorf("ssh %s@%s: %w", config.User, addr, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// heardConn remembers whether the other side ever sent a byte.
type heardConn struct {
	net.Conn
	any atomic.Bool // the library reads on in a goroutine of its own
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.any.Store(true)
	}
	return n, err
}

// Output of a command on the machine is bounded, in bytes.
const outputMax = 16 << 20

// Command runs a command over a login and returns its standard output. The error
// of a command that fails has its exit code (*ssh.ExitError) and its standard error.
func Command(ctx context.Context, client *ssh.Client, stdin, command string) (string, error) {
	session, err := newSession(ctx, client)
	if err != nil {
		return "", fmt.Errorf("run %q: %w", command, err)
	}
	defer session.Close()
	var stdout, stderr bytes.Buffer
	session.Stdin = strings.NewReader(stdin)
	session.Stdout, session.Stderr = limited(&stdout), limited(&stderr)
	done := make(chan error, 1)
	go func() { done <- session.Run(command) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		session.Close()
		return "", fmt.Errorf("run %q: %w", command, context.Cause(ctx))
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("run %q: %w: %s", command, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// newSession opens a session. A server that does not answer loses its connection
// when the context ends: package ssh itself would wait for ever.
func newSession(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	stop := context.AfterFunc(ctx, func() { client.Close() })
	session, err := client.NewSession()
	if !stop() && err != nil {
		return nil, fmt.Errorf("open a session: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return session, nil
}

func limited(b *bytes.Buffer) io.Writer { return &limitedWriter{b, outputMax} }

type limitedWriter struct {
	b    *bytes.Buffer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, fmt.Errorf("more than %d bytes of output", outputMax)
	}
	w.left -= len(p)
	return w.b.Write(p)
}

// RootShell is one shell of root, opened through a person's login and sudo. It
// stays open while a test breaks sshd, PAM or sudo itself, and can mend them.
type RootShell struct {
	session *ssh.Session
	in      io.WriteCloser
	out     *lineReader
	serial  int
}

// OpenRootShell starts it; password is the person's, for sudo.
func OpenRootShell(ctx context.Context, client *ssh.Client, password string) (*RootShell, error) {
	session, err := newSession(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("root shell: %w", err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("root shell: %w", err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("root shell: %w", err)
	}
	var stderr bytes.Buffer
	session.Stderr = limited(&stderr)
	s := &RootShell{session: session, in: in, out: newLineReader(out)}
	// -k: ask for the password now, whatever sudo remembers; else it would stay
	// in the input and be run as a command.
	if err := session.Start("exec sudo -k -S -p '' /bin/sh"); err != nil {
		return nil, fmt.Errorf("root shell: %w", err)
	}
	if _, err := io.WriteString(in, password+"\n"); err != nil {
		return nil, fmt.Errorf("root shell: %w", err)
	}
	id, _, err := s.Run(ctx, "id -u")
	if err != nil {
		// What sudo said is whole, and ours to read, only once the session has ended.
		ended := make(chan struct{})
		go func() { session.Wait(); close(ended) }()
		said := ""
		select {
		case <-ended:
			said = strings.TrimSpace(stderr.String())
		case <-ctx.Done():
		}
		session.Close()
		return nil, fmt.Errorf("root shell: %w: %s", err, said)
	}
	if id != "0\n" {
		session.Close()
		return nil, fmt.Errorf("root shell: id -u said %q", id)
	}
	return s, nil
}

// Run runs a script as root and returns what it printed, standard error
// included, and its exit code. The script runs in a child: it cannot end or
// change the shell.
func (s *RootShell) Run(ctx context.Context, script string) (output string, code int, err error) {
	s.serial++
	mark := fmt.Sprintf("ward-end-%d-%d", s.serial, time.Now().UnixNano())
	eof := "EOF-" + mark
	// The script comes from a here-document, and the child's own input is empty,
	// so that nothing it runs eats the commands that follow. printf puts the mark on
	// a line of its own also after output without an end of line.
	_, err = fmt.Fprintf(s.in, "/bin/sh -c \"$(cat <<'%s'\n%s\n%s\n)\" </dev/null 2>&1; printf '\\n%%s %%d\\n' %s $?\n", eof, script, eof, mark)
	if err != nil {
		return "", 0, fmt.Errorf("run as root %q: %w", script, err)
	}
	var b strings.Builder
	for {
		line, err := s.out.next(ctx)
		if err != nil {
			return b.String(), 0, fmt.Errorf("run as root %q: %w", script, err)
		}
		if rest, ok := strings.CutPrefix(line, mark+" "); ok {
			if _, err := fmt.Sscanf(rest, "%d", &code); err != nil {
				return b.String(), 0, fmt.Errorf("run as root %q: exit code %q", script, rest)
			}
			out := b.String()
			if out == "\n" {
				return "", code, nil
			}
			return strings.TrimSuffix(out, "\n"), code, nil // the line that printf began
		}
		if b.Len() > outputMax {
			return b.String(), 0, fmt.Errorf("run as root %q: more than %d bytes of output", script, outputMax)
		}
		b.WriteString(line + "\n")
	}
}

// Close ends the shell.
func (s *RootShell) Close() error {
	s.in.Close()
	return s.session.Close()
}

// lineReader reads lines and can be told to stop waiting.
type lineReader struct {
	lines chan string
	err   error // valid once lines is closed
}

func newLineReader(r io.Reader) *lineReader {
	l := &lineReader{lines: make(chan string, 256)}
	go func() {
		defer close(l.lines)
		var partial []byte
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			for p := buf[:n]; len(p) > 0; {
				i := bytes.IndexByte(p, '\n')
				if i < 0 {
					if partial = append(partial, p...); len(partial) > outputMax {
						l.err = fmt.Errorf("a line of more than %d bytes", outputMax)
						return
					}
					break
				}
				l.lines <- string(append(partial, p[:i]...))
				partial, p = nil, p[i+1:]
			}
			if err != nil {
				l.err = err
				return
			}
		}
	}()
	return l
}

func (l *lineReader) next(ctx context.Context) (string, error) {
	select {
	case line, ok := <-l.lines:
		if !ok {
			return "", fmt.Errorf("the shell ended: %w", l.err)
		}
		return line, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
