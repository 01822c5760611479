package provenance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"aead.dev/minisign"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

func statement(t *testing.T) []byte {
	t.Helper()
	s := New(map[string]string{"vmlinuz": strings.Repeat("a", 64), "disk.qcow2": strings.Repeat("b", 64)},
		map[string]string{"image": "debian-12"}, map[string]string{"mke2fs": "1.47.0"},
		[]Resource{{Name: "wardctl", Digest: map[string]string{"sha256": strings.Repeat("c", 64)}}}, strings.Repeat("d", 64), "v1")
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The types that in-toto itself publishes read the statement and find it valid.
func TestIsValidForInToto(t *testing.T) {
	data := statement(t)
	var s intoto.Statement
	if err := protojson.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if s.PredicateType != "https://slsa.dev/provenance/v1" || len(s.Subject) != 2 || s.Subject[0].Name != "disk.qcow2" {
		t.Errorf("in-toto reads %v", &s)
	}
	text, err := protojson.Marshal(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if p.RunDetails.Builder.Id != builderID || len(p.BuildDefinition.ResolvedDependencies) != 1 {
		t.Errorf("SLSA reads %v", &p)
	}
}

func TestRead(t *testing.T) {
	s, err := Read(statement(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Subjects(); len(got) != 2 || got["vmlinuz"] != strings.Repeat("a", 64) {
		t.Errorf("Subjects() = %v", got)
	}
	for text, want := range map[string]string{
		`{`:               "EOF",
		`{"extra":1}`:     "unknown field",
		`{"_type":"x"}`:   `is a "x"`,
		`{"subject":"a"}`: "cannot unmarshal",
	} {
		if _, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%s) = %v, want %q", text, err, want)
		}
	}
}

// keys writes a pair of each kind.
func keys(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, data []byte, err error) {
		t.Helper()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := secret.MarshalText()
	write("mini.key", text, err)
	text, err = public.MarshalText()
	write("mini.pub", text, err)
	// As minisign(1) lays it out; deriving a real one's key takes a GiB and ten seconds.
	encrypted := append([]byte("EdScB2"), make([]byte, 152)...)
	write("encrypted.key", []byte("untrusted comment: minisign encrypted secret key\n"+base64.StdEncoding.EncodeToString(encrypted)+"\n"), nil)
	for name, curve := range map[string]elliptic.Curve{"ec": elliptic.P256(), "p384": elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err)
		der, err = x509.MarshalECPrivateKey(key)
		write(name+"-sec1.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err)
		der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
		write(name+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err)
	}
	write("junk", []byte("junk"), nil)
	return dir
}

func TestSignAndVerify(t *testing.T) {
	dir, data := keys(t), statement(t)
	for secret, public := range map[string]string{"mini.key": "mini.pub", "ec.key": "ec.pub", "ec-sec1.key": "ec.pub"} {
		s, err := ReadSigner(filepath.Join(dir, secret))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Sign(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		v, err := ReadVerifier(filepath.Join(dir, public))
		if err != nil {
			t.Fatal(err)
		}
		if v.File() != s.File() {
			t.Errorf("%s: the signature lies in %s and is looked for in %s", secret, s.File(), v.File())
		}
		if err := v.Verify(t.Context(), data, sig); err != nil {
			t.Errorf("%s: %v", secret, err)
		}
		other, err := ReadVerifier(filepath.Join(keys(t), public))
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Verify(t.Context(), data, sig); err == nil || !strings.Contains(err.Error(), "was ") || !strings.Contains(err.Error(), " key") {
			t.Errorf("%s: with another key: %v, want an error that speaks of the key", secret, err)
		}
		changed := bytes.Replace(data, []byte("aaaa"), []byte("aaab"), 1)
		if err := v.Verify(t.Context(), changed, sig); err == nil || !strings.Contains(err.Error(), "not that of this provenance") {
			t.Errorf("%s: with another statement: %v, want an error", secret, err)
		}
		if err := v.Verify(t.Context(), data, []byte("junk")); err == nil || !strings.Contains(err.Error(), "is not a") {
			t.Errorf("%s: junk for a signature: %v, want an error", secret, err)
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	dir := keys(t)
	for name, want := range map[string]string{
		"encrypted.key": "is encrypted", "p384.key": "not an ECDSA P-256", "ec.pub": "is a public key", "junk": "neither minisign's nor in PEM", "gone": "no such file",
	} {
		if _, err := ReadSigner(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("ReadSigner(%s) = %v, want %q", name, err, want)
		}
	}
	for name, want := range map[string]string{"ec.key": "is a private key", "p384.pub": "not an ECDSA P-256", "junk": "neither minisign's nor in PEM", "gone": "no such file"} {
		if _, err := ReadVerifier(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("ReadVerifier(%s) = %v, want %q", name, err, want)
		}
	}
}

// minisign and openssl, which sites without ward have, accept the signatures.
func TestOtherToolsAcceptTheSignatures(t *testing.T) {
	dir, data := keys(t), statement(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	sign := func(key string) []byte {
		t.Helper()
		s, err := ReadSigner(path(key))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Sign(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	run := func(argv ...string) {
		t.Helper()
		if _, err := exec.LookPath(argv[0]); err != nil {
			if os.Getenv("QEMU_TESTS") == "require" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("provenance.json", data)
	write("provenance.json.minisig", sign("mini.key"))
	run("minisign", "-V", "-p", path("mini.pub"), "-m", path("provenance.json"))

	var e struct {
		PayloadType, Payload string
		Signatures           []struct{ Sig string }
	}
	if err := json.Unmarshal(sign("ec.key"), &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil || !bytes.Equal(payload, data) {
		t.Fatalf("the envelope has another payload (%v)", err)
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	// The pre-authentication encoding, as DSSE's text has it.
	message := append([]byte("DSSEv1 28 application/vnd.in-toto+json "+strconv.Itoa(len(data))+" "), data...)
	write("message", message)
	write("sig", sig)
	run("openssl", "dgst", "-sha256", "-verify", path("ec.pub"), "-signature", path("sig"), path("message"))
}
