package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// LockRetries is how often, and LockWait how long apart, a run waits for a lock;
// restic has --retry-lock only since 0.16.
const (
	LockRetries = 6
	LockWait    = 20 * time.Second
)

// Init makes the repository if it is not there. One that was there before and is
// gone is a fault, not a reason to start anew and hide it.
func (b *Backup) Init(ctx context.Context) error {
	state, err := ReadState(b.c.StateFile)
	if err != nil {
		return err
	}
	_, err = b.restic(ctx, "cat", "config")
	var fault *Fault
	if errors.As(err, &fault) && fault.Kind == Missing {
		if !state.Initialised.IsZero() {
			return fmt.Errorf("the repository was there on %s and is gone: %w", state.Initialised.Format(time.DateOnly), err)
		}
		if _, err := b.restic(ctx, "init"); err != nil {
			return err
		}
		b.log.Info("backup: repository made")
	} else if err != nil {
		return err
	}
	if state.Initialised.IsZero() {
		state.Initialised = time.Now().UTC()
		return WriteJSON(b.c.StateFile, state)
	}
	return nil
}

// summary is the last line of restic backup --json.
type summary struct {
	Type     string  `json:"message_type"`
	Files    int64   `json:"total_files_processed"`
	Bytes    int64   `json:"total_bytes_processed"`
	Seconds  float64 `json:"total_duration"`
	Snapshot string  `json:"snapshot_id"`
}

// Run copies paths and reads a part of the repository back. The state says what
// came of it, also when it fails.
func (b *Backup) Run(ctx context.Context, paths ...string) (*State, error) {
	return b.RunWithout(ctx, nil, paths...)
}

// RunWithout is Run when something that has to be copied too is not there: paths
// are copied, which may be none, and absent is what the run has failed with.
func (b *Backup) RunWithout(ctx context.Context, absent error, paths ...string) (*State, error) {
	state, err := ReadState(b.c.StateFile)
	if err != nil {
		return nil, err
	}
	start := time.Now().UTC()
	var sum *summary
	if len(paths) > 0 {
		sum, err = b.copy(ctx, paths)
	}
	state, stateErr := ReadState(b.c.StateFile) // Init may have written it
	if stateErr != nil {
		return nil, errors.Join(err, stateErr)
	}
	state.Attempt, state.Kind, state.Error = start, "", ""
	if err == nil && sum != nil {
		if absent == nil {
			state.Success = time.Now().UTC()
		}
		state.Snapshot, state.Files, state.Bytes, state.Seconds = sum.Snapshot, sum.Files, sum.Bytes, sum.Seconds
		part := state.CheckPart%max(b.c.CheckParts, 1) + 1
		switch err = b.check(ctx, part); {
		case err == nil:
			state.CheckPart, state.CheckError = part, ""
		case kindOf(err) == Corrupted || kindOf(err) == Failed:
			state.CheckPart, state.CheckError = part, err.Error()
		default: // nothing was read back, as from a repository that is locked: next time
		}
	}
	if err != nil {
		state.Kind, state.Error = kindOf(err), err.Error()
	} else if absent != nil {
		state.Kind, state.Error = Absent, absent.Error()
	}
	return state, errors.Join(err, absent, WriteJSON(b.c.StateFile, state))
}

// kindOf is the kind of fault in an error; Failed when restic did not say.
func kindOf(err error) Kind {
	var fault *Fault
	if errors.As(err, &fault) {
		return fault.Kind
	}
	return Failed
}

// Keep copies paths into the repository under a tag of their own, apart from the
// nightly copies and from what is known of them, and returns the snapshot.
func (b *Backup) Keep(ctx context.Context, tag string, paths ...string) (snapshot string, err error) {
	sum, err := b.copyAs(ctx, tag, paths)
	if err != nil {
		return "", err
	}
	return sum.Snapshot, nil
}

func (b *Backup) copy(ctx context.Context, paths []string) (*summary, error) {
	return b.copyAs(ctx, b.c.Tag, paths)
}

func (b *Backup) copyAs(ctx context.Context, tag string, paths []string) (*summary, error) {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("nothing to back up: %w", err)
		}
	}
	if err := b.Init(ctx); err != nil {
		return nil, err
	}
	args := []string{"backup", "--json", "--tag", tag, "--host", b.c.Host, "--exclude", "**/.ward-*", "--exclude-caches"}
	for _, e := range b.c.Repository.Exclude {
		args = append(args, "--exclude", e)
	}
	for _, p := range paths {
		// The folder that the check of fscrypt locks: a run beside it could not read it.
		args = append(args, "--exclude", path.Join(p, ".ward/lock-trial"))
	}
	out, err := b.retry(ctx, append(args, paths...)...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		var s summary
		if json.Unmarshal([]byte(line), &s) == nil && s.Type == "summary" && s.Snapshot != "" {
			return &s, nil
		}
	}
	return nil, errors.New("restic backup ended well and named no snapshot")
}

// check lets restic read one part of all packs back: over CheckParts runs each
// byte is read, where a random share never promises that.
func (b *Backup) check(ctx context.Context, part int) error {
	_, err := b.retry(ctx, "check", fmt.Sprintf("--read-data-subset=%d/%d", part, max(b.c.CheckParts, 1)))
	return err
}

// retry runs restic again while the repository is locked by somebody else.
func (b *Backup) retry(ctx context.Context, args ...string) (string, error) {
	for try := 0; ; try++ {
		out, err := b.restic(ctx, args...)
		var fault *Fault
		if try == LockRetries || !errors.As(err, &fault) || fault.Kind != Locked {
			return out, err
		}
		b.log.Warn("backup: repository is locked, waiting", "try", try+1, "of", LockRetries)
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(b.c.LockWait):
		}
	}
}

// Snapshot is one copy in the repository.
type Snapshot struct {
	ID    string    `json:"id"`
	Time  time.Time `json:"time"`
	Paths []string  `json:"paths"`
	Host  string    `json:"hostname"`
	Tags  []string  `json:"tags"`
}

// Others are the paths in the snapshot beside one: what a restore of that one
// leaves out.
func (s *Snapshot) Others(path string) []string {
	return slices.DeleteFunc(slices.Clone(s.Paths), func(p string) bool { return p == path })
}

// Latest asks the repository for this machine's last snapshot; nil: it has none.
// With a path it is the last one that has a copy of that path: while a volume was
// absent the others were copied without it.
func (b *Backup) Latest(ctx context.Context, path string) (*Snapshot, error) {
	out, err := b.restic(ctx, "snapshots", "--json", "--no-lock", "--host", b.c.Host, "--tag", b.c.Tag)
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("read the list of snapshots: %w", err)
	}
	var latest *Snapshot
	for i := range all {
		if path != "" && !slices.Contains(all[i].Paths, path) {
			continue
		}
		if latest == nil || all[i].Time.After(latest.Time) {
			latest = &all[i]
		}
	}
	return latest, nil
}

// Restore brings a snapshot's files below target, and reads each of them back;
// without says which paths of the snapshot are left out.
func (b *Backup) Restore(ctx context.Context, s *Snapshot, target string, without ...string) error {
	args := []string{"restore", s.ID, "--target", target, "--verify"}
	for _, w := range without {
		args = append(args, "--exclude", w)
	}
	_, err := b.retry(ctx, args...)
	return err
}

// Tree lists what is in a snapshot: one JSON object a line, as restic ls prints it.
func (b *Backup) Tree(ctx context.Context, s *Snapshot) (string, error) {
	return b.restic(ctx, "ls", "--json", "--no-lock", s.ID)
}
