package builder

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"ward/builder/provenance"
)

// signers writes a pair of minisign's keys.
func signers(t *testing.T) (provenance.Signer, provenance.Verifier) {
	t.Helper()
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, key := range map[string]interface{ MarshalText() ([]byte, error) }{"key": secret, "pub": public} {
		text, err := key.MarshalText()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := provenance.ReadSigner(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := provenance.ReadVerifier(filepath.Join(dir, "pub"))
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// One changed byte in any file of an output is found, and the file is named.
func TestVerifyOutputNamesTheChangedFile(t *testing.T) {
	signer, verifier := signers(t)
	dir, m := output(t, signer)
	if _, signature, err := VerifyOutput(t.Context(), dir, verifier); err != nil || signature != Checked {
		t.Fatalf("VerifyOutput() = %q, %v, want a good signature", signature, err)
	}
	names, err := namesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(m.Files)+4 {
		t.Errorf("the output has %q", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int{0, len(data) / 2, len(data) - 2} {
				changed := bytes.Clone(data)
				changed[at] ^= 1
				if err := os.WriteFile(path, changed, 0o644); err != nil {
					t.Fatal(err)
				}
				if _, _, err := VerifyOutput(t.Context(), dir, verifier); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("byte %d of %s: VerifyOutput() = %v, want the file's name", at, name, err)
				}
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestVerifyOutputAsksForTheSignature(t *testing.T) {
	signer, verifier := signers(t)
	_, other := signers(t)
	unsigned, _ := output(t, nil)
	signed, _ := output(t, signer)
	for name, c := range map[string]struct {
		dir  string
		key  provenance.Verifier
		is   Signature
		want string
	}{
		"unsigned, no key":  {unsigned, nil, NotSigned, ""},
		"signed, no key":    {signed, nil, NotChecked, ""},
		"unsigned, key":     {unsigned, verifier, Checked, "there is no signature"},
		"signed, other key": {signed, other, Checked, "was made with the key"},
	} {
		_, is, err := VerifyOutput(t.Context(), c.dir, c.key)
		if c.want == "" && (err != nil || is != c.is) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: VerifyOutput() = %q, %v, want %q %q", name, is, err, c.is, c.want)
		}
	}
}

// Somebody who changes a file and every digest of it is found by the signature alone.
func TestVerifyOutputFindsAConsistentForgery(t *testing.T) {
	signer, verifier := signers(t)
	forger, _ := signers(t)
	dir, _ := output(t, signer)
	forged, _ := output(t, forger)
	for _, name := range []string{provenanceFile, manifestFile, sumsFile} {
		data, err := os.ReadFile(filepath.Join(forged, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), bytes.ReplaceAll(data, []byte(`"d1"`), []byte(`"d2"`)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := VerifyOutput(t.Context(), dir, verifier); err == nil || !strings.Contains(err.Error(), provenance.MinisignFile+": is not that of this provenance") {
		t.Errorf("VerifyOutput() = %v, want a signature that does not fit", err)
	}
}
