package firstboot

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/xts"

	"ward/initramfs/handoff"
)

// offline is a reencryption's argv for a volume in a plain file, which no
// mapping holds.
func offline(argv []string) []string {
	argv = slices.Clone(argv)
	if i := slices.Index(argv, "--active-name"); i >= 0 {
		argv = slices.Delete(argv, i, i+2)
	}
	return append(argv, "--force-offline-reencrypt")
}

// powered runs a program of the bench that dies with the power.
func (b *bench) powered(ctx context.Context, stdin []byte, argv []string) (string, error) {
	if argv[0] != "cryptsetup" {
		return "", nil
	}
	if slices.Contains(argv, "reencrypt") {
		argv = offline(argv)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", err
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				if time.Now().After(b.until) {
					cmd.Process.Kill()
					return
				}
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	if time.Now().After(b.until) {
		b.dead = true
		return "", errors.New("power cut")
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", quote(argv), err, tail(errs.String(), 3))
	}
	return out.String(), nil
}

// cutWithin runs f and cuts the power after d: whatever runs is killed, and
// nothing runs any more.
func (b *bench) cutWithin(d time.Duration, f func() error) error {
	b.until, b.power, b.dead = time.Now().Add(d), true, false
	err := f()
	b.power, b.dead = false, false
	return err
}

// cutCount is how many instants are tried: WARD_POWER_CUTS, or few.
func cutCount(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("WARD_POWER_CUTS")); err == nil {
		return n
	}
	return 2
}

// TestRotatePowerCuts kills a rotation at random instants: one of the two keys
// opens the volume, it is the same volume, and the same command ends it.
func TestRotatePowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var length time.Duration
	cut := 0
	for n := range cutCount(t) + 1 {
		b, _ := formatted(t)
		pins, err := b.pins()
		if err != nil {
			t.Fatal(err)
		}
		fresh := bytes.Repeat([]byte{byte(n) + 1, 7}, 32)
		file := filepath.Join(b.dir, "new.key")
		if err := os.WriteFile(file, fresh, 0o400); err != nil {
			t.Fatal(err)
		}
		rotate := func() error { return b.Rotate(t.Context(), "phi-data", file, io.Discard) }
		if n == 0 { // how long it takes without a cut
			began := time.Now()
			if err := b.cutWithin(time.Hour, rotate); err != nil {
				t.Fatal(err)
			}
			length = time.Since(began)
			continue
		}
		if err := b.cutWithin(time.Duration(random.Float64()*float64(length)), rotate); err != nil {
			cut++
			if !strings.Contains(err.Error(), "power cut") {
				t.Errorf("cut %d: %v", n, err)
			}
		}
		old := b.fits(b.key)
		if !old && !b.fits(fresh) {
			t.Fatalf("cut %d: neither key opens the volume", n)
		}
		opener := b.key
		if !old {
			opener = fresh
		}
		if got := b.digest(opener); got != pins.Volumes[0] {
			t.Errorf("cut %d: the volume is %+v, want %+v", n, got, pins.Volumes[0])
		}
		err = rotate()
		if err != nil && !(strings.Contains(err.Error(), "opens volume phi-data already") && !old) {
			t.Errorf("cut %d, then: %v", n, err)
		}
		if b.fits(b.key) || !b.fits(fresh) {
			t.Errorf("cut %d: at the end the old key opens: %v, the new one: %v", n, b.fits(b.key), b.fits(fresh))
		}
	}
	if cut == 0 && cutCount(t) >= 10 { // a cut may come late; that none does among many is a fault of the test
		t.Error("no cut hit the rotation")
	}
	t.Logf("%d of %d cuts hit a rotation of %s", cut, cutCount(t), length.Round(time.Millisecond))
}

