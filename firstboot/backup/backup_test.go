package backup

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/profiles/machine"
)

// What restic 0.14 (Debian 12) and ssh print, taken from real runs.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		exit int
		said string
		want Kind
	}{
		{1, "Fatal: unable to open config file: stat /srv/rr/config: no such file or directory\nIs there a repository at the following location?\n/srv/rr", Missing},
		{1, "Fatal: wrong password or no key found", WrongPassword},
		{1, `Fatal: unable to open config file: client.Head: Head "http://127.0.0.1:9/config": dial tcp 127.0.0.1:9: connect: connection refused` + "\nIs there a repository at the following location?", Unreachable},
		{1, "subprocess ssh: ssh: connect to host 127.0.0.1 port 22: Connection refused\nFatal: unable to open repository at sftp:x@127.0.0.1:/x: unable to start the sftp session, error: EOF", Unreachable},
		{1, "subprocess ssh: Host key verification failed.\nFatal: unable to open repository at sftp:x@h:/x: unable to start the sftp session, error: EOF", WrongHostKey},
		{1, "Fatal: unable to open repository at sftp:x@h:/x: unable to start the sftp session, error: EOF", Unreachable},
		{1, "error for tree c94c5364:\n  decrypting blob c94c failed: ciphertext verification failed\nFatal: repository contains errors", Corrupted},
		{1, "Fatal: unable to create lock in backend: repository is already locked exclusively by PID 1 on a by root", Locked},
		{1, "Fatal: all target directories/files do not exist", Failed},
		{1, "write /srv/x: no space left on device", Full},
		{3, "error: open /var/data/phi/a: permission denied\nWarning: at least one source file could not be read", Incomplete},
		{10, "Fatal: repository does not exist", Missing},
		{11, "", Locked},
		{12, "", WrongPassword},
		{99, "", Failed},
	} {
		if got := classify(c.exit, c.said); got != c.want {
			t.Errorf("classify(%d, %q) = %q, want %q", c.exit, c.said, got, c.want)
		}
	}
}

