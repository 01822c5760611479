package builder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"ward/builder/command"
)

// InsideCommand is the hidden command with which the builder starts its own
// program again, in a namespace where an ordinary user may own files as root does.
const InsideCommand = "inside"

// Inside is what the inner program is told, as JSON on its standard input; one
// field is set.
type Inside struct {
	Settle *SettleSpec `json:"settle,omitempty"`
	Check  *CheckSpec  `json:"check,omitempty"`
	Pack   *PackSpec   `json:"pack,omitempty"`
	Bake   *BakeSpec   `json:"bake,omitempty"`
	Base   *BaseSpec   `json:"base,omitempty"`
}

// inside runs the inner program.
func (b *build) inside(ctx context.Context, what Inside) error {
	spec, err := json.Marshal(what)
	if err != nil {
		return err
	}
	read, write := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(read)
		for in.Scan() {
			b.note(in.Text())
		}
		io.Copy(io.Discard, read)
	}()
	inner := command.Spec{Argv: command.Namespace(b.Binaries.Ward, InsideCommand), Stdin: bytes.NewReader(spec), Stdout: write}
	if b.log != nil { // it logs to standard error, as we do
		inner.Argv, inner.Stderr = append(inner.Argv, "--verbose"), b.log.inner()
	}
	err = command.Start(ctx, b.Log, inner)
	write.Close()
	<-done
	var c *command.Error
	if errors.As(err, &c) && ctx.Err() == nil {
		// What the inner program said, with its hints, is the error.
		if text := c.Said("ward: "); text != "" {
			return errors.New(text)
		}
	}
	return err
}

// ServeInside is the inner program: it does what r says and notes on w what it
// is doing, a line each.
func ServeInside(ctx context.Context, log *slog.Logger, r io.Reader, w io.Writer) error {
	var what Inside
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&what); err != nil {
		return fmt.Errorf("inside: standard input: %w", err)
	}
	note := func(text string) { fmt.Fprintln(w, text) }
	switch {
	case what.Settle != nil:
		return settleTree(ctx, log, *what.Settle, note)
	case what.Check != nil:
		return checkTree(ctx, *what.Check)
	case what.Pack != nil:
		return packTree(ctx, log, *what.Pack)
	case what.Bake != nil:
		return Bake(ctx, log, *what.Bake, note)
	case what.Base != nil:
		return restoreBase(ctx, *what.Base)
	default:
		return errors.New("inside: standard input says nothing to do")
	}
}

// removeTree removes folders of the cache, which may have a tree in them.
func removeTree(log *slog.Logger) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error { return command.RemoveAll(ctx, log, dir) }
}
