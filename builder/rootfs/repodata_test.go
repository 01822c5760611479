package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The real createrepo_c's index, by the real dnf.
func TestFind(t *testing.T) {
	dir, keyring, other := repository(t)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	hello := func(r RPM) bool { return r.Name == "hello" }
	s := Spec{Release: el9, Mirrors: []string{server.URL}, Keyring: keyring}
	found, repositories, err := Find(t.Context(), slog.New(slog.DiscardHandler), s, hello)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "hello.rpm"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	want := RPM{"hello", "1-1.el9", "noarch", server.URL + "/hello.rpm", int64(len(file)), hex.EncodeToString(sum[:])}
	if len(found) != 1 || found[0] != want {
		t.Errorf("Find() = %+v, want %+v", found, want)
	}
	repomd, err := os.ReadFile(filepath.Join(dir, "repodata/repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	sum = sha256.Sum256(repomd)
	if want := (Repository{server.URL, hex.EncodeToString(sum[:])}); len(repositories) != 1 || repositories[0] != want {
		t.Errorf("Find() = %+v, want %+v", repositories, want)
	}
	s.Keyring = other
	if _, _, err := Find(t.Context(), slog.New(slog.DiscardHandler), s, hello); err == nil || !strings.Contains(err.Error(), "repomd.xml GPG signature verification error") || !strings.Contains(err.Error(), "keyring lacks its key") {
		t.Errorf("Find() with another key = %v, want an error about the signature", err)
	}
}

const primaryXML = `<metadata xmlns="http://linux.duke.edu/metadata/common" packages="1"><package type="rpm">
<name>vim</name><arch>x86_64</arch><version epoch="2" ver="8.2" rel="1.el9"/><checksum type="sha256" pkgid="YES">ab</checksum>
<size package="5" installed="6"/><location xml:base="https://other.example/os" href="Packages/v/vim.rpm"/></package></metadata>`

func TestReadPrimary(t *testing.T) {
	all := func(RPM) bool { return true }
	found, err := readPrimary(strings.NewReader(primaryXML), "https://mirror.example/os/", all)
	if want := (RPM{"vim", "2:8.2-1.el9", "x86_64", "https://other.example/os/Packages/v/vim.rpm", 5, "ab"}); err != nil || len(found) != 1 || found[0] != want {
		t.Errorf("readPrimary() = %+v, %v, want %+v", found, err, want)
	}
	for _, c := range []struct{ old, new, want string }{
		{`type="sha256"`, `type="sha"`, `vim 2:8.2-1.el9 has a checksum of type "sha", want sha256`},
		{`package="5"`, `package="much"`, "vim 2:8.2-1.el9: size: "},
		{"</metadata>", "", "primary.xml: XML syntax error"},
	} {
		if _, err := readPrimary(strings.NewReader(strings.Replace(primaryXML, c.old, c.new, 1)), "https://mirror.example", all); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("readPrimary() = %v, want an error that says %q", err, c.want)
		}
	}
}

func TestEVR(t *testing.T) {
	for text, want := range map[string]string{"0:1-1": "1-1", "1-1": "1-1", "2:1-1": "2:1-1", ":1-1": "1-1", "10:1-1": "10:1-1"} {
		if got := EVR(text); got != want {
			t.Errorf("EVR(%q) = %q, want %q", text, got, want)
		}
	}
}

// Whatever an index says, what is read of it has a size and a URL that can be parsed.
func FuzzReadPrimary(f *testing.F) {
	f.Add(primaryXML)
	f.Add(strings.Replace(primaryXML, "vim", "../../vim", -1))
	f.Fuzz(func(t *testing.T, text string) {
		found, err := readPrimary(strings.NewReader(text), "https://mirror.example/os/", func(RPM) bool { return true })
		if err != nil {
			return
		}
		for _, r := range found {
			if _, err := url.Parse(r.URL); err != nil {
				t.Errorf("%+v: %v", r, err)
			}
		}
	})
}
