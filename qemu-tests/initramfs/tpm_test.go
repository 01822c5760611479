package initramfs_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/initramfs/boot/keysource/tpmkey"
	"ward/initramfs/boot/keysource/tpmkey/tpmtest"
	"ward/initramfs/handoff"
)

// sealOnHost seals a key to PCR 11, which nothing has extended yet, in the TPM
// that the machine will have.
func sealOnHost(t *testing.T, state string, key []byte) tpmkey.Token {
	t.Helper()
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	tpm, off := tpmtest.Start(t, state)
	defer off() // the machine has it next
	values, err := tpmkey.Registers(tpm, []int{11})
	if err != nil {
		t.Fatal(err)
	}
	token, err := tpmkey.Seal(tpm, key, []int{0}, values)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestTPMKey has the key in a token of the header, sealed by the machine's TPM.
func TestTPMKey(t *testing.T) {
	k := newKeys(t)
	state := t.TempDir()
	token, err := json.Marshal(sealOnHost(t, filepath.Join(state, "tpm"), k.file))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	img, tokenFile := filepath.Join(dir, "phi"), filepath.Join(dir, "token")
	write(t, img, luks(t, k))
	write(t, tokenFile, token)
	run(t, nil, "cryptsetup", "token", "import", "--json-file", tokenFile, img)
	phi, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	d := disk(t, rootPart(rootFS(t, nil)), phiPart(phi))
	initrd := buildInitramfs(t, config(handoff.Source{Type: "tpm2", PCRs: []int{11}, TimeoutMS: 60_000}))
	t.Run("its TPM", func(t *testing.T) {
		s, console := boot(t, machine{initramfs: initrd, disk: d, tpm: state})
		if v := expect(t, s, console, handoff.StateOpened, ""); v.KeySource != "tpm2" {
			t.Errorf("the key came from %q, want tpm2", v.KeySource)
		}
		// What wardctl seals to is what the register held when the volume was opened.
		if got, want := s.Report.PCRs, strings.Repeat("00", 32); len(got) != 1 || got[11] != want {
			t.Errorf("init reports registers %v, want PCR 11 with %s", got, want)
		}
	})
	t.Run("another TPM", func(t *testing.T) {
		s, console := boot(t, machine{initramfs: initrd, disk: d, tpm: t.TempDir()})
		expect(t, s, console, handoff.StateLocked, "this is not the TPM that sealed the key")
	})
}
