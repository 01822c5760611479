// Package rootfs makes the minimal system that an image starts from: a folder with
// the packages installed, with owners, modes and extended attributes as the packages
// want them. It needs no privilege beyond a user namespace, in which the files have
// these owners (command.Namespace).
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ward/builder/command"
	"ward/builder/sourceslist"
	"ward/images/distro"
)

// Spec says what goes into the tree.
type Spec struct {
	Release  distro.Release
	Arch     string   // "amd64"
	Mirrors  []string // lines of sources.list(5); empty: the package manager's own default
	Keyring  string   // empty: the release's
	Packages []string // sorted, without what the base has anyway; rpm: with Sources, their files
	Epoch    int64    // SOURCE_DATE_EPOCH, seconds

	Base     *Vendor            // what the tree starts from; nil: nothing
	Sources  string             // where the machine has packages from, when the tree has them from files: sources.list(5), dnf.conf(5)
	Setup    []sourceslist.File // deb: in the tree before its first update
	Patience time.Duration      // how long a mirror may say nothing; 0: 30 s
}

// manager makes a tree with one kind of package.
type manager interface {
	// bootstrap makes a new tree. Progress goes to note, a line a time.
	bootstrap(ctx context.Context, log *slog.Logger, s Spec, tree string, note func(string)) error
	// version is the version of the tool, part of what a cached tree depends on.
	version(ctx context.Context, log *slog.Logger) (string, error)
}

func managerOf(r distro.Release) (manager, error) {
	switch r.Format {
	case "deb":
		return apt{}, nil
	case "rpm":
		return dnf{}, nil
	default:
		return nil, fmt.Errorf("rootfs: %s: packages of format %q cannot be installed yet", r.Name(), r.Format)
	}
}

// Bootstrap makes a new tree in a folder that does not exist yet. What is mounted on
// a machine, such as /dev, may have anything in it. Every line that the package
// manager says goes to transcript, what it is doing to note.
func Bootstrap(ctx context.Context, log *slog.Logger, s Spec, tree string, transcript io.Writer, note func(string)) error {
	m, err := managerOf(s.Release)
	if err != nil {
		return err
	}
	keyring := s.Keyring
	if keyring == "" {
		keyring = s.Release.Keyring
	}
	if _, err := os.Stat(keyring); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rootfs: %s: keyring %s does not exist\nhint: install the package %s, or name another keyring in the image file (keyring: FILE)",
			s.Release.Name(), keyring, s.Release.KeyringBy)
	}
	s.Keyring = keyring
	lines := &lineWriter{to: transcript, note: note}
	if tree, err = filepath.Abs(tree); err != nil {
		return err
	}
	if err := m.bootstrap(ctx, log, s, tree, lines.line); err != nil {
		return errors.Join(err, command.RemoveAll(context.WithoutCancel(ctx), log, tree))
	}
	return nil
}

// Tool names the package manager's tool and version.
func Tool(ctx context.Context, log *slog.Logger, r distro.Release) (string, error) {
	m, err := managerOf(r)
	if err != nil {
		return "", err
	}
	return m.version(ctx, log)
}

// lineWriter keeps a transcript and passes lines on.
type lineWriter struct {
	to   io.Writer
	note func(string)
}

func (l *lineWriter) line(text string) {
	if l.to != nil {
		fmt.Fprintln(l.to, text)
	}
	if l.note != nil {
		l.note(text)
	}
}
