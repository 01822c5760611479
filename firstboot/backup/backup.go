// Package backup copies the PHI volumes to the restic repository of the machine's
// file, asks the repository what it has, and brings it back. It drives the restic
// of the release (from 0.14 on), which tells most of its faults by text alone.
//
//	b, err := backup.Open(conf, log)
//	if err != nil { ... }
//	defer b.Close()
//	state, err := b.Run(ctx, "/var/data/phi")
//
// Snapshots are forgotten on the trusted side, never from here: a repository
// that this machine can only append to survives whoever takes the machine over.
package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"ward/profiles/machine"
)

// Config says where to and how.
type Config struct {
	Repository *machine.Backup
	Host       string // the name that the snapshots carry
	Tag        string
	CheckParts int           // a run reads one part of so many back
	StateFile  string        // JSON, see State
	Runtime    string        // folder on a tmpfs for secrets while a command runs
	Cache      string        // restic's cache, which is encrypted like the repository
	Restic     string        // the program; "restic" when empty
	LockWait   time.Duration // between two tries at a locked repository; 0: LockWait
}

// Backup is an open job: its secrets lie in a folder of its own until Close.
type Backup struct {
	c   Config
	log *slog.Logger
	dir string
}

// NotConfigured means that the machine's file has no backup section.
var NotConfigured = errors.New("the machine's file has no backup section\nhint: add backup: with a repository and a password, and apply it")

// Open lays the secrets out where restic and ssh can read them, mode 0600 in a
// folder of mode 0700. None of them is ever in an argument.
func Open(c Config, log *slog.Logger) (*Backup, error) {
	if c.Repository == nil {
		return nil, NotConfigured
	}
	if c.Restic == "" {
		c.Restic = "restic"
	}
	if c.LockWait == 0 {
		c.LockWait = LockWait
	}
	dir, err := os.MkdirTemp(c.Runtime, "ward-backup-")
	if err != nil {
		return nil, fmt.Errorf("folder for secrets: %w", err)
	}
	b := &Backup{c: c, log: log, dir: dir}
	r := c.Repository
	for name, content := range map[string]string{"password": r.Password, "known_hosts": r.KnownHosts, "id": r.SSHKey, "ca.pem": r.CA} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.TrimRight(content, "\n")+"\n"), 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), b.Close())
		}
	}
	return b, nil
}

// Close removes the secrets.
func (b *Backup) Close() error { return os.RemoveAll(b.dir) }

// restic runs one command of restic's and returns what it printed.
func (b *Backup) restic(ctx context.Context, args ...string) (stdout string, err error) {
	argv := slices.Concat(b.options(), args)
	cmd := exec.CommandContext(ctx, b.c.Restic, argv...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "RESTIC_REPOSITORY="+b.c.Repository.Repository,
		"RESTIC_PASSWORD_FILE="+filepath.Join(b.dir, "password"), "RESTIC_CACHE_DIR="+b.c.Cache, "RESTIC_PROGRESS_FPS=0.01")
	for key, value := range b.c.Repository.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	// What an earlier ssh said is not this one's reason.
	if err := os.Remove(b.sshLog()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var out, faults bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &faults
	b.log.Debug("run", "argv", args)
	if err := cmd.Run(); err != nil {
		code := -1
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			code = exit.ExitCode()
		} else {
			return "", fmt.Errorf("restic %s: %w\nhint: the image needs the package restic", args[0], err)
		}
		said, err := os.ReadFile(b.sshLog())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out.String(), err
		}
		text := string(said) + faults.String()
		return out.String(), &Fault{Kind: classify(code, text+out.String()), Command: args[0], Exit: code, Text: last(text, 5)}
	}
	return out.String(), nil
}

// sshLog is where ssh writes why it ends. On its standard error it would pass
// through restic, which may be gone before it has passed it on.
func (b *Backup) sshLog() string { return filepath.Join(b.dir, "ssh.log") }

// options are what the kind of repository needs. An SSH that finds another host
// key, or would have to ask, gives up.
func (b *Backup) options() []string {
	var options []string
	if b.c.Repository.CA != "" {
		options = append(options, "--cacert", filepath.Join(b.dir, "ca.pem"))
	}
	if place, ok := machine.SFTPPlace(b.c.Repository.Repository); ok {
		at := place.User + "@" + place.Host
		if place.Port != "" {
			at = "-p " + place.Port + " " + at
		}
		options = append(options, "-o", fmt.Sprintf("sftp.command=ssh -E %s -i %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes -o BatchMode=yes -o IdentitiesOnly=yes -o ServerAliveInterval=30 %s -s sftp",
			b.sshLog(), filepath.Join(b.dir, "id"), filepath.Join(b.dir, "known_hosts"), at))
	}
	return options
}

// place is where in a program's source a line of its stack is.
var place = regexp.MustCompile(`^\t\S+\.(go|s):\d+`)

// last returns the last n lines of a text that say something: restic prints the
// stack of some errors, a function and below it, indented, where it is.
func last(text string, n int) string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if place.MatchString(line) {
			lines = lines[:max(0, len(lines)-1)]
			continue
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
