package sourceslist

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"ward/images"
	"ward/images/distro"
)

// keyring makes a key and returns its public half, and both halves, unarmored.
func keyring(t *testing.T) (public, secret []byte) {
	t.Helper()
	e, err := openpgp.NewEntity("test", "", "test@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	var p, s bytes.Buffer
	if err := e.Serialize(&p); err != nil {
		t.Fatal(err)
	}
	if err := e.SerializePrivate(&s, nil); err != nil {
		t.Fatal(err)
	}
	return p.Bytes(), s.Bytes()
}

func armored(t *testing.T, key []byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(key)
	w.Close()
	return b.String()
}

func file(t *testing.T, name string, data []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

var (
	debian = distro.Release{ID: "debian", Version: "12", Codename: "bookworm", Keyring: "/usr/share/keyrings/d.gpg",
		Components: []string{"main"}, Pockets: []string{"-updates"}, SecuritySuite: "bookworm-security", SecurityPath: "debian-security"}
	ubuntu = distro.Release{ID: "ubuntu", Version: "24.04", Codename: "noble", Keyring: "/usr/share/keyrings/u.gpg",
		Components: []string{"main", "universe"}, Pockets: []string{"-updates", "-security"}, Barred: []string{"snapd"}}
)

// TestSources: a mirror brings every pocket, and security updates are among them
// whatever the distribution calls them.
func TestSources(t *testing.T) {
	const d, u = "[signed-by=/usr/share/keyrings/d.gpg]", "[signed-by=/usr/share/keyrings/u.gpg]"
	for name, c := range map[string]struct {
		r    distro.Release
		img  images.Image
		want []string
	}{
		"default": {r: debian},
		"debian": {debian, images.Image{Mirrors: []string{"http://m.example/debian/"}}, []string{
			"deb " + d + " http://m.example/debian/ bookworm main",
			"deb " + d + " http://m.example/debian/ bookworm-updates main",
			"deb " + d + " http://m.example/debian-security bookworm-security main"}},
		"debian, own security mirror": {debian, images.Image{Mirrors: []string{"http://m.example"}, SecurityMirror: "http://s.example/x"}, []string{
			"deb " + d + " http://m.example bookworm main",
			"deb " + d + " http://m.example bookworm-updates main",
			"deb " + d + " http://s.example/x bookworm-security main"}},
		"two mirrors": {debian, images.Image{Mirrors: []string{"file:///srv/debian", "http://m.example/debian"}}, []string{
			"deb " + d + " file:///srv/debian bookworm main",
			"deb " + d + " file:///srv/debian bookworm-updates main",
			"deb " + d + " file:///srv/debian-security bookworm-security main",
			"deb " + d + " http://m.example/debian bookworm main",
			"deb " + d + " http://m.example/debian bookworm-updates main"}},
		"ubuntu": {ubuntu, images.Image{Mirrors: []string{"http://m.example/ubuntu"}}, []string{
			"deb " + u + " http://m.example/ubuntu noble main universe",
			"deb " + u + " http://m.example/ubuntu noble-updates main universe",
			"deb " + u + " http://m.example/ubuntu noble-security main universe"}},
		"ubuntu, own security mirror": {ubuntu, images.Image{Mirrors: []string{"http://m.example/ubuntu"}, SecurityMirror: "http://s.example/ubuntu"}, []string{
			"deb " + u + " http://m.example/ubuntu noble main universe",
			"deb " + u + " http://m.example/ubuntu noble-updates main universe",
			"deb " + u + " http://s.example/ubuntu noble-security main universe"}},
		"line": {debian, images.Image{Mirrors: []string{"deb [arch=amd64] http://m.example/debian bookworm main contrib"}}, []string{
			"deb [arch=amd64 " + d[1:] + " http://m.example/debian bookworm main contrib"}},
		"line with a key": {debian, images.Image{Mirrors: []string{"deb [signed-by=/k.gpg] http://m.example/flat ./"}}, []string{
			"deb [signed-by=/k.gpg] http://m.example/flat ./"}},
		"snapshot": {debian, images.Image{Mirrors: []string{"http://m.example/archive/debian"}, Snapshot: "20260101T000000Z"}, []string{
			"deb [check-valid-until=no " + d[1:] + " http://m.example/archive/debian/20260101T000000Z bookworm main",
			"deb [check-valid-until=no " + d[1:] + " http://m.example/archive/debian/20260101T000000Z bookworm-updates main",
			"deb [check-valid-until=no " + d[1:] + " http://m.example/archive/debian-security/20260101T000000Z bookworm-security main"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Of(&c.img, c.r)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Main("/nowhere"); !slices.Equal(got, c.want) {
				t.Errorf("Main() =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if got := s.Sources(); strings.TrimSpace(got) != strings.Join(c.want, "\n") {
				t.Errorf("Sources() = %q", got)
			}
			if s.Default() != (len(c.want) == 0) {
				t.Errorf("Default() = %t", s.Default())
			}
			readByApt(t, s.Sources(), len(c.want))
		})
	}
}

// readByApt lets apt read the lines; want is how many sources it must find.
func readByApt(t *testing.T, text string, want int) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil || want == 0 {
		return
	}
	list := file(t, "sources.list", []byte(text))
	out, err := exec.Command("apt-get", "update", "--print-uris",
		"-o", "Dir::Etc::sourcelist="+list, "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "APT::Architecture=amd64").CombinedOutput()
	if err != nil {
		t.Errorf("apt-get update --print-uris: %v\n%s", err, out)
	}
	if got := strings.Count(string(out), "/InRelease'"); got != want {
		t.Errorf("apt reads %d sources, want %d:\n%s", got, want, out)
	}
}

// TestKeys: a build reads the keys from a folder of its own, and the machine has
// its own copies.
func TestKeys(t *testing.T) {
	public, _ := keyring(t)
	text := armored(t, public)
	img := &images.Image{
		Mirrors: []string{"http://m.example/ubuntu"}, Keyring: file(t, "site.gpg", public),
		Repositories: []images.Repository{
			{Name: "tools", URL: "http://tools.example:8080/deb", Suite: "noble", Components: []string{"main"}, Keyring: file(t, "t", []byte(text)), Priority: 100},
			{Name: "flat", URL: "http://flat.example", Suite: "./", Key: text},
		},
	}
	s, err := Of(img, ubuntu)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range s.Lines(dir) {
		_, at, _ := strings.Cut(line, "signed-by=")
		at, _, _ = strings.Cut(at, "]")
		if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got, public) && string(got) != text {
			t.Errorf("the key of %s is not there: %v", line, err)
		}
		n++
	}
	if n != 5 || filepath.Dir(s.Keyring(dir)) != dir {
		t.Errorf("Lines() has %d lines, Keyring() = %s", n, s.Keyring(dir))
	}
	got := map[string]string{}
	for _, f := range s.Machine() {
		got[f.Path] = string(f.Data)
	}
	want := map[string]string{
		"etc/apt/keyrings/ward-archive.gpg": string(public),
		"etc/apt/keyrings/ward-tools.asc":   text,
		"etc/apt/keyrings/ward-flat.asc":    text,
		"etc/apt/sources.list": "deb [signed-by=/etc/apt/keyrings/ward-archive.gpg] http://m.example/ubuntu noble main universe\n" +
			"deb [signed-by=/etc/apt/keyrings/ward-archive.gpg] http://m.example/ubuntu noble-updates main universe\n" +
			"deb [signed-by=/etc/apt/keyrings/ward-archive.gpg] http://m.example/ubuntu noble-security main universe\n",
		"etc/apt/sources.list.d/ward-tools.list": "deb [signed-by=/etc/apt/keyrings/ward-tools.asc] http://tools.example:8080/deb noble main\n",
		"etc/apt/sources.list.d/ward-flat.list":  "deb [signed-by=/etc/apt/keyrings/ward-flat.asc] http://flat.example ./\n",
		"etc/apt/preferences.d/ward-tools":       "Package: *\nPin: origin \"tools.example\"\nPin-Priority: 100\n",
		"etc/apt/preferences.d/ward-barred":      "# ward: these are never installed, not even as a dependency.\nPackage: snapd\nPin: release *\nPin-Priority: -1\n",
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("/%s is %q, want %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("the machine has %d files, want %d", len(got), len(want))
	}
	for _, f := range s.Build(dir) {
		if strings.Contains(string(f.Data), "/etc/apt/keyrings") || f.Path == "etc/apt/sources.list" {
			t.Errorf("the build has /%s: %s", f.Path, f.Data)
		}
	}
}

func TestKeyFaults(t *testing.T) {
	_, secret := keyring(t)
	for name, c := range map[string]struct {
		key  images.Repository
		want string
	}{
		"missing":    {images.Repository{Keyring: "/nowhere/k.gpg"}, "keyring /nowhere/k.gpg does not exist\nhint: "},
		"no key":     {images.Repository{Keyring: file(t, "k.gpg", []byte("hello"))}, "key of ward-x: is no OpenPGP keyring"},
		"empty":      {images.Repository{Keyring: file(t, "k.gpg", nil)}, "key of ward-x: has no OpenPGP key"},
		"secret":     {images.Repository{Keyring: file(t, "k.gpg", secret)}, "key of ward-x: has a secret key, which no machine may get"},
		"cut armour": {images.Repository{Key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ"}, "key of ward-x: is no OpenPGP keyring"},
		"folder":     {images.Repository{Keyring: t.TempDir()}, "want a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			c.key.Name, c.key.URL, c.key.Suite = "x", "http://x.example", "./"
			_, err := Of(&images.Image{Repositories: []images.Repository{c.key}}, debian)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Of() = %v, want an error with %q", err, c.want)
			}
		})
	}
}
