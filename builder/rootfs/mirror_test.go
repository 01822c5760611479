package rootfs

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// mirror is a signed archive of one essential package, in memory.
type mirror struct {
	files map[string][]byte
	key   *openpgp.Entity
}

const (
	indexPath   = "/dists/bookworm/main/binary-amd64/Packages"
	releasePath = "/dists/bookworm/InRelease"
	debPath     = "/pool/base.deb"
)

var config = &packet.Config{DefaultHash: crypto.SHA512, RSABits: 3072}

func key(t *testing.T) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("mirror", "", "mirror@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// keyring writes the public half where apt's user can read it.
func keyring(t *testing.T, e *openpgp.Entity) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ward-mirror-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "keyring.gpg")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "base")
	control := "Package: base\nVersion: 1\nArchitecture: all\nEssential: yes\nPriority: required\nMaintainer: nobody <nobody@example.org>\nDescription: a package\n"
	if err := os.MkdirAll(filepath.Join(tree, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "DEBIAN/control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", tree).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	deb, err := os.ReadFile(tree + ".deb")
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{key: key(t), files: map[string][]byte{debPath: deb}}
	m.files[indexPath] = fmt.Appendf(nil, "%sFilename: pool/base.deb\nSize: %d\nSHA256: %x\n\n", control, len(deb), sha256.Sum256(deb))
	m.sign(t, m.key)
	return m
}

func (m *mirror) sign(t *testing.T, by *openpgp.Entity) {
	t.Helper()
	index := m.files[indexPath]
	release := fmt.Sprintf("Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d main/binary-amd64/Packages\n",
		time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256(index), len(index))
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, by.PrivateKey, config)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(release))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	m.files[releasePath] = append(b.Bytes(), '\n')
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := m.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Write(data)
}

// TestBootstrapFromABadMirror: whatever is wrong with a mirror that signs its
// index (a package that it lacks is seen by TestExplain) ends in an error that says what, with a hint, and leaves nothing behind.
func TestBootstrapFromABadMirror(t *testing.T) {
	for name, c := range map[string]struct {
		spoil    func(t *testing.T, m *mirror) http.Handler // nil: m itself
		want     string
		hint     string
		patience time.Duration
	}{
		"signed by another key": {func(t *testing.T, m *mirror) http.Handler { m.sign(t, key(t)); return nil },
			"NO_PUBKEY", "the keyring does not have the key", 0},
		"changed after it was signed": {func(t *testing.T, m *mirror) http.Handler {
			m.files[releasePath] = bytes.Replace(m.files[releasePath], []byte("Origin: Debian"), []byte("Origin: Deb1an"), 1)
			return nil
		}, "BADSIG", "changed after it was signed", 0},
		"index that differs": {func(t *testing.T, m *mirror) http.Handler {
			m.files[indexPath] = bytes.Replace(m.files[indexPath], []byte("a package"), []byte("A package"), 1)
			return nil
		}, "Hash Sum mismatch", "being updated or altered", 0},
		"package that differs": {func(t *testing.T, m *mirror) http.Handler {
			m.files[debPath] = bytes.Clone(m.files[debPath])
			m.files[debPath][len(m.files[debPath])-1] ^= 1
			return nil
		}, "Hash Sum mismatch", "being updated or altered", 0},
		"package cut short": {func(t *testing.T, m *mirror) http.Handler {
			m.files[debPath] = m.files[debPath][:len(m.files[debPath])/2]
			return nil
		}, "unexpected size", "being updated or altered", 0},
		"breaks off": {func(t *testing.T, m *mirror) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == debPath {
					w.Header().Set("Content-Length", fmt.Sprint(len(m.files[debPath])))
					w.Write(m.files[debPath][:10])
					panic(http.ErrAbortHandler)
				}
				m.ServeHTTP(w, r)
			})
		}, "127.0.0.1", "mirror", 0},
		"hangs": {func(t *testing.T, m *mirror) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, "127.0.0.1", "the mirror does not answer", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			tree := filepath.Join(t.TempDir(), "tree")
			s := Spec{Release: debian(t), Arch: "amd64", Keyring: keyring(t, m.key), Packages: []string{"base"}, Epoch: 1, Patience: c.patience}
			handler := c.spoil(t, m)
			if handler == nil {
				handler = m
			}
			server := httptest.NewServer(handler)
			defer server.Close()
			s.Mirrors = []string{"deb [signed-by=" + s.Keyring + "] " + server.URL + " bookworm main"}
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
