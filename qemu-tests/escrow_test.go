package qemutests

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"ward/builder/proof"
	"ward/builder/proof/lab"
	"ward/builder/vm"
	machinefile "ward/profiles/machine"
)

// variant bakes the image under test with a profile that has an officer, sends
// logs by RELP with a small queue, and reads each backup back as a whole.
func variant(t *testing.T, officer *age.X25519Identity) *proof.Image {
	t.Helper()
	return bakeWith(t, fmt.Sprintf(`name: variant
description: with an officer, and logs that are confirmed
extends: hipaa
controls:
  phi: {recipients: [%s]}
  remote-log: {transport: relp, journal_mib: 16}
  backup: {check_parts: 1}
`, officer.Recipient()))
}

// TestEscrow gives a machine an officer. Its volume gets a recovery key on the
// first boot, which the officer's computer opens the volume's image with. The
// same machine sends its logs by RELP and its backups to restic's REST server.
func TestEscrow(t *testing.T) {
	t.Parallel()
	image(t)
	officer, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v := variant(t, officer)
	f, err := proof.NewFixture(t.Context(), t.TempDir(), v, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s := startRsyslogd(t, f.Lab.CA, f.Config.Hostname, true)
	logged(t, f, s)
	rest := startRest(t, f)
	c := f.VM(v)
	c.State = filepath.Join(t.TempDir(), "machine")
	m := start(t, c)
	r := verdict(t, m, "")
	allPass(t, r)
	root := rootShell(t, m, f)

	sealed := filepath.Join(t.TempDir(), "phi-data.age")
	t.Run("FirstBoot", func(t *testing.T) { sealedOnFirstBoot(t, m, root, s, sealed) })
	t.Run("BackupRest", func(t *testing.T) { rest.test(t, m, root, s) })
	t.Run("LogRelp", func(t *testing.T) {
		l := &loss{m: m, f: f, s: s, canary: "canary-" + secret(t), boot: r.BootID}
		l.test(t, number(t, "WARD_RELP_MESSAGES", 10000))
		nearlyFull(t, l)
	})
	powerDown(t, m)
	m.Close()
	t.Run("Recover", func(t *testing.T) { recovered(t, m.Disk(), sealed, officer) })
}

// sealedOnFirstBoot looks at the key that the machine made: in a slot of its own
// with argon2id, sealed on its disk, and sealed at the log server.
func sealedOnFirstBoot(t *testing.T, m *vm.VM, root *vm.RootShell, s *rsyslogd, sealed string) {
	text := run(t, m, root, "cat /var/lib/ward/escrow/phi-data.age")
	if !strings.HasPrefix(text, "-----BEGIN AGE ENCRYPTED FILE-----") {
		t.Fatalf("phi-data.age is %.100q", text)
	}
	if err := os.WriteFile(sealed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, m, root, "stat -c %a:%U /var/lib/ward/escrow /var/lib/ward/escrow/phi-data.age"); out != "700:root\n600:root\n" {
		t.Errorf("modes are %q", out)
	}
	var record struct{ Slot string }
	if err := json.Unmarshal([]byte(run(t, m, root, "cat /var/lib/ward/escrow/phi-data.json")), &record); err != nil {
		t.Fatal(err)
	}
	var header struct {
		Keyslots map[string]struct {
			KDF struct{ Type string }
		}
	}
	if err := json.Unmarshal([]byte(run(t, m, root, "cryptsetup luksDump --dump-json-metadata "+phiPart)), &header); err != nil {
		t.Fatal(err)
	}
	if len(header.Keyslots) != 2 || header.Keyslots[record.Slot].KDF.Type != "argon2id" {
		t.Errorf("the volume has the slots %+v, want the key file's and the recovery key's by argon2id in slot %s", header.Keyslots, record.Slot)
	}
	line := s.expect(m, "recovery key sealed")
	if !strings.Contains(line, strings.ReplaceAll(strings.TrimSpace(text), "\n", "|")) {
		t.Errorf("the log server has not the sealed key that the machine has: %.300s", line)
	}
}

// recovered opens the volume's image with what the officer has: the sealed key
// and the identity. cryptsetup gives the second opinion.
func recovered(t *testing.T, disk, sealed string, officer *age.X25519Identity) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "phi.img")
	file, err := os.Create(volume)
	if err != nil {
		t.Fatal(err)
	}
	extract(t, disk, file)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ward := func(who *age.X25519Identity, to string) (string, error) {
		identity := filepath.Join(dir, to+".identity")
		if err := os.WriteFile(identity, []byte(who.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("../.bin/ward", "key", "recover", sealed, "--identity", identity, "-o", filepath.Join(dir, to)).CombinedOutput()
		return string(out), err
	}
	if out, err := ward(stranger, "stranger"); err == nil || !strings.Contains(out, "did not match any of the recipients") {
		t.Errorf("ward key recover by a stranger: %v: %s, want that the identity does not match", err, out)
	}
	out, err := ward(officer, "pass")
	if err != nil {
		t.Fatalf("ward key recover: %v: %s", err, out)
	}
	t.Log(strings.TrimSpace(out))
	open := func(key string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, program(t, "cryptsetup"), "open", "--test-passphrase", "--verbose", "--type", "luks2", "--key-file", key, volume).CombinedOutput()
		return string(out), err
	}
	out, err = open(filepath.Join(dir, "pass"))
	if err != nil {
		t.Errorf("cryptsetup does not open the volume with the recovered key: %v: %s", err, out)
	}
	t.Log(strings.TrimSpace(out))
	if out, err := open(sealed); err == nil || !strings.Contains(out, "No key available with this passphrase") {
		t.Errorf("cryptsetup with something else: %v: %s, want that it refuses", err, out)
	}
}

