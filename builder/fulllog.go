package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fullLog is the file that has every command of a build, also of one that says
// little on the terminal. It belongs to one image: a build of the same image that
// runs at the same time has none.
type fullLog struct {
	*os.File
	outer io.Writer // where the inner program's log goes beside it; nil: nowhere
}

// openLog starts the full log and has everything logged to it as well.
func (b *build) openLog(ctx context.Context) error {
	name := filepath.Join(b.Cache, "log", "build-"+b.Image.Name+".log")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("log: lock %s: %w", name, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return fmt.Errorf("log: %w", err)
	}
	b.log = &fullLog{File: f}
	if b.Log.Enabled(ctx, slog.LevelDebug) {
		b.log.outer = os.Stderr
	}
	b.Log = slog.New(slog.NewMultiHandler(b.Log.Handler(), slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return nil
}

// inner is where the log of the inner program goes.
func (l *fullLog) inner() io.Writer {
	if l.outer != nil {
		return io.MultiWriter(l.File, l.outer)
	}
	return l.File
}

// logged adds to the error of a build where its full log is.
func (b *build) logged(err error) error {
	if b.log == nil || strings.Contains(err.Error(), b.log.Name()) {
		return err
	}
	return fmt.Errorf("%w\nhint: every command and what it said is in %s", err, b.log.Name())
}
