package qemutests

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"ward/builder/key"
	"ward/builder/proof"
	"ward/builder/vm"
	"ward/firstboot"
	"ward/firstboot/escrow"
	"ward/initramfs/handoff"
	"ward/profiles/control"
)

const phiFile = "/var/data/phi/patient-4711"

// TestRotateReencryptErase is the life of a volume's keys on one machine: a
// recovery key, a new key file, a new volume key, and the end. What opens the
// volume is asked of cryptsetup on the host, which has the disk in its hands.
func TestRotateReencryptErase(t *testing.T) {
	t.Parallel()
	m, f, _ := reboot(t, nil)
	root := rootShell(t, m, f)
	officer := appoint(t, m, root)
	content := strings.Repeat("PHI of patient 4711\n", 2000)
	putFile(t, m, root, phiFile, []byte(content))
	oldKey := keyBytes(t, f.Key)

	newImage, newFile := filepath.Join(t.TempDir(), "new.img"), "/run/new.key"
	book := openBook(t, "rotate-key.md", "NEWKEY="+newImage, "NEWFILE="+newFile)
	if out := book.next(m, root); !strings.Contains(out, "key file found: device") || !strings.Contains(out, "recovery key: none") {
		t.Errorf("key status printed %q, want a key device and no recovery key", out)
	}
	book.next(m, root) // add-recovery
	first := sealed(t, m, root, officer)
	if out := run(t, m, root, "wardctl key status"); strings.Count(out, "recovery key  argon2id") != 1 {
		t.Errorf("key status printed %q, want one recovery key", out)
	}
	run(t, m, root, "wardctl key add-recovery")
	second := sealed(t, m, root, officer)
	book.next(m, root) // ward key new
	newKey := keyBytes(t, newImage)
	putFile(t, m, root, newFile, newKey)
	book.next(m, root)
	powerDown(t, m)
	phi := phiVolume(t, m.Disk())
	for _, k := range []struct {
		name  string
		bytes []byte
		want  bool
	}{
		{"the old key file", oldKey, false}, {"the new key file", newKey, true},
		{"the first recovery key", first.Key(), false}, {"the second recovery key", second.Key(), true},
	} {
		if got := opens(t, phi, k.bytes); got != k.want {
			t.Errorf("after the rotation: %s opens the volume: %v, want %v", k.name, got, k.want)
		}
	}
	before := segments(t, phi)

	// The next boot, with the new key device.
	state := m.StateDir()
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := os.Rename(filepath.Join(state, "disk.qcow2"), disk); err != nil {
		t.Fatal(err)
	}
	m.Close()
	c := f.VM(image(t))
	c.Image, c.Key = disk, newImage
	m = start(t, c)
	if r := verdict(t, m, ""); r.Init == nil || len(r.Init.Volumes) != 1 || r.Init.Volumes[0].State != handoff.StateOpened {
		t.Fatalf("with the new key device init reports %+v, want the volume opened", r.Init)
	}
	root = rootShell(t, m, f)
	same(t, m, root, phiFile, content)

	// A new volume key, while the volume is written to.
	book = openBook(t, "reencrypt.md")
	run(t, m, root, "systemd-run --quiet --unit=writer sh -c 'while :; do date +%s.%N >> /var/data/phi/written; sync; sleep 0.2; done'")
	out := book.next(m, root)
	if !strings.Contains(out, "volume phi-data has a new volume key") {
		t.Errorf("reencrypt printed %q", out)
	}
	run(t, m, root, "systemctl stop writer; test $(wc -l < /var/data/phi/written) -gt 5")
	same(t, m, root, phiFile, content)
	book.rest(m, root)
	third := sealed(t, m, root, officer)
	if err := proof.Reboot(t.Context(), m, f); err != nil {
		t.Fatal(err)
	}
	r := verdict(t, m, "")
	if r.Init == nil || len(r.Init.Volumes) != 1 || r.Init.Volumes[0].State != handoff.StateOpened {
		t.Errorf("after the reencryption init reports %+v, want the volume opened", r.Init)
	}
	for _, found := range findings(r, "phi") {
		if found.Status != control.Pass {
			t.Errorf("after the reencryption: %s", proof.Line(found))
		}
	}
	root = rootShell(t, m, f)
	same(t, m, root, phiFile, content)
	run(t, m, root, "sync")
	phi = phiVolume(t, m.Disk())
	for _, k := range []struct {
		name  string
		bytes []byte
		want  bool
	}{{"the key file", newKey, true}, {"the recovery key of before", second.Key(), false}, {"the new recovery key", third.Key(), true}} {
		if got := opens(t, phi, k.bytes); got != k.want {
			t.Errorf("after the reencryption: %s opens the volume: %v, want %v", k.name, got, k.want)
		}
	}
	if after := segments(t, phi); after == before {
		t.Errorf("the digest of the volume key is still %s", before)
	}

	erase(t, m, f, root, newKey, third.Key())
}