func startRest(t *testing.T, f *proof.Fixture) *rest {
	t.Helper()
	pair, err := f.Lab.CA.Issue(lab.Leaf{Names: []string{"backup.ward.test"}, Addrs: []string{vm.HostAddr}})
	if err != nil {
		t.Fatal(err)
	}
	password := secret(t)
	s := &rest{pair: pair, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	dir := t.TempDir()
	s.side = trust(t, filepath.Join(dir, "clinic"), password)
	s.start(t, 0)
	t.Cleanup(func() { s.server.Close() })
	f.Config.Backup = &machinefile.Backup{
		Repository: fmt.Sprintf("rest:https://%s:%d/clinic", vm.HostAddr, s.server.Port()), Password: password, CA: string(f.Lab.CA.PEM),
	}
	s.backup = f.Config.Backup
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
	return s
}

// test backs up to a server that only appends, on a disk that fills up and that
// returns other bytes than were written.
func (s *rest) test(t *testing.T, m *vm.VM, root *vm.RootShell, logs *rsyslogd) {
	run2(t, m, root, patients)
	before := run(t, m, root, digest)
	copied(t, m, root)
	first := s.side.snapshots(t)
	if len(first) != 1 {
		t.Fatalf("the trusted side has %+v, want one snapshot", first)
	}
	drilled(t, m, root)
	t.Run("AppendOnly", func(t *testing.T) {
		// Whoever has taken the machine over has its password too.
		out, code, err := root.Run(within(t, m, time.Minute), fmt.Sprintf(`umask 077; printf '%%s' '%s' >/run/evil.ca
RESTIC_PASSWORD=%s restic -r %s --no-cache --cacert /run/evil.ca forget %s 2>&1; code=$?; rm -f /run/evil.ca; exit $code`,
			s.backup.CA, s.backup.Password, s.backup.Repository, first[0].ID))
		t.Logf("restic forget from the machine: exit code %d, %v: %.300s", code, err, out)
		if !strings.Contains(out, "403") {
			t.Errorf("restic forget says %q, want that the server forbids it", out)
		}
		if left := s.side.snapshots(t); len(left) != 1 || left[0].ID != first[0].ID {
			t.Errorf("the trusted side has %+v, want the snapshot still", left)
		}
	})
	for _, c := range []struct {
		name, kind string
		do, undo   func(t *testing.T)
	}{
		{"DiskFull", "full", func(t *testing.T) {
			s.start(t, size(t, s.side.folder)+1<<20)
			run2(t, m, root, "head -c 20000000 /dev/urandom >/var/data/phi/scans/more")
		}, func(t *testing.T) { s.start(t, 0) }},
		{"CorruptedPack", "corrupted", func(t *testing.T) { s.flip(t) }, func(t *testing.T) { s.flip(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			logs.t = t
			failsAt(t, m, root, logs, c.kind, c.do, c.undo)
		})
	}
	logs.t = t
	s.side.restic(t, "check", "--read-data", "--no-lock")
	run(t, m, root, "rm /var/data/phi/scans/more")
	if after := run(t, m, root, digest); after != before {
		// Folders that had a file more for a while have another time, not another digest.
		t.Errorf("PHI has changed by the faults:\n%s", difference(before, after))
	}
}

// nearlyFull keeps the server away until the journal is nearly full: verify says
// so, and the machine goes on, as the profile chooses.
func nearlyFull(t *testing.T, l *loss) {
	root := rootShell(t, l.m, l.f)
	l.s.kill()
	for try := 0; ; try++ {
		run2(t, l.m, root, fmt.Sprintf("seq -f 'ward-flood-%%06.0f %s' 4000 | systemd-cat -t ward-flood && journalctl --sync", l.canary))
		out, code, err := root.Run(within(t, l.m, time.Minute), "wardctl log queue")
		if err != nil {
			t.Fatal(err)
		}
		if code == 1 {
			t.Log(strings.TrimSpace(out))
			break
		}
		if try == 20 {
			t.Fatalf("after %d messages wardctl log queue says %q", (try+1)*4000, out)
		}
	}
	red(t, l.m, root, "remote-log", "queue", "% full")
	run(t, l.m, root, "timeout 60 logger -t ward-test the machine goes on")
	l.s.start()
	run(t, l.m, root, "systemctl restart rsyslog.service")
	for try := 0; ; try++ {
		r := verify(t, l.m, root, "remote-log")
		if r.Verdict().String() == "pass" {
			return
		}
		if try == 40 {
			green(t, l.m, root, "remote-log")
			return
		}
	}
}
