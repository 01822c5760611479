package rootfs

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/images/distro"
)

// el9 is a release whose rpm is the host's: the tree of the test has none, so a
// script stands for it there.
var el9 = distro.Release{
	ID: "rocky", Version: "9", Format: "rpm", Keyring: "/nowhere/RPM-GPG-KEY", KeyringBy: "rocky-gpg-keys", RPMDB: "var/lib/rpm", RPMDBFormat: "sqlite",
}

// tool runs a program of the test's host.
func tool(t *testing.T, home string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home, "GNUPGHOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

const spec = `Name: %NAME
Version: 1
Release: 1.el9
Summary: a package of the test
License: MIT
BuildArch: noarch
%NEEDS
%description
It is a package of the test.
%install
mkdir -p %{buildroot}/usr/share/doc/%{name} %{buildroot}/usr/share/licenses/%{name} %{buildroot}/proc
echo hello >%{buildroot}/usr/share/doc/%{name}/README
echo MIT >%{buildroot}/usr/share/licenses/%{name}/LICENSE
%post -p <lua>
posix.mkdir("/usr/bin")
%files
%dir %attr(0555,root,root) /proc
%doc /usr/share/doc/%{name}/README
%license /usr/share/licenses/%{name}/LICENSE
`

// repository makes a repository with a signed index, and returns its folder, its
// keyring and a keyring with another key. "unsigned" is the one package that is not.
func repository(t *testing.T) (dir, keyring, other string) {
	t.Helper()
	for _, name := range []string{"dnf", "rpmbuild", "rpmsign", "createrepo_c", "gpg", "gpg-agent"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("QEMU_TESTS") == "require" {
				t.Fatal(err)
			}
			t.Skipf("%v\nhint: install dnf, rpm, createrepo-c, gpg and gpg-agent", err)
		}
	}
	home, err := os.MkdirTemp("", "ward-rpm-") // short: gpg-agent's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	work := t.TempDir()
	dir, keyring, other = filepath.Join(work, "repo"), filepath.Join(work, "keyring"), filepath.Join(work, "other")
	for file, who := range map[string]string{keyring: "archive@example.org", other: "other@example.org"} {
		tool(t, home, "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", who, "rsa2048", "sign", "0")
		tool(t, home, "gpg", "--batch", "--armor", "--output", file, "--export", who)
	}
	for name, needs := range map[string]string{"hello": "", "unsigned": "", "broken": "Requires: what-nobody-has"} {
		file := filepath.Join(work, name+".spec")
		text := strings.NewReplacer("%NAME", name, "%NEEDS", needs).Replace(spec)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		tool(t, home, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+work, "--define", "_rpmdir "+dir, "--define", "_build_name_fmt %%{NAME}.rpm", file)
		if name != "unsigned" {
			tool(t, home, "rpmsign", "--define", "_gpg_name archive@example.org", "--define", "__gpg /usr/bin/gpg", "--addsign", filepath.Join(dir, name+".rpm"))
		}
	}
	tool(t, home, "createrepo_c", "--quiet", dir)
	tool(t, home, "gpg", "--batch", "--local-user", "archive@example.org", "--armor", "--detach-sign", filepath.Join(dir, "repodata/repomd.xml"))
	return dir, keyring, other
}

// The real dnf against a server on loopback.
func TestDNFSaysWhatIsWrongWithTheRepository(t *testing.T) {
	dir, keyring, other := repository(t)
	files := http.FileServer(http.Dir(dir))
	good := httptest.NewServer(files)
	defer good.Close()
	unsignedIndex := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".asc") {
			http.NotFound(w, r)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer unsignedIndex.Close()
	altered := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "repomd.xml") {
			b, _ := os.ReadFile(filepath.Join(dir, r.URL.Path))
			w.Write(append(b, "<!-- altered -->\n"...))
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer altered.Close()
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "http://" + l.Addr().String()
	l.Close()
	for name, c := range map[string]struct{ mirror, keyring, pkg, want, hint string }{
		"unsigned package":   {good.URL, keyring, "unsigned", "Package unsigned.rpm is not signed", "every package must be signed"},
		"missing package":    {good.URL, keyring, "nosuch", "Unable to find a match: nosuch", "no repository of the image has such a package"},
		"missing dependency": {good.URL, keyring, "broken", "nothing provides what-nobody-has", "a repository is missing"},
		"wrong key, index":   {good.URL, other, "hello", "repomd.xml GPG signature verification error", "keyring lacks its key"},
		"wrong key, package": {unsignedIndex.URL, other, "hello", "hello-1-1.el9", "the keyring does not have the key"},
		"altered index":      {altered.URL, keyring, "hello", "repomd.xml GPG signature verification error", "was changed after it was signed"},
		"empty":              {empty.URL, keyring, "hello", "has no repodata/repomd.xml", "the base URL of one repository"},
		"down":               {down, keyring, "hello", "refused", "the mirror is down"},
		"no repository":      {"", keyring, "hello", "there is no repository", "name the base URL of each one"},
		"other rpm database": {good.URL, keyring, "hello", "the target's rpm finds 0 packages in its database, 2 are installed", "build on a host of the same family"}, // one is the key
	} {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			s := Spec{Release: el9, Arch: "amd64", Keyring: c.keyring, Packages: []string{c.pkg}, Epoch: 1}
			if c.mirror != "" {
				s.Mirrors = []string{c.mirror}
			}
			var transcript bytes.Buffer
			err := Bootstrap(t.Context(), slog.New(slog.DiscardHandler), s, tree, &transcript, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "\nhint: ") || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("Bootstrap() = %v, want an error that says %q and hints %q\n%s", err, c.want, c.hint, transcript.String())
			}
			if _, err := os.Stat(tree); !os.IsNotExist(err) {
				t.Errorf("half a tree is left: %v", err)
			}
		})
	}
}

// A mirror that hangs ends in an error, not in a wait.
func TestDNFHang(t *testing.T) {
	old := hang
	hang = 200 * 1e6
	defer func() { hang = old }()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stop)
	_, err := index(t.Context(), server.URL)
	if err == nil || !strings.Contains(err.Error(), "does not answer within") || !strings.Contains(err.Error(), "\nhint: the mirror hangs") {
		t.Errorf("index() = %v, want an error that says that the mirror hangs", err)
	}
}

func TestDNFNamesTheMissingKeyring(t *testing.T) {
	err := Bootstrap(t.Context(), slog.New(slog.DiscardHandler), Spec{Release: el9, Arch: "amd64"}, filepath.Join(t.TempDir(), "x.tar"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/RPM-GPG-KEY does not exist") || !strings.Contains(err.Error(), "rocky-gpg-keys") {
		t.Errorf("Bootstrap() = %v, want an error that names the keyring and its package", err)
	}
}

func TestDNFIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := dnf{}.bootstrap(t.Context(), slog.New(slog.DiscardHandler), Spec{Release: el9, Mirrors: []string{"file:///nowhere"}}, "x.tar", nil)
	if err == nil || !strings.Contains(err.Error(), "dnf is not installed") || !strings.Contains(err.Error(), "ward doctor") {
		t.Errorf("bootstrap() = %v, want an error that says how to get dnf", err)
	}
}
