// Package drill restores the latest snapshot of each PHI volume to a scratch place
// on it, compares every file with the snapshot's tree and with the live data, measures the time, and
// removes what it made: a backup that was never restored is a hope (45 CFR
// 164.308(a)(7)(ii)(D)).
package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ward/firstboot/backup"
)

// Limit is the time in which data must be back; 72 hours stand in the proposed
// rule of 2025 (90 FR 898), the rule in force names none.
const Limit = 72 * time.Hour

// ReportVersion is the version of Report's JSON.
const ReportVersion = 1

// Report is the evidence of one drill.
type Report struct {
	Version  int       `json:"version"`
	Time     time.Time `json:"time"` // when it ended
	OK       bool      `json:"ok"`
	Error    string    `json:"error,omitempty"`
	Mounts   []string  `json:"mounts,omitempty"`   // that were restored
	Snapshot string    `json:"snapshot,omitempty"` // the oldest, where the volumes' last copies are in several
	Taken    time.Time `json:"taken"`              // when it was
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"`
	Seconds  float64   `json:"seconds"` // of the restore, verification included
	MBps     float64   `json:"mb_per_s"`
	// LiveBytes is what the volume holds now, and RecoverySeconds the time that
	// its restore takes at this speed.
	LiveBytes       int64    `json:"live_bytes"`
	RecoverySeconds float64  `json:"recovery_seconds"`
	Changed         int      `json:"changed"` // live files written since the snapshot
	Differences     []string `json:"differences,omitempty"`
}

// Summary is the last drill on one line; empty: there was none yet.
func Summary(file string) (string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("last drill: %w", err)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return "", fmt.Errorf("last drill: %s: %w", file, err)
	}
	at := r.Time.UTC().Format("2006-01-02 15:04 MST")
	if !r.OK {
		return fmt.Sprintf("FAILED on %s: %.300s", at, strings.Join(strings.Fields(r.Error), " ")), nil
	}
	return fmt.Sprintf("%s, %d files restored and equal, %.1f MB/s, all data back in %.0f s", at, r.Files, r.MBps, r.RecoverySeconds), nil
}

// Run restores the latest snapshot of each live folder below it, in a folder that
// backups leave out, and writes the report to file in any case.
func Run(ctx context.Context, b *backup.Backup, file string, live ...string) (*Report, error) {
	r := &Report{Version: ReportVersion}
	err := run(ctx, b, live, r)
	r.Time = time.Now().UTC()
	r.OK = err == nil
	if err != nil {
		r.Error = err.Error()
	}
	return r, errors.Join(err, backup.WriteJSON(file, r))
}

func run(ctx context.Context, b *backup.Backup, live []string, r *Report) error {
	var took time.Duration
	for _, dir := range live {
		t, err := restore(ctx, b, dir, r)
		if err != nil {
			return err
		}
		took += t
	}
	r.Seconds = took.Seconds()
	r.MBps = float64(r.Bytes) / 1e6 / took.Seconds()
	r.RecoverySeconds = recovery(took, r.Bytes, r.LiveBytes).Seconds()
	if len(r.Differences) > 0 {
		return fmt.Errorf("%d of %d files differ from what was backed up, the first: %s", len(r.Differences), r.Files, r.Differences[0])
	}
	if limit := Limit.Seconds(); r.RecoverySeconds > limit {
		return fmt.Errorf("at this speed all data are back after %.0f h, and must be after %.0f h", r.RecoverySeconds/3600, limit/3600)
	}
	return nil
}

// restore tries one folder, adds to the report what it showed, and returns how long
// the restore took.
func restore(ctx context.Context, b *backup.Backup, live string, r *Report) (took time.Duration, err error) {
	s, err := b.Latest(ctx, live)
	if err != nil {
		return 0, err
	}
	if s == nil {
		return 0, fmt.Errorf("the repository has no snapshot of %s of this machine\nhint: wardctl backup run makes one", live)
	}
	if r.Snapshot == "" || s.Time.Before(r.Taken) {
		r.Snapshot, r.Taken = s.ID, s.Time
	}
	out, err := b.Tree(ctx, s)
	if err != nil {
		return 0, err
	}
	tree, err := readTree(out, s.Others(live))
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, n := range tree {
		bytes += n.Size
	}
	r.Mounts = append(r.Mounts, live)
	r.Bytes += bytes
	r.Files += len(tree)
	if err := room(live, bytes); err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp(live, ".ward-drill-")
	if err != nil {
		return 0, fmt.Errorf("scratch place: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	start := time.Now()
	if err := b.Restore(ctx, s, scratch, s.Others(live)...); err != nil {
		return 0, err
	}
	took = time.Since(start)
	c, err := compare(scratch, live, tree, s.Time)
	if err != nil {
		return 0, err
	}
	r.Changed += c.changed
	r.LiveBytes += c.liveBytes
	r.Differences = append(r.Differences, c.differences...)
	return took, nil
}

// recovery is how long a restore of live bytes takes, at the speed of one that
// was done; never less than that one.
func recovery(took time.Duration, done, live int64) time.Duration {
	if live <= done || done == 0 {
		return took
	}
	return time.Duration(float64(took) * float64(live) / float64(done))
}

// room wants space for the restored files and a tenth more.
func room(at string, bytes int64) error {
	var space syscall.Statfs_t
	if err := syscall.Statfs(at, &space); err != nil {
		return fmt.Errorf("space on %s: %w", at, err)
	}
	free := int64(space.Bavail) * space.Bsize
	if want := bytes + bytes/10; free < want {
		return fmt.Errorf("%s has %d MB free, and the drill needs %d MB\nhint: give the machine a larger PHI volume", filepath.Clean(at), free/1e6, want/1e6)
	}
	return nil
}
