// Command ward bakes hardened images for servers that hold patients' data, boots
// them and proves that every safeguard holds.
//
// Exit codes: 0 all is well; 1 something is wrong, and standard error says what;
// 2 the command was not called as it should be.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program.
func run(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	p := &program{
		in: stdin, out: stdout, err: stderr, level: level,
		log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	root := p.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; nothing half done stays behind")
	}
	say(stderr, err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitError
}

// program is what the commands share.
type program struct {
	in, out, err *os.File
	log          *slog.Logger
	level        *slog.LevelVar
}

// say prints an error: each fault on a line of its own after "ward: ", hints and
// indented lines as they are.
func say(w io.Writer, err error) {
	for i, line := range strings.Split(strings.TrimRight(err.Error(), "\n"), "\n") {
		if i > 0 && (strings.HasPrefix(line, "hint: ") || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")) {
			fmt.Fprintln(w, line)
			continue
		}
		fmt.Fprintln(w, "ward: "+line)
	}
}

// usageError is a command that was not called as it should be.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// ownVersion is the version that the linker set, or that of the source.
func ownVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return info.Main.Version
}