func (b *bench) digest(key []byte) handoff.Pin {
	b.t.Helper()
	saved := b.key
	b.key = key
	defer func() { b.key = saved }()
	k, _, err := b.Machine.key(b.t.Context(), nil, handoff.Volume{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer k.Wipe()
	pin, err := pinOf(b.part, "phi-data", k)
	if err != nil {
		b.t.Fatal(err)
	}
	return pin
}

// TestReencryptPowerCuts kills a reencryption at random instants: the key file
// always opens the volume, the next boot opens it too, and when it has ended
// every sector decrypts to what it did before, under another volume key.
func TestReencryptPowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(2, uint64(time.Now().UnixNano())))
	var length time.Duration
	cut, busy := 0, 0
	for n := range cutCount(t) + 1 {
		b, officer := formatted(t)
		if err := b.sealRecoveryKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		recovery := b.sealed(officer).Key()
		before, oldKey := b.plain()
		pins, err := b.pins()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.BeginReencryption(t.Context(), "phi-data"); err != nil {
			t.Fatal(err)
		}
		reencrypt := func() error { return b.Reencrypt(t.Context()) }
		if n == 0 {
			began := time.Now()
			if err := b.cutWithin(time.Hour, reencrypt); err != nil {
				t.Fatal(err)
			}
			length = time.Since(began)
		} else {
			if err := b.cutWithin(time.Duration(random.Float64()*float64(length)), reencrypt); err != nil {
				cut++
				if !strings.Contains(err.Error(), "power cut") {
					t.Errorf("cut %d: %v", n, err)
				}
			}
			// The next boot. Init refuses the header while it names two keys, and a volume
			// whose key is not that of the pin.
			h, err := b.header(t.Context(), b.part)
			if err != nil {
				t.Fatal(err)
			}
			record, err := b.reencryption("phi-data")
			if err != nil {
				t.Fatal(err)
			}
			b.report.State = handoff.StateOpened
			now, err := b.pins()
			if err != nil {
				t.Fatal(err)
			}
			if h.busy() || b.digest(b.key) != now.Volumes[0] {
				b.report.State, b.report.Reason = handoff.StateRefused, "config: requirements"
				b.reboot()
				busy++
				if record == nil {
					t.Errorf("cut %d: init refuses the volume, and nothing says why", n)
				}
			}
			if st, err := b.prepare(); err != nil || !st.Ready || !b.mapped("phi-data") {
				t.Fatalf("cut %d: the next boot: %+v, %v", n, st, err)
			}
			if !b.fits(b.key) {
				t.Fatalf("cut %d: the key file does not open the volume", n)
			}
			if err := reencrypt(); err != nil {
				t.Errorf("cut %d, then: %v", n, err)
			}
		}
		after, newKey := b.plain()
		if after != before {
			t.Errorf("cut %d: the data is not what it was", n)
		}
		if bytes.Equal(oldKey, newKey) {
			t.Errorf("cut %d: the volume key is what it was", n)
		}
		now, err := b.pins()
		if err != nil || len(now.Volumes) != 1 || now.Volumes[0] == pins.Volumes[0] || now.Volumes[0] != b.digest(b.key) {
			t.Errorf("cut %d: pins %+v, %v, want the new volume key", n, now, err)
		}
		if b.fits(recovery) || !b.fits(b.sealed(officer).Key()) {
			t.Errorf("cut %d: the old recovery key opens: %v; the new one: %v", n, b.fits(recovery), b.fits(b.sealed(officer).Key()))
		}
		if slots, err := b.slots(t.Context(), b.part); err != nil || len(slots) != 2 {
			t.Errorf("cut %d: slots %v, %v, want the key file's and the recovery key's", n, slots, err)
		}
		if r, err := b.reencryption("phi-data"); r != nil || err != nil {
			t.Errorf("cut %d: record %+v, %v, want none", n, r, err)
		}
	}
	if cut == 0 && cutCount(t) >= 10 { // a cut may come late; that none does among many is a fault of the test
		t.Error("no cut hit the reencryption")
	}
	t.Logf("%d of %d cuts hit a reencryption of %s, %d left a volume that init refuses", cut, cutCount(t), length.Round(time.Millisecond), busy)
}

// plain decrypts the whole volume, with the volume key that cryptsetup shows,
// and returns a digest of it: XTS with the number of the 512-byte sector, as
// dm-crypt's plain64.
func (b *bench) plain() (digest string, volumeKey []byte) {
	b.t.Helper()
	dir := b.t.TempDir()
	file, key := filepath.Join(dir, "volume-key"), filepath.Join(dir, "key")
	if err := os.WriteFile(key, b.key, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.tool("cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", file, "--key-file", key, b.part)
	volumeKey, err := os.ReadFile(file)
	if err != nil || len(volumeKey) != 64 {
		b.t.Fatalf("volume key of %d bytes, %v", len(volumeKey), err)
	}
	c, err := xts.NewCipher(aes.NewCipher, volumeKey)
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := os.Open(b.part)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	const offset, sector = 16 << 20, 4096 // what cryptsetup chooses for a file of this size
	h := sha256.New()
	buf := make([]byte, sector)
	n := 0
	for at := int64(offset); ; at += sector {
		if _, err := f.ReadAt(buf, at); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			b.t.Fatal(err)
		}
		c.Decrypt(buf, buf, uint64(at-offset)/512)
		h.Write(buf)
		n++
	}
	if n == 0 {
		b.t.Fatal("the volume has no data")
	}
	return hex.EncodeToString(h.Sum(nil)), volumeKey
}