// erase ends the volume, and tries both keys on what is left of it.
func erase(t *testing.T, m *vm.VM, f *proof.Fixture, root *vm.RootShell, keys ...[]byte) {
	t.Helper()
	for _, c := range []struct{ argv, says string }{
		{"--volume phi-data --confirm ward-dis", "--confirm is not the serial number of the disk"},
		{"--volume phi-date --confirm ward-disk", `volume "phi-date": there is none`},
	} {
		out, code, err := root.Run(within(t, m, time.Minute), "wardctl erase "+c.argv)
		if err != nil || code != 1 || !strings.Contains(out, c.says) {
			t.Errorf("erase %s: exit code %d, %v, %q, want that %s", c.argv, code, err, out, c.says)
		}
	}
	run(t, m, root, "test -s "+phiFile)
	book := openBook(t, "dispose.md", "SERIAL=ward-disk")
	if out := book.next(m, root); !strings.Contains(out, "ward-disk") {
		t.Errorf("lsblk printed %q", out)
	}
	out := book.next(m, root)
	var c firstboot.Certificate
	from, to := strings.Index(out, "{"), strings.LastIndex(out, "}")
	if from < 0 || to < from {
		t.Fatalf("erase printed no certificate: %q", out)
	}
	if err := json.Unmarshal([]byte(out[from:to+1]), &c); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if c.Serial != "ward-disk" || c.By != f.Admin.Name || len(c.Slots) < 2 || c.Ended.Before(c.Started) {
		t.Errorf("certificate = %+v", c)
	}
	for _, want := range []string{"before: the key file opens", "before: a recovery key", "with the slots destroyed: the key file is refused", "with the slots destroyed: the recovery key is refused",
		"with the header destroyed: the key file is refused", "with the header destroyed: the recovery key is refused", "blocks of header and key slots", "discarded"} {
		if !strings.Contains(strings.Join(c.Proof, "\n"), want) {
			t.Errorf("the certificate does not say %q: %q", want, c.Proof)
		}
	}
	book.rest(m, root)
	file := "/var/lib/ward/erased-" + c.LUKSUUID + ".json"
	signed(t, m, root, "ward-erase", file)
	for _, want := range []string{"erasing a volume", "a volume is erased", `document="certificate of destruction"`} {
		line, err := f.Lab.Logs.Expect(within(t, m, time.Minute), want)
		if err != nil {
			t.Error(err)
		} else if strings.Contains(want, "volume") && !strings.Contains(line, "by="+f.Admin.Name) {
			t.Errorf("the log server has %q, want who did it", line)
		}
	}
	if text := document(t, f, "certificate of destruction", filepath.Base(file)); string(text) != getFile(t, m, root, file) {
		t.Errorf("the log server has another certificate: %q", text)
	}
	if out, code, err := root.Run(within(t, m, time.Minute), "cat "+phiFile); err != nil || code == 0 {
		t.Errorf("%s is still there: %v, %.60q", phiFile, err, out)
	}
	powerDown(t, m)
	phi := phiVolume(t, m.Disk())
	head, err := os.ReadFile(phi)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(head, []byte("LUKS\xba\xbe")) || bytes.Contains(head, []byte("SKUL\xba\xbe")) {
		t.Error("a LUKS header is left")
	}
	for i, k := range keys {
		out, err := test(t, phi, k)
		if err == nil || !strings.Contains(out, "not a valid LUKS device") {
			t.Errorf("key %d on the erased volume: %v, %q, want that there is none", i, err, out)
		}
	}
}

// appoint makes the machine's profile name an officer, as a baked one would.
func appoint(t *testing.T, m *vm.VM, root *vm.RootShell) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	run(t, m, root, fmt.Sprintf(`set -e
f=/usr/lib/ward/profile.json
tr -d '\n' < $f | sed 's/"recipients": *\(null\|\[ *\]\)/"recipients": ["%s"]/' > $f.new
grep -q '%s' $f.new
mv $f.new $f`, id.Recipient(), id.Recipient()))
	return id
}

