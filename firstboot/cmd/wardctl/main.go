// Command wardctl works on the machine that it runs on: it applies the
// machine's configuration, verifies every safeguard, and helps to operate it.
//
// Exit codes: 0 all is well; 1 an error, or a control that fails; 2 wrong
// usage, or a control that could not be looked at.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build (-X main.version=...).
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(report(err, os.Stderr))
}

// exit is an error that has been told already and only carries an exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usage is an error in how wardctl was called.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// report prints err and returns the exit code.
func report(err error, stderr io.Writer) int {
	var e exit
	var u usage
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(e)
	case errors.As(err, &u):
		fmt.Fprintf(stderr, "wardctl: %v\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "wardctl: %v\n", err)
	return 1
}
