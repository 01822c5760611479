package builder

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"ward/builder/secureboot"
)

// bootSigner makes keys of Secure Boot and opens the one that signs images.
func bootSigner(t *testing.T) *secureboot.Signer {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := secureboot.NewKeys(dir); err != nil {
		t.Fatal(err)
	}
	s, err := secureboot.Open(filepath.Join(dir, secureboot.KeyFile), filepath.Join(dir, secureboot.CertFile))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecureBootIsAnInput: an image that is signed, and one that is signed by
// another key, is another image: none is taken for up to date in place of another.
// The provenance names the certificate.
func TestSecureBootIsAnInput(t *testing.T) {
	first := comparable(t, nil)
	signers := map[string]*secureboot.Signer{"none": nil, "a key": bootSigner(t), "another key": bootSigner(t)}
	with := func(s *secureboot.Signer, output string) *build {
		return comparable(t, func(o *Options) {
			o.Image.Keyring, o.Binaries = first.Image.Keyring, first.Binaries
			o.SecureBoot, o.Output = s, output
		})
	}
	for built, s := range signers {
		b := with(s, filepath.Join(t.TempDir(), "none"))
		if err := errors.Join(b.hashInputs(t.Context()), b.dated(time.Unix(1700000000, 0).UTC())); err != nil {
			t.Fatal(err)
		}
		dir, _ := outputOf(t, nil, b.digest)
		for asked, other := range signers {
			if err := with(other, dir).compare(t.Context()); (asked == built) != errors.Is(err, errUpToDate) || asked != built && err != nil {
				t.Errorf("signed by %s, asked for %s: compare() = %v", built, asked, err)
			}
		}
		named := ""
		for _, r := range b.resolved() {
			if r.Name == "secure boot certificate" {
				named = r.Digest["sha256"]
			}
		}
		if want := b.inputs.SecureBoot; named != want || (s != nil) != (want != "") || s != nil && want != s.Fingerprint() {
			t.Errorf("signed by %s: the provenance names the certificate %q, the inputs %q", built, named, want)
		}
	}
}
