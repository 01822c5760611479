package secureboot

import (
	"bytes"
	"encoding/asn1"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"ward/initramfs/uki"
)

// stub is a PE file that is there on every build host that can run the tests.
const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

var quiet = slog.New(slog.DiscardHandler)

func newKeys(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := NewKeys(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *Signer {
	t.Helper()
	s, err := Open(filepath.Join(dir, KeyFile), filepath.Join(dir, CertFile))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	return string(out), err
}

// TestSign has sbverify's opinion of what we sign.
func TestSign(t *testing.T) {
	dir := newKeys(t)
	image, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range []int{0, 1, 7, 512} { // a file whose size is no multiple of 8 is padded
		signed, err := open(t, dir).Sign(t.Context(), quiet, append(bytes.Clone(image), make([]byte, tail)...))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "signed.efi")
		verify := func(b []byte, cert string) (string, error) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return run(t, "sbverify", "--cert", filepath.Join(dir, cert), file)
		}
		if out, err := verify(signed, CertFile); err != nil || !strings.Contains(out, "Signature verification OK") {
			t.Errorf("%d bytes more: sbverify: %v: %s", tail, err, out)
		}
		if out, err := verify(signed, "KEK.pem"); err == nil || !strings.Contains(out, "Signature verification failed") {
			t.Errorf("sbverify with another certificate = %v: %s", err, out)
		}
		signed[len(image)/2] ^= 1
		if out, err := verify(signed, CertFile); err == nil || !strings.Contains(out, "Signature verification failed") {
			t.Errorf("sbverify of a changed file = %v: %s", err, out)
		}
	}
}

// TestSignUKI: sbverify warns of bytes that no section has, which no signature covers.
func TestSignUKI(t *testing.T) {
	dir := newKeys(t)
	image, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	parts := uki.Parts{Stub: image, Linux: []byte("kernel"), Initrd: []byte("initramfs"), Cmdline: "ro", OSRelease: "ID=x", Uname: "6.1"}
	if err := uki.Write(&out, parts); err != nil {
		t.Fatal(err)
	}
	signed, err := open(t, dir).Sign(t.Context(), quiet, out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := run(t, "sbverify", "--cert", filepath.Join(dir, CertFile), file)
	if err != nil || strings.Contains(text, "gap") || !strings.Contains(text, "Signature verification OK") {
		t.Errorf("sbverify: %v: %s", err, text)
	}
}

func TestSignRefuses(t *testing.T) {
	dir := newKeys(t)
	s := open(t, dir)
	image, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(t.Context(), quiet, image)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		image []byte
		want  string
	}{{signed, "is signed already"}, {make([]byte, 4096), "is no PE32+ file"}, {nil, "EOF"}} {
		if _, err := s.Sign(t.Context(), quiet, c.image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Sign = %v, want an error with %q", err, c.want)
		}
	}
}

