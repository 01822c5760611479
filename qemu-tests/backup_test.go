package qemutests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/proof/lab"
	"ward/builder/vm"
	machinefile "ward/profiles/machine"
)

// patients fills the PHI volume: many small files, a large one, links, odd modes
// and owners, also in the folder that fscrypt encrypts.
const patients = `set -e; cd /var/data/phi; umask 077
mkdir -p patient-records/a/b scans; chgrp -R phi-access patient-records/a scans; chmod 2770 scans
for i in $(seq 300); do echo "patient $i $(head -c 30 /dev/urandom | base64)" >patient-records/a/$i; done
head -c 60000000 /dev/urandom >scans/large; chmod 0640 scans/large; chown phi-service:phi-access scans/large
echo x >'scans/a name with spaces and ü'; chmod 0400 'scans/a name with spaces and ü'; ln -s large scans/link; ln scans/large scans/hard; : >scans/empty
chown proof-admin: patient-records/a/7; chmod 0600 patient-records/a/7; touch -d 2001-02-03T04:05:06Z patient-records/a/8; sync`

// digest lists every path of PHI with its owner, mode, size and content.
const digest = `cd /var/data/phi && find . \( -path ./.ward -o -path ./.fscrypt -o -path ./lost+found \) -prune -o \( -type f -printf '%p %U:%G %m %s %T@ ' -exec sh -c 'sha256sum <"$1"' x {} \; -o -printf '%p %U:%G %m %l\n' \) | LC_ALL=C sort`

// TestBackup copies PHI to OpenSSH's sftp server, tries the restore, makes what
// can fail fail, loses the machine and brings its PHI back on a new one.
func TestBackup(t *testing.T) {
	t.Parallel()
	i, f := image(t), fixture(t)
	program(t, "restic")
	s := startSFTP(t)
	known := s.hostKey()
	s.kill()
	s.start()
	password := secret(t)
	f.Config.Backup = &machinefile.Backup{
		Repository: fmt.Sprintf("sftp://%s@%s:%d/%s", s.user, vm.HostAddr, s.port, s.repository),
		Password:   password, KnownHosts: known, SSHKey: s.login,
	}
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
	c := f.VM(i)
	c.State = filepath.Join(t.TempDir(), "machine")
	m := start(t, c)
	allPass(t, verdict(t, m, ""))
	root := rootShell(t, m, f)
	side := trust(t, s.repository, password)

	t.Run("MadeOnce", func(t *testing.T) {
		before := side.restic(t, "cat", "config", "--no-lock")
		run(t, m, root, "wardctl backup init && wardctl backup init")
		if after := side.restic(t, "cat", "config", "--no-lock"); after != before {
			t.Errorf("the repository's config was %s and is %s", before, after)
		}
		if all := side.snapshots(t); len(all) != 0 {
			t.Errorf("a new repository has %d snapshots", len(all))
		}
		if out := run(t, m, root, "find /etc /var /run -xdev -type f -perm /o=r -print0 | xargs -0 -r grep -lF "+password+"; true"); strings.TrimSpace(out) != "" {
			t.Errorf("everybody can read the password in %s", out)
		}
	})
	t.Run("Timer", func(t *testing.T) {
		out := run(t, m, root, "systemctl show ward-backup.timer ward-drill.timer -p TimersCalendar -p RandomizedDelayUSec -p Persistent -p ActiveState")
		for _, want := range []string{"OnCalendar=*-*-* 01:00:00", "OnCalendar=*-*-02 03:00:00", "RandomizedDelayUSec=15min", "Persistent=yes", "ActiveState=active"} {
			if !strings.Contains(out, want) {
				t.Errorf("the timers lack %q:\n%s", want, out)
			}
		}
	})
	var before string
	t.Run("Copy", func(t *testing.T) {
		run2(t, m, root, patients)
		before = run(t, m, root, digest)
		if n := strings.Count(before, "\n"); n < 300 {
			t.Fatalf("PHI has %d files only:\n%s", n, before)
		}
		copied(t, m, root)
		all := side.snapshots(t)
		if len(all) != 1 || len(all[0].Tags) != 1 || all[0].Tags[0] != "hipaa-backup" || len(all[0].Paths) != 1 || all[0].Paths[0] != "/var/data/phi" {
			t.Errorf("the trusted side has %+v, want one snapshot of PHI with its tag", all)
		}
		side.restic(t, "check", "--read-data", "--no-lock")
		green(t, m, root, "backup")
	})
	t.Run("Drill", func(t *testing.T) { drilled(t, m, root) })
	for _, c := range []struct {
		name, kind string
		do, undo   func(t *testing.T)
	}{
		{"ServerDown", "unreachable", func(*testing.T) { s.kill() }, func(*testing.T) { s.start() }},
		{"WrongHostKey", "wrong-host-key", func(*testing.T) {
			s.kill()
			if err := os.Rename(filepath.Join(s.dir, "host"), filepath.Join(s.dir, "host.kept")); err != nil {
				t.Fatal(err)
			}
			s.hostKey()
			s.start()
		}, func(*testing.T) {
			s.kill()
			if err := os.Rename(filepath.Join(s.dir, "host.kept"), filepath.Join(s.dir, "host")); err != nil {
				t.Fatal(err)
			}
			s.start()
		}},
		{"WrongPassword", "wrong-password", func(t *testing.T) { side.change(t, secret(t)) }, func(t *testing.T) { side.change(t, password) }},
		{"Locked", "locked", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			if c.name == "Locked" {
				c.do, c.undo = side.lock(t)
			}
			fails(t, m, f, root, c.kind, c.do, c.undo)
		})
	}
	s.t = t
	if all := side.snapshots(t); len(all) < 2 {
		t.Errorf("the trusted side has %d snapshots after the faults, want those before and after", len(all))
	}
	if after := run(t, m, root, digest); after != before {
		t.Errorf("PHI has changed by the faults:\n%s", difference(before, after))
	}

	t.Run("Disaster", func(t *testing.T) {
		copied(t, m, root)
		m.Kill()
		m.Close()
		if err := os.RemoveAll(c.State); err != nil {
			t.Fatal(err)
		}
		c := f.VM(i)
		c.State = filepath.Join(t.TempDir(), "machine")
		m := start(t, c)
		allPass(t, verdict(t, m, ""))
		root := rootShell(t, m, f)
		began := time.Now()
		out := run2(t, m, root, "wardctl restore 2>&1")
		t.Logf("FIGURES disaster: wardctl restore took %s: %s", time.Since(began).Round(time.Second), strings.TrimSpace(out))
		if after := run(t, m, root, digest); after != before {
			t.Errorf("PHI is not what it was:\n%s", difference(before, after))
		}
		green(t, m, root, "fscrypt")
		green(t, m, root, "phi")
		copied(t, m, root)
		green(t, m, root, "backup")
		if out, code, err := root.Run(within(t, m, time.Minute), "wardctl restore 2>&1"); err != nil || code == 0 || !strings.Contains(out, "has files already") {
			t.Errorf("a second restore: exit code %d, %v: %s, want that it refuses to replace files", code, err, out)
		}
		powerDown(t, m)
	})
}

