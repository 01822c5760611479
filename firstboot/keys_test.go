package firstboot

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"ward/firstboot/escrow"
)

// formatted is a bench whose volume is made and mapped, with an officer.
func formatted(t *testing.T) (*bench, *age.X25519Identity) {
	t.Helper()
	b := newBench(t)
	if st, err := b.prepare(); err != nil || !st.Ready {
		t.Fatal(st, err)
	}
	pins, err := b.pins()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../vdx3", filepath.Join(b.dir, "dev/disk/by-uuid", pins.Volumes[0].LUKSUUID)); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b.facts.Profile.Controls.PHI.Recipients = []string{id.Recipient().String()}
	return b, id
}

// fits tells whether a key opens the volume, asked of cryptsetup itself.
func (b *bench) fits(key []byte) bool {
	b.t.Helper()
	ok, err := b.opens(b.t.Context(), b.part, "", key)
	if err != nil {
		b.t.Fatal(err)
	}
	return ok
}

func (b *bench) sealed(id age.Identity) *escrow.Recovery {
	b.t.Helper()
	text, err := b.root.ReadFile(EscrowDir + "/phi-data.age")
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := escrow.Open(text, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func TestRecoveryKey(t *testing.T) {
	b, id := formatted(t)
	if err := b.sealRecoveryKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := b.sealed(id)
	if !b.fits(r.Key()) || !b.fits(b.key) {
		t.Fatal("the recovery key and the key file must both open the volume")
	}
	s, err := b.KeyStatus(t.Context(), "phi-data")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Slots) != 2 || s.Slots[0].Use != "key file" || s.Slots[0].KDF != "pbkdf2" || s.Slots[1].Use != "recovery key" || s.Slots[1].KDF != "argon2id" || s.Source != "device" {
		t.Errorf("KeyStatus() = %+v, want a key file slot and an argon2id recovery slot", s)
	}
	// Nothing readable of it is left on the machine.
	err = filepath.WalkDir(filepath.Join(b.dir, "var"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		if bytes.Contains(text, r.Key()) {
			t.Errorf("%s holds the recovery key", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.calls = nil
	if err := b.sealRecoveryKeys(t.Context()); err != nil || len(b.calls) > 0 {
		t.Errorf("the second time: %v, ran %q, want nothing", err, b.calls)
	}
	// A new one replaces it.
	if err := b.AddRecovery(t.Context(), "phi-data"); err != nil {
		t.Fatal(err)
	}
	if b.fits(r.Key()) {
		t.Error("the replaced recovery key still opens the volume")
	}
	if !b.fits(b.sealed(id).Key()) {
		t.Error("the new recovery key does not open the volume")
	}
	if slots, _ := b.slots(t.Context(), b.part); len(slots) != 2 {
		t.Errorf("slots = %v, want two", slots)
	}
}

func TestRecoveryKeyInterrupted(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		b, id := formatted(t)
		if when == "before" {
			b.fail = "luksAddKey"
		} else {
			b.after = "luksAddKey"
		}
		if err := b.sealRecoveryKeys(t.Context()); err == nil || !strings.Contains(err.Error(), "power cut") {
			t.Fatalf("%s: %v, want the power cut", when, err)
		}
		if err := b.sealRecoveryKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		slots, err := b.slots(t.Context(), b.part)
		if err != nil || len(slots) != 2 || !b.fits(b.sealed(id).Key()) {
			t.Errorf("%s: slots %v, %v, want the key file's and the sealed one's", when, slots, err)
		}
	}
}

// The power is cut before and after each change of the header: at every
// instant the old key or the new one opens the volume, and the command ends.
func TestRotateInterrupted(t *testing.T) {
	n := 0
	for _, at := range []string{"", "luksAddKey", "luksKillSlot"} {
		for _, when := range []string{"before", "after"} {
			b, _ := formatted(t)
			fresh := make([]byte, 64)
			rand.Read(fresh)
			file := filepath.Join(b.dir, "new.key")
			if err := os.WriteFile(file, fresh, 0o400); err != nil {
				t.Fatal(err)
			}
			if at != "" {
				if when == "before" {
					b.fail = at
				} else {
					b.after = at
				}
				if err := b.Rotate(t.Context(), "phi-data", file, io.Discard); err == nil || !strings.Contains(err.Error(), "power cut") {
					t.Fatalf("%s %s: %v, want the power cut", when, at, err)
				}
				if !b.fits(b.key) && !b.fits(fresh) {
					t.Fatalf("%s %s: neither key opens the volume", when, at)
				}
			}
			if err := b.Rotate(t.Context(), "phi-data", file, io.Discard); err != nil {
				t.Fatalf("%s %s: then: %v", when, at, err)
			}
			if b.fits(b.key) || !b.fits(fresh) {
				t.Errorf("%s %s: old key opens: %v, new key opens: %v", when, at, b.fits(b.key), b.fits(fresh))
			}
			n++
		}
	}
	if n == 0 {
		t.Error("looked at nothing")
	}
}

func TestRotateRefuses(t *testing.T) {
	b, _ := formatted(t)
	file := filepath.Join(b.dir, "same.key")
	if err := os.WriteFile(file, b.key, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := b.Rotate(t.Context(), "phi-data", file, io.Discard); err == nil || !strings.Contains(err.Error(), "opens volume phi-data already") {
		t.Errorf("Rotate() to the same key = %v, want it refused", err)
	}
	if err := os.WriteFile(file+".empty", nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := b.Rotate(t.Context(), "phi-data", file+".empty", io.Discard); err == nil || !strings.Contains(err.Error(), "key file of 0 bytes") {
		t.Errorf("Rotate() to an empty key = %v, want it refused for its length", err)
	}
	if _, err := b.KeyStatus(t.Context(), "phi-date"); err == nil || !strings.Contains(err.Error(), `volume "phi-date": there is none`) {
		t.Errorf("KeyStatus() = %v, want that there is none", err)
	}
	if !b.fits(b.key) {
		t.Error("the key no longer opens the volume")
	}
}