// TestToken signs with a key in a token that software acts.
func TestToken(t *testing.T) {
	dir := newKeys(t)
	conf, pin := filepath.Join(t.TempDir(), "softhsm2.conf"), filepath.Join(t.TempDir(), "pin")
	for name, text := range map[string]string{conf: "directories.tokendir = " + t.TempDir() + "\nobjectstore.backend = file\n", pin: "1234"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	t.Setenv("PKCS11_MODULE_PATH", "/usr/lib/softhsm/libsofthsm2.so")
	for _, argv := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "release", "--so-pin", "5678", "--pin", "1234"},
		{"softhsm2-util", "--import", filepath.Join(dir, KeyFile), "--token", "release", "--label", "db", "--id", "01", "--pin", "1234"},
	} {
		if out, err := run(t, argv...); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	image, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(object, cert string) ([]byte, error) {
		s, err := Open("pkcs11:token=release;object="+object+";type=private?pin-source="+pin, filepath.Join(dir, cert))
		if err != nil {
			t.Fatal(err)
		}
		return s.Sign(t.Context(), quiet, image)
	}
	signed, err := sign("db", CertFile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "signed.efi")
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "sbverify", "--cert", filepath.Join(dir, CertFile), file); err != nil || !strings.Contains(out, "Signature verification OK") {
		t.Errorf("sbverify: %v: %s", err, out)
	}
	if _, err := sign("none", CertFile); err == nil || !strings.Contains(err.Error(), "PKCS11_get_private_key returned NULL") {
		t.Errorf("signing with a key that is not there = %v", err)
	}
	if _, err := sign("db", "KEK.pem"); err == nil || !strings.Contains(err.Error(), "private key does not match certificate") {
		t.Errorf("signing with another certificate = %v, want that it does not fit", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := newKeys(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, argv := range map[string][]string{
		"small.key":     {"openssl", "genrsa", "-out", in("small.key"), "1024"},
		"ec.key":        {"openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", in("ec.key")},
		"encrypted.key": {"openssl", "pkcs8", "-topk8", "-in", in(KeyFile), "-passout", "pass:x", "-out", in("encrypted.key")},
	} {
		if out, err := run(t, argv...); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	for _, c := range []struct{ key, cert, want string }{
		{"KEK.key", CertFile, "does not fit the certificate"},
		{"missing.key", CertFile, "hint: `ward key secure-boot DIR` makes keys"},
		{CertFile, CertFile, "holds a PEM block CERTIFICATE, want PRIVATE KEY"},
		{KeyFile, KeyFile, "holds a PEM block PRIVATE KEY, want CERTIFICATE"},
		{KeyFile, "db.esl", "holds no PEM block"},
		{"small.key", CertFile, "has 1024 bits, want 2048"},
		{"ec.key", CertFile, "is no RSA key"},
		{"encrypted.key", CertFile, "is encrypted"},
	} {
		if _, err := Open(in(c.key), in(c.cert)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%s, %s) = %v, want an error with %q", c.key, c.cert, err, c.want)
		}
	}
	if _, err := Open("pkcs11:token=release;object=db?pin-value=1234", in(CertFile)); err == nil || !strings.Contains(err.Error(), "the PIN would be an argument") || strings.Contains(err.Error(), "1234") {
		t.Errorf("Open with a PIN = %v, want that it is refused and not said again", err)
	}
	if err := NewKeys(dir); err == nil || !strings.Contains(err.Error(), "never replaced") {
		t.Errorf("NewKeys over others = %v, want that they are never replaced", err)
	}
}

// TestLists compares signature lists with efitools', and the signatures of the
// updates with openssl's opinion.
func TestLists(t *testing.T) {
	dir := newKeys(t)
	for _, v := range variables {
		list, err := os.ReadFile(filepath.Join(dir, v.Name+listSuffix))
		if err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join(t.TempDir(), "list")
		if out, err := run(t, "cert-to-efi-sig-list", filepath.Join(dir, v.Name+certSuffix), theirs); err != nil {
			t.Fatalf("cert-to-efi-sig-list: %v: %s", err, out)
		}
		want, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		copy(want[28:44], list[28:44]) // the owner: theirs has none
		if !bytes.Equal(list, want) {
			t.Errorf("%s%s differs from what cert-to-efi-sig-list makes", v.Name, listSuffix)
		}

		// EFI_VARIABLE_AUTHENTICATION_2: time, WIN_CERTIFICATE, GUID, PKCS#7; then the data.
		auth, err := os.ReadFile(filepath.Join(dir, v.Name+authSuffix))
		if err != nil {
			t.Fatal(err)
		}
		const time, head = 16, 24
		end := time + int(auth[time]) + int(auth[time+1])<<8
		if !bytes.Equal(auth[end:], list) {
			t.Fatalf("%s%s does not end with the list", v.Name, authSuffix)
		}
		var signedData asn1.RawValue
		if _, err := asn1.Unmarshal(auth[time+head:end], &signedData); err != nil {
			t.Fatal(err)
		}
		der, err := asn1.Marshal(struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue
		}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: signedData.FullBytes}})
		if err != nil {
			t.Fatal(err)
		}
		var content []byte // UEFI 2.10, 8.2.2: name, GUID, attributes, time, data
		for _, c := range []byte(v.Name) {
			content = append(content, c, 0)
		}
		content = append(content, efiGUID(uuid.MustParse(v.GUID.Format()))...)
		content = append(content, byte(v.Attributes), byte(v.Attributes>>8), 0, 0)
		content = append(append(content, auth[:time]...), list...)
		message, data := filepath.Join(t.TempDir(), "p7"), filepath.Join(t.TempDir(), "data")
		for name, b := range map[string][]byte{message: der, data: content} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := run(t, "openssl", "smime", "-verify", "-inform", "DER", "-in", message, "-content", data, "-binary", "-noverify", "-nointern",
			"-certfile", filepath.Join(dir, v.by+certSuffix), "-out", os.DevNull); err != nil {
			t.Errorf("%s%s: openssl: %v: %s", v.Name, authSuffix, err, out)
		}
	}
}