// copied runs the nightly unit now; it must succeed.
func copied(t *testing.T, m *vm.VM, root *vm.RootShell) {
	t.Helper()
	run2(t, m, root, "systemctl start ward-backup.service || { journalctl -u ward-backup.service -n 20 --no-pager; exit 1; }")
}

// drilled runs the monthly unit now and reports its figures.
func drilled(t *testing.T, m *vm.VM, root *vm.RootShell) {
	t.Helper()
	run2(t, m, root, "systemctl start ward-drill.service || { journalctl -u ward-drill.service -n 20 --no-pager; exit 1; }")
	var r struct {
		OK              bool
		Files           int
		Bytes           int64
		Seconds         float64
		MBps            float64 `json:"mb_per_s"`
		RecoverySeconds float64 `json:"recovery_seconds"`
		Differences     []string
	}
	if err := json.Unmarshal([]byte(run(t, m, root, "cat /var/lib/ward/drill.json")), &r); err != nil {
		t.Fatal(err)
	}
	t.Logf("FIGURES drill: %d files, %.1f MB, restored and compared in %.1f s (%.2f MB/s), all data back in %.0f s", r.Files, float64(r.Bytes)/1e6, r.Seconds, r.MBps, r.RecoverySeconds)
	if !r.OK || r.Files < 300 || r.Bytes < 60e6 || r.MBps <= 0 || r.RecoverySeconds < r.Seconds || len(r.Differences) > 0 {
		t.Errorf("the drill's report is %+v", r)
	}
	if left := run(t, m, root, "ls -a /var/data/phi | grep ward-drill; true"); strings.TrimSpace(left) != "" {
		t.Errorf("the drill left %s", left)
	}
	if out := run(t, m, root, "wardctl status; true"); !strings.Contains(out, "restore drill: 2") {
		t.Errorf("wardctl status does not tell of the drill:\n%s", out)
	}
}

// logs is a server that a line must arrive at.
type logs interface {
	line(t *testing.T, m *vm.VM, text string) string
}

func (s *rsyslogd) line(t *testing.T, m *vm.VM, text string) string {
	s.t = t
	return s.expect(m, text)
}

// fails is failsAt with the lab's own log server.
func fails(t *testing.T, m *vm.VM, f *proof.Fixture, root *vm.RootShell, kind string, do, undo func(*testing.T)) {
	t.Helper()
	failsAt(t, m, root, labLogs{f.Lab.Logs}, kind, do, undo)
}

type labLogs struct{ *lab.LogServer }

func (l labLogs) line(t *testing.T, m *vm.VM, text string) string {
	t.Helper()
	line, err := l.Expect(within(t, m, 30*time.Second), text)
	if err != nil {
		t.Error(err)
	}
	return line
}

// failsAt makes the nightly run fail in one way: status names the kind, verify is
// red, the log server has a line; when undone, the next run succeeds.
func failsAt(t *testing.T, m *vm.VM, root *vm.RootShell, at logs, kind string, do, undo func(*testing.T)) {
	t.Helper()
	do(t)
	_, code, err := root.Run(within(t, m, 2*time.Minute), "systemctl start ward-backup.service")
	if err != nil {
		t.Fatal(err)
	}
	if code == 0 {
		t.Error("the nightly run succeeded")
	}
	status := ""
	for line := range strings.Lines(run(t, m, root, "wardctl status; true")) {
		if strings.HasPrefix(line, "backup: ") {
			status = strings.TrimSpace(line)
		}
	}
	if !strings.HasPrefix(status, "backup: FAILED "+kind+": ") {
		t.Errorf("wardctl status says %q, want the kind %s", status, kind)
	}
	t.Log(status)
	red(t, m, root, "backup", "repository", kind)
	t.Logf("at the log server: %.300s", at.line(t, m, ": "+kind+" (exit status"))
	undo(t)
	copied(t, m, root)
	green(t, m, root, "backup")
}

// difference is the lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	n := 0
	add := func(sign, x, other string) {
		lines := map[string]bool{}
		for l := range strings.Lines(other) {
			lines[l] = true
		}
		for l := range strings.Lines(x) {
			if n < 30 && !lines[l] {
				n++
				b.WriteString(sign + l)
			}
		}
	}
	add("- ", before, after)
	add("+ ", after, before)
	return b.String()
}
