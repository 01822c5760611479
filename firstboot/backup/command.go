package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ward/profiles"
	"ward/profiles/control"
)

// Places on the machine.
const (
	StateFile = "/var/lib/ward/backup.json"
	Runtime   = "/run"
	Cache     = "/var/cache/ward-backup"
)

// Opener returns the machine to work on and what gives it back.
type Opener func() (t *control.Target, done func() error, err error)

// FromTarget opens the backup job of a machine.
func FromTarget(t *control.Target) (*Backup, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this machine: %w", err)
	}
	c := Config{Host: host, Tag: t.Profile.Controls.Backup.Tag, CheckParts: t.Profile.Controls.Backup.CheckParts,
		StateFile: StateFile, Runtime: Runtime, Cache: Cache}
	if t.Machine != nil {
		c.Repository = t.Machine.Backup
	}
	return Open(c, t.Log)
}

// With runs f with the machine's backup job.
func With(open Opener, f func(*cobra.Command, *control.Target, *Backup) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) (err error) {
		t, done, err := open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		b, err := FromTarget(t)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		return f(c, t, b)
	}
}

// Mounted wants a mount point: below a volume that is locked there is an empty
// folder, and a backup of that would look like one.
func Mounted(path string) error {
	var here, above syscall.Stat_t
	if err := errors.Join(syscall.Stat(path, &here), syscall.Stat(filepath.Dir(path), &above)); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if here.Dev == above.Dev {
		return fmt.Errorf("%s is not mounted\nhint: see `wardctl status`; the volume may be locked", path)
	}
	return nil
}

// mounted are the mount points of the volumes that are there, and what is wrong
// with the others.
func mounted(volumes []profiles.Volume) (there []string, absent error) {
	for _, v := range volumes {
		if err := Mounted(v.Mount); err != nil {
			absent = errors.Join(absent, err)
		} else {
			there = append(there, v.Mount)
		}
	}
	return there, absent
}

// Command is `wardctl backup`.
func Command(open Opener) *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "copy the PHI volumes to the backup repository",
		Long: `backup copies the PHI volumes with restic to the repository of the machine's file,
nightly by ward-backup.timer. A volume that is absent fails the run; the others are
copied. Snapshots are forgotten on the repository's side, never from here.`,
	}
	c.AddCommand(&cobra.Command{
		Use: "init", Short: "make the repository, if it is not there",
		RunE: With(open, func(c *cobra.Command, _ *control.Target, b *Backup) error { return b.Init(c.Context()) }),
	}, &cobra.Command{
		Use: "run", Short: "back up now, and read a part of the repository back",
		RunE: With(open, func(c *cobra.Command, t *control.Target, b *Backup) error {
			there, absent := mounted(t.Profile.Controls.PHI.All())
			s, err := b.RunWithout(c.Context(), absent, there...)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "snapshot %s: %d files, %.1f MB, %.1f s\n", s.Snapshot, s.Files, float64(s.Bytes)/1e6, s.Seconds)
			return err
		}),
	}, statusCommand(open))
	return c
}

// Status is what `wardctl backup status --json` prints.
type Status struct {
	Repository *Snapshot `json:"repository"` // the last snapshot there; nil: none
	Kind       Kind      `json:"kind,omitempty"`
	Error      string    `json:"error,omitempty"` // why the repository could not be asked
	State      *State    `json:"state"`
}

