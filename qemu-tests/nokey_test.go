package qemutests

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/initramfs/handoff"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// TestNoKey boots a new machine without its key device: it boots, PHI is absent,
// verify says so and nothing is formatted. Given its key, the same machine
// becomes whole; and it shares no secret with another one of the same image.
func TestNoKey(t *testing.T) {
	t.Parallel()
	i := image(t)
	f := fixture(t)
	state := filepath.Join(t.TempDir(), "machine")
	before := partition(t, i.Disk())

	c := f.VM(i)
	c.State, c.Key = state, ""
	m := start(t, c)
	r := verdict(t, m, "")
	if v := r.Verdict(); v == control.Pass {
		t.Error("the verdict is pass without PHI")
	}
	locked(t, r, handoff.StateBlank)
	if v := r.Init.Volumes[0]; v.KeySource != "" {
		t.Errorf("init names %q as the source of a key, and there was none", v.KeySource)
	}
	powerDown(t, m)
	if after := partition(t, m.Disk()); after != before {
		t.Errorf("the PHI partition had digest %s, now %s: something wrote to it", before, after)
	}
	m.Close()

	c.Key = f.Key
	m = start(t, c)
	allPass(t, verdict(t, m, r.BootID))
	own, err := collect(within(t, m, proof.BootTime), m, f)
	if err != nil {
		t.Fatal(err)
	}
	powerDown(t, m)
	if after := partition(t, m.Disk()); after == before {
		t.Error("with its key the machine has not made its volume")
	}
	m.Close()

	t.Run("Clones", func(t *testing.T) {
		machine(t)
		for _, x := range []struct{ what, one, two string }{
			{"machine-id", shared.facts.machineID, own.machineID},
			{"LUKS UUID", shared.facts.luksUUID, own.luksUUID},
			{"keyed digest of the volume key", shared.facts.keyDigest, own.keyDigest},
			{"random seed", shared.facts.seed, own.seed},
		} {
			if x.one == "" || x.two == "" || x.one == x.two {
				t.Errorf("%s: %q and %q, want two that differ", x.what, x.one, x.two)
			}
		}
		one, two := strings.Fields(shared.facts.hostKeys), strings.Fields(own.hostKeys)
		if len(one) == 0 || len(two) == 0 {
			t.Errorf("host keys: %q and %q", one, two)
		}
		for _, fingerprint := range one {
			if !strings.HasPrefix(fingerprint, "SHA256:") || strings.Contains(own.hostKeys, fingerprint) {
				t.Errorf("host key %s is on both machines, or none", fingerprint)
			}
		}
	})
}

// TestWrongKey boots a machine that has PHI with another machine's key: it
// boots, PHI stays locked, and the volume's header is not touched.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	machine(t)
	other := fixture(t)
	before := partition(t, shared.disk)
	m, _, r := reboot(t, func(c *vm.Config) { c.Key = other.Key })
	if v := r.Verdict(); v == control.Pass {
		t.Error("the verdict is pass with PHI locked")
	}
	locked(t, r, handoff.StateLocked)
	if v := r.Init.Volumes[0]; v.KeySource != "device" {
		t.Errorf("init names %q as the source of the wrong key, want the device", v.KeySource)
	}
	powerDown(t, m)
	if after := partition(t, m.Disk()); after != before {
		t.Errorf("the PHI partition had digest %s, now %s: something wrote to it", before, after)
	}
}

// locked expects that init left PHI in a state, and that verify says that PHI is
// not there.
func locked(t *testing.T, r *evidence.Report, want handoff.State) {
	t.Helper()
	if r.Init == nil || len(r.Init.Volumes) != 1 {
		t.Fatalf("init left no word of its volume: %+v", r.Init)
	}
	if v := r.Init.Volumes[0]; v.State != want || v.Reason == "" {
		t.Errorf("init reports %+v, want state %s with a reason", v, want)
	}
	red := 0
	for _, f := range findings(r, "phi") {
		if f.Status == control.Fail || f.Status == control.Unknown {
			red++
			t.Log("red: " + proof.Line(f))
		}
	}
	if red == 0 {
		t.Errorf("verify does not say that PHI is absent; apply: %s", r.Applied)
	}
}

// partition returns the digest of every byte of a disk's PHI partition.
func partition(t *testing.T, disk string) string {
	t.Helper()
	h := sha256.New()
	extract(t, disk, h)
	return hex.EncodeToString(h.Sum(nil))
}

// extract writes every byte of a disk's PHI partition to w.
func extract(t *testing.T, disk string, w io.Writer) {
	t.Helper()
	file := raw(t, disk)
	first, length := phiIn(t, file)
	if n, err := io.Copy(w, io.NewSectionReader(file, first, length)); err != nil || n == 0 {
		t.Fatalf("%s: read %d bytes of the PHI partition: %v", disk, n, err)
	}
}

// raw is the whole of a disk as a raw image that goes with the test.
func raw(t *testing.T, disk string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", disk, name).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert %s: %v: %s", disk, err, out)
	}
	defer os.Remove(name) // its bytes stay for as long as it is open
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// phiIn returns where the PHI partition begins in a raw disk, and its length.
func phiIn(t *testing.T, file *os.File) (first, length int64) {
	t.Helper()
	table, err := gpt.Read(file, 512, 512)
	if err != nil {
		t.Fatalf("%s: %v", file.Name(), err)
	}
	for _, p := range table.Partitions {
		if strings.EqualFold(string(p.Type), handoff.PHIType) {
			return int64(p.Start) * 512, int64(p.End-p.Start+1) * 512
		}
	}
	t.Fatalf("%s has no PHI partition", file.Name())
	return 0, 0
}
