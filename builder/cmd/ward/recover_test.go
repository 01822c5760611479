package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"ward/firstboot/escrow"
)

// An officer opens what a machine sealed, and cryptsetup takes the passphrase.
func TestKeyRecoverOpensTheVolume(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	officer, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r := escrow.New("phi-data", "7b3a", "clinic-1", time.Unix(1e9, 0))
	sealed, err := escrow.Seal(r, []string{officer.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	write("sealed.age", sealed)
	write("officer.txt", []byte(officer.String()+"\n"))
	write("stranger.txt", []byte(stranger.String()+"\n"))
	write("volume", make([]byte, 32<<20))
	format := exec.Command("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", path("volume"))
	format.Stdin = strings.NewReader(r.Passphrase)
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("luksFormat: %v: %s", err, out)
	}
	ward := func(args ...string) (int, string) {
		t.Helper()
		out, err := os.Create(path("said"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		code := run(t.Context(), args, os.Stdin, out, out)
		text, err := os.ReadFile(path("said"))
		if err != nil {
			t.Fatal(err)
		}
		return code, string(text)
	}
	code, said := ward("key", "recover", path("sealed.age"), "--identity", path("officer.txt"), "-o", path("pass"))
	if code != exitOK || strings.Contains(said, r.Passphrase) || !strings.Contains(said, "opens volume phi-data") {
		t.Fatalf("ward key recover = %d: %s", code, said)
	}
	if info, err := os.Stat(path("pass")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the passphrase's file: %v, %v, want mode 0600", info.Mode(), err)
	}
	if out, err := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", path("pass"), path("volume")).CombinedOutput(); err != nil {
		t.Errorf("cryptsetup open --test-passphrase: %v: %s", err, out)
	}
	if code, said := ward("key", "recover", path("sealed.age"), "--identity", path("officer.txt"), "-o", path("pass")); code != exitError || !strings.Contains(said, "exists") {
		t.Errorf("over a file that exists = %d: %s, want an error", code, said)
	}
	if code, said := ward("key", "recover", path("sealed.age"), "--identity", path("stranger.txt"), "-o", path("other")); code != exitError || !strings.Contains(said, "sealed.age") {
		t.Errorf("with a stranger's identity = %d: %s, want an error that names the file", code, said)
	}
	if _, err := os.Stat(path("other")); !os.IsNotExist(err) {
		t.Error("a stranger got a file")
	}
}
