// Package command runs other programs for the builder: one place that logs the
// argv at debug level and turns a failure into an error that has the argv and
// the end of what the program said.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// tail is how much of a program's last words an error keeps, in bytes.
const tail = 2000

// Error is a program that could not be started or failed.
type Error struct {
	Argv []string
	Tail string // end of its standard error
	Err  error  // *exec.ExitError, or why it could not start
}

func (e *Error) Error() string {
	text := strings.TrimSpace(e.Tail)
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:] // the last line mostly says why; Tail has the rest
	}
	if text == "" {
		return fmt.Sprintf("%s: %v", e.Argv[0], e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Argv[0], e.Err, text)
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs a program and waits for it.
func Run(ctx context.Context, log *slog.Logger, argv ...string) error {
	return Start(ctx, log, Spec{Argv: argv})
}

// Output runs a program and returns its standard output.
func Output(ctx context.Context, log *slog.Logger, argv ...string) (string, error) {
	var out bytes.Buffer
	err := Start(ctx, log, Spec{Argv: argv, Stdout: &out})
	return out.String(), err
}

// Spec is a program to run.
type Spec struct {
	Argv   []string
	Env    []string // nil: ours
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer // beside the tail that an error keeps
	Chroot string
}

// Start runs a program and waits for it, in a process group of its own: mmdebstrap
// ends a failed run with a SIGHUP to its group, which must not be ours. When the
// context ends the group gets SIGTERM and, ten seconds later, SIGKILL; the program
// also dies with us.
func Start(ctx context.Context, log *slog.Logger, s Spec) error {
	log.DebugContext(ctx, "run", "argv", Quote(s.Argv))
	cmd := exec.CommandContext(ctx, s.Argv[0], s.Argv[1:]...)
	last := &tailWriter{}
	cmd.Env, cmd.Stdin, cmd.Stdout = s.Env, s.Stdin, s.Stdout
	cmd.Stderr = io.Writer(last)
	if s.Stderr != nil {
		cmd.Stderr = io.MultiWriter(last, s.Stderr)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Chroot: s.Chroot, Setpgid: true}
	if s.Chroot != "" {
		cmd.Dir = "/"
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if text := strings.TrimSpace(last.String()); text != "" && s.Stderr == nil { // else it is shown elsewhere
		log.DebugContext(ctx, "said", "program", s.Argv[0], "text", text)
	}
	if err != nil {
		if ctx.Err() != nil {
			if cmd.Process != nil {
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what outlived the program
			}
			err = errors.Join(ctx.Err(), err)
		}
		return &Error{Argv: s.Argv, Tail: last.String(), Err: err}
	}
	return nil
}

// Quote writes an argv so that a shell would read it back.
func Quote(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		if a != "" && strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@%+") == "" {
			quoted[i] = a
		} else {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// tailWriter keeps the last bytes written to it.
type tailWriter struct{ b []byte }

func (t *tailWriter) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*tail {
		t.b = append(t.b[:0], t.b[len(t.b)-tail:]...)
	}
	return len(p), nil
}

func (t *tailWriter) String() string { return string(t.b) }

// Said returns the lines that a program of ours, which starts each with the
// prefix, said when it gave up, without the prefix, hints included.
func (e *Error) Said(prefix string) string {
	text := "\n" + strings.TrimRight(e.Tail, "\n")
	i := strings.Index(text, "\n"+prefix)
	if i < 0 {
		return ""
	}
	return strings.ReplaceAll(text[i:], "\n"+prefix, "\n")[1:]
}