// job is a backup whose restic is a shell script.
func job(t *testing.T, script string) *Backup {
	t.Helper()
	dir := t.TempDir()
	restic := filepath.Join(dir, "restic")
	if err := os.WriteFile(restic, []byte("#!/bin/sh\necho \"$@\" >>"+dir+"/argv\nfor a; do case $a in -*|*=*) ;; *) break;; esac; done\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{
		Repository: &machine.Backup{Repository: "rest:https://backup.example.org/", Password: "hunter2"},
		Host:       "clinic", Tag: "hipaa-backup", CheckParts: 3, StateFile: filepath.Join(dir, "state.json"), Runtime: dir, Restic: restic,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

const goodRestic = `case "$1" in
cat) [ -f "$0.made" ] || { echo "Is there a repository at the following location?" >&2; exit 1; };;
init) : >"$0.made";;
backup) echo '{"message_type":"summary","total_files_processed":7,"total_bytes_processed":123,"total_duration":0.5,"snapshot_id":"ff176863"}';;
check) ;;
esac
`

func TestRun(t *testing.T) {
	b := job(t, goodRestic)
	for want := range 4 {
		state, err := b.Run(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if state.Snapshot != "ff176863" || state.Files != 7 || state.Bytes != 123 || state.Success.IsZero() || state.Kind != "" {
			t.Errorf("Run() = %+v", state)
		}
		if part := want%3 + 1; state.CheckPart != part {
			t.Errorf("run %d read part %d back, want %d", want, state.CheckPart, part)
		}
	}
	argv, _ := os.ReadFile(filepath.Join(filepath.Dir(b.c.Restic), "argv"))
	if n := strings.Count(string(argv), "init\n"); n != 1 {
		t.Errorf("the repository was made %d times, want once:\n%s", n, argv)
	}
	if strings.Contains(string(argv), "hunter2") || strings.Contains(string(argv), "backup.example.org") {
		t.Errorf("a secret or the place stands in an argument:\n%s", argv)
	}
	if info, err := os.Stat(b.c.StateFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v, want mode 0600", info, err)
	}
}

func TestRunFails(t *testing.T) {
	for _, c := range []struct {
		name, script string
		kind         Kind
		damaged      bool // what was read back is not what was written
	}{
		{"server away", `echo "dial tcp: connection refused" >&2; exit 1`, Unreachable, false},
		{"wrong password", `echo "Fatal: wrong password or no key found" >&2; exit 1`, WrongPassword, false},
		{"no summary", `exit 0`, Failed, false},
		{"nothing read back", `case $1 in check) echo "dial tcp: connection refused" >&2; exit 1;; backup) echo '{"message_type":"summary","snapshot_id":"a"}';; esac`, Unreachable, false},
		{"read back", `case $1 in check) echo "Fatal: repository contains errors" >&2; exit 1;; backup) echo '{"message_type":"summary","snapshot_id":"a"}';; esac`, Corrupted, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := job(t, c.script)
			state, err := b.Run(t.Context(), t.TempDir())
			if err == nil || state.Kind != c.kind || state.Error == "" {
				t.Fatalf("Run() = %+v, %v, want kind %q", state, err, c.kind)
			}
			if damaged := state.CheckError != ""; damaged != c.damaged || damaged != (state.CheckPart == 1) {
				t.Errorf("Run() says damaged: %q after part %d, want it said: %v", state.CheckError, state.CheckPart, c.damaged)
			}
			again, err := ReadState(b.c.StateFile)
			if err != nil || again.Kind != c.kind || again.Attempt.IsZero() {
				t.Errorf("ReadState() = %+v, %v, want the fault kept", again, err)
			}
		})
	}
}

// A repository that was there and is gone is not made anew.
func TestInitRefusesToStartAnew(t *testing.T) {
	b := job(t, goodRestic)
	if err := b.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.c.Restic + ".made"); err != nil {
		t.Fatal(err)
	}
	err := b.Init(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("Init() = %v, want an error that the repository is gone", err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open(Config{Runtime: t.TempDir()}, slog.New(slog.DiscardHandler)); !errors.Is(err, NotConfigured) {
		t.Errorf("Open() = %v, want NotConfigured", err)
	}
	dir := t.TempDir()
	b, err := Open(Config{Runtime: dir, Repository: &machine.Backup{Repository: "sftp:b@h:/srv", Password: "p", SSHKey: "k", KnownHosts: "h k"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if o := strings.Join(b.options(), " "); !strings.Contains(o, "StrictHostKeyChecking=yes") || !strings.Contains(o, "b@h -s sftp") {
		t.Errorf("options = %q, want a pinned host key and the host", o)
	}
	b.c.Repository.Repository = "sftp://b@h:2022//srv"
	if o := strings.Join(b.options(), " "); !strings.Contains(o, "-p 2022 b@h -s sftp") {
		t.Errorf("options = %q, want the port", o)
	}
	for _, name := range []string{"password", "id", "known_hosts"} {
		if info, err := os.Stat(filepath.Join(b.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", name, info, err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("Close() left %v", left)
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	b := job(t, `echo "repository is already locked" >&2; exit 1`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.retry(ctx, "check"); err == nil {
		t.Error("retry() = nil for a repository that stays locked")
	}
}

func TestSummary(t *testing.T) {
	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, s := range map[string]State{
		"no copy yet": {},
		"last copy 2026-01-02 03:04 UTC, 7 files, 1.5 MB":                         {Success: day, Files: 7, Bytes: 1.5e6},
		"FAILED locked: restic check: in two lines (no copy yet)":                 {Kind: Locked, Error: "restic check:\nin two lines"},
		"FAILED full: no space (last copy 2026-01-02 03:04 UTC, 7 files, 1.5 MB)": {Kind: Full, Error: "no space", Success: day, Files: 7, Bytes: 1.5e6},
	} {
		if got := s.Summary(); got != want {
			t.Errorf("Summary() = %q, want %q", got, want)
		}
	}
}

// restic prints where in itself an error came from; the reason is what counts.
func TestLast(t *testing.T) {
	const said = `Fatal: unable to save snapshot: server response unexpected: 500 Internal Server Error (500)
github.com/restic/restic/internal/backend/rest.(*Backend).Save
	/build/restic-0.14.0/src/internal/backend/rest/rest.go:138
runtime.goexit
	runtime/asm_amd64.s:1594
the end`
	const want = "Fatal: unable to save snapshot: server response unexpected: 500 Internal Server Error (500)\nthe end"
	if got := last(said, 5); got != want {
		t.Errorf("last() = %q, want %q", got, want)
	}
	if got := last("a\nb\nc\n", 2); got != "b\nc" {
		t.Errorf("last() = %q, want the last two lines", got)
	}
}
