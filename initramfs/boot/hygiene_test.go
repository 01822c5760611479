package boot

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/anatol/luks.go"

	"ward/initramfs/boot/keysource"
)

func TestWipeForms(t *testing.T) {
	secret := make([]byte, 64)
	rand.Read(secret)
	k, err := keysource.KeyOf(bytes.Clone(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	s, err := newSearcher([]*keysource.Key{k})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	other := bytes.Repeat([]byte("abcdefgh"), 8)
	var buf []byte
	buf = append(buf, other...)
	buf = append(buf, secret...)
	for _, x := range []byte{0x36, 0x5c} {
		for _, c := range secret {
			buf = append(buf, c^x)
		}
	}
	for i := 0; i < len(secret); i += 4 { // SHA-256's words
		buf = append(buf, secret[i+3], secret[i+2], secret[i+1], secret[i])
	}
	buf = append(buf, secret[8:16]...) // a part
	buf = append(buf, other...)
	all := words(buf)
	n := 0
	s.find(all, func(i int) {
		all[i] = 0
		n++
	})
	if n != 4*8+1 {
		t.Errorf("find found %d words, want %d", n, 4*8+1)
	}
	middle := buf[64 : len(buf)-64]
	if !bytes.Equal(middle, make([]byte, len(middle))) {
		t.Error("a form of the key is left")
	}
	if !bytes.Equal(buf[:64], other) || !bytes.Equal(buf[len(buf)-64:], other) {
		t.Error("something else was overwritten")
	}
}

// TestWipeProcess uses a key as the libraries do, and then looks for it.
func TestWipeProcess(t *testing.T) {
	m := &machine{start: time.Now(), log: slog.New(slog.DiscardHandler)}
	m.keep(randomKey(t))
	mac := hmac.New(sha256.New, m.secrets[0].Bytes())
	mac.Write([]byte("x"))
	left := bytes.Clone(m.secrets[0].Bytes())
	if err := m.wipeSecrets(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(left, make([]byte, len(left))) {
		t.Error("a copy of the key is left on the heap")
	}
	runtime.KeepAlive(mac)
	if len(m.secrets) != 0 {
		t.Error("the keys are still known")
	}
}

func randomKey(t *testing.T) *keysource.Key {
	t.Helper()
	k, err := keysource.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	if k, err = keysource.KeyOf(b); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestTakeVolumeKey guards against a luks.go that keeps its key elsewhere.
func TestTakeVolumeKey(t *testing.T) {
	if _, err := takeVolumeKey(&luks.Volume{}); err == nil || err.Error() != "the volume key is empty" {
		t.Errorf("takeVolumeKey of an empty volume = %v, want an error that says so", err)
	}
}
