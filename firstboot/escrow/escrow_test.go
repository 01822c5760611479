package escrow

import (
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSealOpen(t *testing.T) {
	first, second, stranger := identity(t), identity(t), identity(t)
	r := New("phi-data", "u-1", "clinic-1", time.Unix(1e9, 0).UTC())
	sealed, err := Seal(r, []string{first.Recipient().String(), second.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sealed), r.Passphrase) {
		t.Error("the passphrase is readable")
	}
	for _, text := range []string{string(sealed), strings.ReplaceAll(string(sealed), "\n", "|")} {
		for _, id := range []age.Identity{first, second} {
			got, err := Open([]byte(text), id)
			if err != nil {
				t.Fatal(err)
			}
			if got.Passphrase != r.Passphrase || string(got.Key()) != string(r.Key()) || got.Volume != "phi-data" || got.LUKSUUID != "u-1" {
				t.Errorf("Open() = %+v, want %+v", *got, *r)
			}
		}
	}
	if _, err := Open(sealed, stranger); err == nil || !strings.Contains(err.Error(), "did not match any of the recipients") {
		t.Errorf("Open() by a stranger = %v, want that it does not match", err)
	}
	broken := []byte(strings.Replace(string(sealed), "A", "B", 1))
	if _, err := Open(broken, first); err == nil {
		t.Error("Open() of a changed text succeeds")
	}
}

func TestNewIsRandomAndLong(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		r := New("v", "u", "h", time.Now())
		if n := len(strings.ReplaceAll(r.Passphrase, "-", "")); n != 52 { // 256 bits, 5 a letter
			t.Fatalf("New() has %d letters, want 52", n)
		}
		if seen[r.Passphrase] {
			t.Fatal("New() gave the same key twice")
		}
		seen[r.Passphrase] = true
		if strings.Contains(r.String(), r.Passphrase) {
			t.Error("String() shows the key")
		}
	}
}

func TestRecipientFaultsAllAtOnce(t *testing.T) {
	_, err := Recipients([]string{"age1nonsense", identity(t).Recipient().String(), "hello"})
	if err == nil || !strings.Contains(err.Error(), "recipients[0]") || !strings.Contains(err.Error(), "recipients[2]") || strings.Contains(err.Error(), "recipients[1]") {
		t.Errorf("Recipients() = %v, want faults at 0 and 2", err)
	}
	if _, err := Seal(New("v", "u", "h", time.Now()), nil); err == nil || !strings.Contains(err.Error(), "no recipients") {
		t.Errorf("Seal() to nobody = %v, want no recipients", err)
	}
}
