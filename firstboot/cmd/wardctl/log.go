package main

import (
	"context"
	"io"
	"log/slog"
	"log/syslog"
	"os"

	"ward/firstboot"
)

// logger writes to standard error, which is the journal when systemd started
// wardctl. When a person did, it writes to the journal as well: what they do to
// the machine must reach the log server, and a terminal is no record.
func logger(stderr io.Writer, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTime}
	own := slog.NewTextHandler(stderr, options)
	// systemd.exec(5): set when standard output or error is the journal's.
	if os.Getenv("JOURNAL_STREAM") != "" || os.Geteuid() != 0 {
		return slog.New(own)
	}
	to, err := syslog.New(syslog.LOG_AUTHPRIV|syslog.LOG_NOTICE, "wardctl")
	if err != nil {
		return slog.New(own) // no log is running: a rescue shell, or a test
	}
	return slog.New(slog.NewMultiHandler(quiet{own}, slog.NewTextHandler(to, options)))
}

// quiet keeps the pieces of documents, which are for the log server, from a
// person's terminal.
type quiet struct{ *slog.TextHandler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == firstboot.DocumentMessage {
		return nil
	}
	return q.TextHandler.Handle(ctx, r)
}

// withoutTime leaves the time to the journal.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