func statusCommand(open Opener) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "ask the repository for the last snapshot of this machine",
		RunE: With(open, func(c *cobra.Command, _ *control.Target, b *Backup) error {
			state, err := ReadState(b.c.StateFile)
			if err != nil {
				return err
			}
			s := Status{State: state}
			s.Repository, err = b.Latest(c.Context(), "")
			if fault := (*Fault)(nil); errors.As(err, &fault) {
				s.Kind, s.Error = fault.Kind, fault.Text
			} else if err != nil {
				s.Kind, s.Error = Failed, err.Error()
			}
			if asJSON {
				return errors.Join(json.NewEncoder(c.OutOrStdout()).Encode(s), err)
			}
			return errors.Join(s.print(c), err)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (s Status) print(c *cobra.Command) error {
	latest := "none"
	if s.Repository != nil {
		latest = fmt.Sprintf("%.8s of %s", s.Repository.ID, s.Repository.Time.UTC().Format(time.DateTime))
	} else if s.Error != "" {
		latest = "not known: " + string(s.Kind)
	}
	success := "never"
	if !s.State.Success.IsZero() {
		success = s.State.Success.Format(time.DateTime)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "last snapshot  %s\nlast success   %s\nlast fault     %s\n", latest, success, s.State.Error)
	return err
}

// ofVolume are what a PHI volume has for itself: fscrypt's metadata and its raw
// key. A new volume has its own, which its folders are encrypted with already;
// those of the lost volume would open nothing on it, and lock it at the next boot.
var ofVolume = []string{profiles.DataMount + "/.fscrypt", profiles.DataMount + "/.ward"}

// RestoreCommand is `wardctl restore`.
func RestoreCommand(open Opener) *cobra.Command {
	var target, volume string
	var overwrite bool
	c := &cobra.Command{
		Use:   "restore",
		Short: "bring the PHI of the last snapshot back",
		Long: `restore brings the files of this machine's last snapshot back, with their owners
and modes, and reads each of them again: all PHI volumes, or the one that --volume
names, each from the last snapshot that has it. Without --overwrite it refuses a PHI
volume that has files. What fscrypt keeps on the volume for itself stays as it is;
--target DIR brings that back too.`,
		Example: "  wardctl restore --target /root/look\n  wardctl restore --volume archive",
		RunE: With(open, func(c *cobra.Command, t *control.Target, b *Backup) error {
			volumes, err := chosen(t.Profile.Controls.PHI.All(), volume)
			if err != nil {
				return err
			}
			// All that can be refused is refused before the first file is written.
			var copies []*Snapshot
			for _, v := range volumes {
				if target == "/" {
					if err := Mounted(v.Mount); err != nil {
						return err
					}
					if err := empty(v.Mount); err != nil && !overwrite {
						return err
					}
				}
				s, err := b.Latest(c.Context(), v.Mount)
				if err != nil {
					return err
				}
				if s == nil {
					return fmt.Errorf("the repository has no snapshot of %s of this machine\nhint: snapshots carry the machine's name; is it the same?", v.Mount)
				}
				copies = append(copies, s)
			}
			for i, v := range volumes {
				s, start := copies[i], time.Now()
				without := s.Others(v.Mount)
				if target == "/" {
					without = append(without, ofVolume...)
				}
				if err := b.Restore(c.Context(), s, target, without...); err != nil {
					return err
				}
				t.Log.Info("restore: done", "volume", v.Name, "snapshot", s.ID, "taken", s.Time, "took", time.Since(start).Round(time.Second))
				if _, err := fmt.Fprintf(c.OutOrStdout(), "%s: snapshot %.8s of %s is back below %s, in %.0f s\n", v.Name, s.ID, s.Time.UTC().Format(time.DateTime), target, time.Since(start).Seconds()); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&target, "target", "/", "folder to restore below; / puts the files where they were")
	c.Flags().StringVar(&volume, "volume", "", "`NAME` of the only volume to restore; without it all are")
	c.Flags().BoolVar(&overwrite, "overwrite", false, "replace files that are there")
	return c
}

// chosen is the volume with that name; empty: all of them.
func chosen(all []profiles.Volume, name string) ([]profiles.Volume, error) {
	if name == "" {
		return all, nil
	}
	var names []string
	for _, v := range all {
		if v.Name == name {
			return []profiles.Volume{v}, nil
		}
		names = append(names, v.Name)
	}
	return nil, fmt.Errorf("volume %q: there is none\nhint: there are: %s", name, strings.Join(names, ", "))
}

// empty refuses a folder with more in it than what a new volume has.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" || slices.Contains(ofVolume, path.Join(dir, e.Name())) || e.IsDir() && isEmpty(filepath.Join(dir, e.Name())) {
			continue
		}
		return fmt.Errorf("%s has files already, such as %s\nhint: --overwrite replaces them", dir, e.Name())
	}
	return nil
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}
