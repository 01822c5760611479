package qemutests

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/proof/lab"
	"ward/firstboot/backup"
	"ward/firstboot/drill"
	machinefile "ward/profiles/machine"
)

// TestBackupJob runs what the nightly unit and the drill run, without a machine,
// against OpenSSH's sftp server and restic's REST server, and makes fail what can.
// The faults are restic's and ssh's own words, not ours.
func TestBackupJob(t *testing.T) {
	t.Run("SFTP", func(t *testing.T) {
		s := startSFTP(t)
		known := strings.Replace(s.hostKey(), "[10.0.2.2]", "[127.0.0.1]", 1)
		s.kill()
		s.start()
		j := newJob(t, s.repository, &machinefile.Backup{
			Repository: fmt.Sprintf("sftp://%s@127.0.0.1:%d/%s", s.user, s.port, s.repository), KnownHosts: known, SSHKey: s.login,
		})
		j.works(t)
		j.fails(t, backup.Unreachable, func() { s.kill() }, func() { s.start() })
		host := filepath.Join(s.dir, "host")
		right, err := os.ReadFile(host)
		if err != nil {
			t.Fatal(err)
		}
		j.fails(t, backup.WrongHostKey, func() { s.kill(); s.hostKey(); s.start() }, func() { s.kill(); s.write("host", right); s.start() })
		j.fails(t, backup.WrongPassword, func() { j.side.change(t, secret(t)) }, func() { j.side.change(t, j.password) })
		do, undo := j.side.lock(t)
		j.fails(t, backup.Locked, func() { do(t) }, func() { undo(t) })
		authorized := filepath.Join(s.dir, "authorized")
		login, err := os.ReadFile(authorized)
		if err != nil {
			t.Fatal(err)
		}
		j.fails(t, backup.Refused, func() { s.write("authorized", nil) }, func() { s.write("authorized", login) })
		j.whole(t)
	})
	t.Run("RESTAppendOnly", func(t *testing.T) {
		ca, err := lab.NewAuthority("a site's authority")
		if err != nil {
			t.Fatal(err)
		}
		pair, err := ca.Issue(lab.Leaf{Names: []string{"backup.ward.test"}, Addrs: []string{"127.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		s := &rest{pair: pair, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		folder := filepath.Join(t.TempDir(), "clinic")
		j := newJob(t, folder, &machinefile.Backup{Repository: "rest:https://" + s.addr + "/clinic", CA: string(ca.PEM)})
		s.side = j.side
		s.start(t, 0)
		t.Cleanup(func() { s.server.Close() })
		j.works(t)
		j.fails(t, backup.Unreachable, func() { s.server.Close() }, func() { s.start(t, 0) })
		more := filepath.Join(j.live, "more")
		j.fails(t, backup.Full, func() {
			s.start(t, size(t, folder)+1<<16)
			random(t, more, 4<<20)
		}, func() { s.start(t, 0) })
		j.fails(t, backup.Corrupted, func() { s.flip(t) }, func() { s.flip(t) })
		j.whole(t)
	})
}

// job is a backup job of the product's with real data and its trusted side.
type job struct {
	*backup.Backup
	side     trusted
	password string
	live     string
	state    string
	report   string
}

func newJob(t *testing.T, folder string, r *machinefile.Backup) *job {
	t.Helper()
	dir := t.TempDir()
	j := &job{password: secret(t), live: filepath.Join(dir, "live"), state: filepath.Join(dir, "backup.json"), report: filepath.Join(dir, "drill.json")}
	r.Password = j.password
	j.side = trust(t, folder, j.password)
	for i := range 200 {
		name := filepath.Join(j.live, fmt.Sprintf("patient-records/%d/%d", i%7, i))
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("patient "+secret(t)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	random(t, filepath.Join(j.live, "scan"), 10<<20)
	var err error
	j.Backup, err = backup.Open(backup.Config{
		Repository: r, Host: "clinic", Tag: "hipaa-backup", CheckParts: 1, StateFile: j.state, Runtime: dir,
		Cache: filepath.Join(dir, "cache"), Restic: program(t, "restic"), LockWait: 100 * time.Millisecond,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// random writes n bytes that do not compress.
func random(t *testing.T, name string, n int64) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	source, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := io.CopyN(file, source, n); err != nil {
		t.Fatal(err)
	}
}

// works makes the repository once, copies twice, and tries the restore.
func (j *job) works(t *testing.T) {
	t.Helper()
	if err := j.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := j.side.restic(t, "cat", "config", "--no-lock")
	for range 2 {
		if _, err := j.Run(t.Context(), j.live); err != nil {
			t.Fatal(err)
		}
	}
	if again := j.side.restic(t, "cat", "config", "--no-lock"); again != config {
		t.Errorf("the repository's config was %s and is %s", config, again)
	}
	all := j.side.snapshots(t)
	if len(all) != 2 || len(all[0].Tags) != 1 || all[0].Tags[0] != "hipaa-backup" || all[0].Host != "clinic" {
		t.Errorf("the trusted side has %+v, want two snapshots of clinic with their tag", all)
	}
	r, err := drill.Run(t.Context(), j.Backup, j.report, j.live)
	if err != nil || !r.OK || r.Files < 200 || r.Changed != 0 {
		t.Errorf("drill: %v, %+v, want every file equal", err, r)
	}
	t.Logf("FIGURES drill: %d files, %.1f MB, %.1f s, %.1f MB/s, all data back in %.0f s", r.Files, float64(r.Bytes)/1e6, r.Seconds, r.MBps, r.RecoverySeconds)
	if left, _ := filepath.Glob(filepath.Join(j.live, ".ward-*")); len(left) != 0 {
		t.Errorf("the drill left %v", left)
	}
}

// fails expects a kind of fault in the run's state and on the line of wardctl
// status, no snapshot less than before, and success when it is undone.
func (j *job) fails(t *testing.T, kind backup.Kind, do, undo func()) {
	t.Helper()
	before := len(j.side.snapshots(t))
	do()
	state, err := j.Run(t.Context(), j.live)
	if err == nil || state.Kind != kind {
		t.Errorf("Run() = %v, want the kind %s", err, kind)
	}
	if err != nil {
		again, e := backup.ReadState(j.state)
		if e != nil || !strings.HasPrefix(again.Summary(), "FAILED "+string(kind)+": ") || !strings.Contains(again.Summary(), "(last copy ") {
			t.Errorf("wardctl status says %q (%v), want the kind and the last copy", again.Summary(), e)
		}
		t.Log(again.Summary())
	}
	undo()
	if state, err = j.Run(t.Context(), j.live); err != nil {
		t.Errorf("after %s is mended: %v", kind, err)
	}
	if after := len(j.side.snapshots(t)); after <= before {
		t.Errorf("%s: %d snapshots before and %d after", kind, before, after)
	}
}

// whole reads every byte of the repository back and tries the restore once more.
func (j *job) whole(t *testing.T) {
	t.Helper()
	j.side.restic(t, "check", "--read-data", "--no-lock")
	if r, err := drill.Run(t.Context(), j.Backup, j.report, j.live); err != nil || !r.OK {
		t.Errorf("drill at the end: %v, %+v", err, r)
	}
}