// sealed opens the machine's sealed recovery key as the officer does.
func sealed(t *testing.T, m *vm.VM, root *vm.RootShell, id age.Identity) *escrow.Recovery {
	t.Helper()
	r, err := escrow.Open([]byte(getFile(t, m, root, "/var/lib/ward/escrow/phi-data.age")), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// putFile writes a file on the machine, 0600.
func putFile(t *testing.T, m *vm.VM, root *vm.RootShell, name string, content []byte) {
	t.Helper()
	run(t, m, root, fmt.Sprintf("umask 077; base64 -d > %s <<'EOF-put' && sync\n%s\nEOF-put", name, lines(base64.StdEncoding.EncodeToString(content))))
}

// lines folds a text, so that no line is longer than a terminal's.
func lines(s string) string {
	var b strings.Builder
	for len(s) > 76 {
		b.WriteString(s[:76] + "\n")
		s = s[76:]
	}
	return b.String() + s
}

// getFile reads a file on the machine.
func getFile(t *testing.T, m *vm.VM, root *vm.RootShell, name string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.TrimSpace(run(t, m, root, "base64 "+name)), "\n", ""))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(b)
}

func same(t *testing.T, m *vm.VM, root *vm.RootShell, name, content string) {
	t.Helper()
	if got := getFile(t, m, root, name); got != content {
		t.Errorf("%s has %d bytes that are not those written", name, len(got))
	}
}

// keyBytes takes the key out of a key device's image.
func keyBytes(t *testing.T, image string) []byte {
	t.Helper()
	if err := key.Check(t.Context(), slog.New(slog.DiscardHandler), image, []string{"phi-data"}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-R", "cat phi-data.key", image).Output()
	if err != nil || len(out) != key.Size {
		t.Fatalf("debugfs %s: %d bytes, %v", image, len(out), err)
	}
	return out
}

// phiVolume copies the header of a disk's PHI partition to a file of the
// partition's size.
func phiVolume(t *testing.T, disk string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if out, err := exec.Command("qemu-img", "convert", "-U", "-O", "raw", disk, raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert %s: %v: %s", disk, err, out)
	}
	defer os.Remove(raw)
	file, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table, err := gpt.Read(file, 512, 512)
	if err != nil {
		t.Fatalf("%s: %v", disk, err)
	}
	for _, p := range table.Partitions {
		if !strings.EqualFold(string(p.Type), handoff.PHIType) {
			continue
		}
		to, err := os.Create(filepath.Join(t.TempDir(), "phi.raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if _, err := io.Copy(to, io.NewSectionReader(file, int64(p.Start)*512, 32<<20)); err != nil {
			t.Fatal(err)
		}
		if err := to.Truncate(int64(p.End+1-p.Start) * 512); err != nil {
			t.Fatal(err)
		}
		return to.Name()
	}
	t.Fatalf("%s has no PHI partition", disk)
	return ""
}

// test lets cryptsetup try a key on a volume.
func test(t *testing.T, volume string, k []byte) (string, error) {
	t.Helper()
	cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", "-", volume)
	cmd.Stdin = bytes.NewReader(k)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// opens tells whether a key opens a volume; any other answer than yes and no
// fails the test.
func opens(t *testing.T, volume string, k []byte) bool {
	t.Helper()
	out, err := test(t, volume, k)
	if err != nil && !strings.Contains(out, "No key available with this passphrase") {
		t.Fatalf("cryptsetup: %v: %s", err, out)
	}
	return err == nil
}

// segments is the digest of a volume key, as cryptsetup shows it.
func segments(t *testing.T, volume string) string {
	t.Helper()
	out, err := exec.Command("cryptsetup", "luksDump", "--dump-json-metadata", volume).Output()
	if err != nil {
		t.Fatalf("luksDump: %v", err)
	}
	var h struct {
		Digests map[string]struct{ Digest string }
	}
	if err := json.Unmarshal(out, &h); err != nil || len(h.Digests) != 1 {
		t.Fatalf("luksDump: %v: %s", err, out)
	}
	for _, d := range h.Digests {
		return d.Digest
	}
	return ""
}
