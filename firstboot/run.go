package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RunFunc executes a program with stdin and returns its standard output, also
// when it fails.
type RunFunc func(ctx context.Context, stdin []byte, argv ...string) (stdout string, err error)

// runLimit ends a program that waits for something that never comes.
const runLimit = 10 * time.Minute

// unlimited lets a program that works for hours come to its end, and asks it to
// stop instead of killing it.
func unlimited(ctx context.Context) context.Context {
	return context.WithValue(ctx, unlimitedKey{}, true)
}

type unlimitedKey struct{}

// errNoProgram is in the error of a program that is not installed.
var errNoProgram = exec.ErrNotFound

// hostRun executes programs on this machine. The quoted argv is logged, so no
// secret may ever be an argument; what a program reads from stdin is not logged.
func hostRun(log *slog.Logger) RunFunc {
	return func(ctx context.Context, stdin []byte, argv ...string) (string, error) {
		long := ctx.Value(unlimitedKey{}) != nil
		if !long {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, runLimit)
			defer cancel()
		}
		start := time.Now()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.WaitDelay = 5 * time.Second
		if long {
			// It comes to a safe end by itself when it is asked to.
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.WaitDelay = 2 * time.Minute
		}
		var out, errs bytes.Buffer
		cmd.Stdin = bytes.NewReader(stdin)
		cmd.Stdout, cmd.Stderr = &limited{&out, 32 << 20}, &limited{&errs, 1 << 20}
		err := cmd.Run()
		log.Debug("run", "argv", quote(argv), "took", time.Since(start).Round(time.Millisecond), "err", err)
		if err == nil {
			return out.String(), nil
		}
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		if text := tail(errs.String(), 4); text != "" {
			return out.String(), fmt.Errorf("%s: %w: %s", quote(argv), err, text)
		}
		return out.String(), fmt.Errorf("%s: %w", quote(argv), err)
	}
}

// limited stops keeping what a program writes once it is too much.
type limited struct {
	b   *bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// quote writes an argv as a shell would read it.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$`*?[]{}();&|<>~#") {
			words[i] = strconv.Quote(a)
		}
	}
	return strings.Join(words, " ")
}

// tail returns the last n lines of text as one line.
func tail(text string, n int) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// exitCode returns the exit code in err, or -1.
func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}