// TestEnrol compares with what Debian's firmware wrote when its snakeoil keys were enrolled.
func TestEnrol(t *testing.T) {
	const folder = "/usr/share/OVMF/"
	empty, err := os.ReadFile(folder + "OVMF_VARS_4M.fd")
	if err != nil {
		t.Skip(err)
	}
	theirs, err := os.ReadFile(folder + "OVMF_VARS_4M.snakeoil.fd")
	if err != nil {
		t.Fatal(err)
	}
	dir := newKeys(t)
	got, err := Enrol(empty, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(empty) {
		t.Fatalf("Enrol made %d bytes of %d", len(got), len(empty))
	}
	n := 0
	for name, want := range stored(t, theirs) {
		switch name {
		case "PK", "KEK", "db", "SecureBootEnable", "CustomMode":
		default:
			continue
		}
		n++
		ours, ok := stored(t, got)[name]
		if !ok || !bytes.Equal(ours.head, want.head) {
			t.Errorf("%s is stored with %x, the firmware has %x", name, ours.head, want.head)
		}
		if name == "SecureBootEnable" || name == "CustomMode" {
			if !bytes.Equal(ours.data, want.data) {
				t.Errorf("%s is %x, the firmware has %x", name, ours.data, want.data)
			}
			continue
		}
		list, err := os.ReadFile(filepath.Join(dir, name+listSuffix))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.data, list) {
			t.Errorf("%s is not the list of the folder", name)
		}
	}
	if n != 5 {
		t.Errorf("compared %d variables, want 5", n)
	}
	for name, c := range map[string]struct {
		vars []byte
		dir  string
		want string
	}{
		"full":    {theirs, dir, "holds variables"},
		"foreign": {make([]byte, 8192), dir, "no firmware volume"},
		"no keys": {empty, t.TempDir(), "hint: `ward key secure-boot DIR`"},
	} {
		if _, err := Enrol(c.vars, c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Enrol = %v, want an error with %q", name, err, c.want)
		}
	}
}

type storedVariable struct {
	head []byte // what does not depend on the keys: state, attributes, GUID
	data []byte
}

// stored reads the variables of a store; of two with one name the last that counts.
func stored(t *testing.T, b []byte) map[string]storedVariable {
	t.Helper()
	all := map[string]storedVariable{}
	at := 72 + storeHeader
	for b[at] == 0xaa && b[at+1] == 0x55 {
		n, size := int(b[at+36]), int(b[at+40])|int(b[at+41])<<8
		var name string
		for i := 0; i < n-2; i += 2 {
			name += string(rune(b[at+variableHeader+i]))
		}
		if b[at+2] == variableAdded {
			start := at + variableHeader + n
			head := append(bytes.Clone(b[at:at+16]), b[at+44:at+60]...)
			all[name] = storedVariable{head, b[start : start+size]}
		}
		at = (at + variableHeader + n + size + 3) &^ 3
	}
	return all
}