// TestReencryptCutWhileCleaningUp makes the header that a power cut leaves while
// cryptsetup destroys the old key slots, after the last block. cryptsetup itself
// neither opens it nor goes on.
func TestReencryptCutWhileCleaningUp(t *testing.T) {
	for _, wiped := range []int{1, 2} { // how many of the two old slots are destroyed
		b, _ := formatted(t)
		if err := b.sealRecoveryKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		before, _ := b.plain()
		if err := b.BeginReencryption(t.Context(), "phi-data"); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(b.dir, "key")
		if err := os.WriteFile(file, b.key, 0o600); err != nil {
			t.Fatal(err)
		}
		b.tool("cryptsetup", "reencrypt", "--batch-mode", "--init-only", "--force-offline-reencrypt", "--key-file", file, "--key-slot", "0", "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", b.part)
		f, err := os.OpenFile(b.part, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		head := make([]byte, headerBytes)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		b.tool("cryptsetup", "reencrypt", "--batch-mode", "--resume-only", "--force-offline-reencrypt", "--key-file", file, b.part)
		// All data has the new key; the header is from before, but for the digests.
		if _, err := f.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
		from, err := latestLUKS2(f)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(bytes.TrimRight(from.text, "\x00"), &doc); err != nil {
			t.Fatal(err)
		}
		digests := doc["digests"].(map[string]any)
		digests["0"].(map[string]any)["segments"] = []string{"1"}
		digests["1"].(map[string]any)["segments"] = []string{"0", "2"}
		slots := map[string]json.RawMessage{}
		if raw, err := json.Marshal(doc["keyslots"]); err != nil || json.Unmarshal(raw, &slots) != nil {
			t.Fatal(err)
		}
		gone := map[string]json.RawMessage{"0": slots["0"]}
		if wiped == 2 {
			gone["1"] = slots["1"]
		}
		if err := wipeSlots(f, gone, ""); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeLUKS2(f, from, text); err != nil {
			t.Fatal(err)
		}
		// The premise: cryptsetup reads this header, and is at its end with it.
		if out, err := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", file, b.part).CombinedOutput(); err == nil {
			t.Log("this cryptsetup opens the volume by itself")
		} else if !strings.Contains(string(out), "No usable keyslot") && !strings.Contains(string(out), "No key available") {
			t.Fatalf("cryptsetup open: %v: %s", err, out)
		}
		b.report.State, b.report.Reason = handoff.StateRefused, "config: requirements"
		b.reboot()
		if st, err := b.prepare(); err != nil || !st.Ready || !b.mapped("phi-data") {
			t.Fatalf("the next boot: %+v, %v", st, err)
		}
		if err := b.Reencrypt(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after, _ := b.plain(); after != before {
			t.Error("the data is not what it was")
		}
		if out, err := exec.Command("cryptsetup", "luksDump", b.part).CombinedOutput(); err != nil || strings.Contains(string(out), "Requirements:") {
			t.Errorf("luksDump: %v: %s", err, out)
		}
	}
}

// A reencryption that is not at its end is not ended by ward.
func TestFinishedRefuses(t *testing.T) {
	const segment = `{"type":"crypt","offset":"16777216","size":"dynamic","encryption":"aes-xts-plain64"}`
	for text, want := range map[string]string{
		`{"segments":{"0":{"type":"crypt","size":"4096"},"1":{"type":"crypt","size":"dynamic"}},"digests":{},"keyslots":{}}`:                                                           "not all data has the new key",
		`{"segments":{"0":` + segment + `,"2":{"size":"dynamic","flags":["backup-final"]}},"digests":{"0":{"segments":["0","1"],"keyslots":["0"]}},"keyslots":{"0":{"type":"luks2"}}}`: "no data has the new key yet",
		`{"segments":{"0":` + segment + `},"digests":{"0":{"segments":["0"],"keyslots":["0","1"]}},"keyslots":{"0":{"type":"luks2"}}}`:                                                 "want one",
		`{"segments":{"0":` + segment + `},"digests":{},"keyslots":{}}`:                                                                                                                "no digest belongs to the data",
	} {
		var o luksObjects
		var h luksMetadata
		if err := errors.Join(json.Unmarshal([]byte(text), &o), json.Unmarshal([]byte(text), &h)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.finished(&h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("finished(%s) = %v, want an error that says %s", text, err, want)
		}
	}
}
