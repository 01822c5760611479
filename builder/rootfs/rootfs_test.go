package rootfs

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
)

func debian(t *testing.T) distro.Release {
	t.Helper()
	r, err := distro.Find("debian", "12")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A mirror that is down, that has no such release, or that is not signed: the
// real mmdebstrap against a server on loopback.
func TestBootstrapSaysWhatIsWrongWithTheMirror(t *testing.T) {
	unsigned := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/Release") {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n",
			time.Now().UTC().Format(time.RFC1123))
	}))
	defer unsigned.Close()
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "http://" + l.Addr().String()
	l.Close()
	for name, c := range map[string]struct{ mirror, want, hint string }{
		"unsigned": {unsigned.URL, "is not signed", "signed Release"},
		"empty":    {empty.URL, "does not have a Release file", "does not serve this release"},
		"down":     {down, "127.0.0.1", "the mirror is down"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			var transcript bytes.Buffer
			err := Bootstrap(t.Context(), slog.New(slog.DiscardHandler), Spec{
				Release: debian(t), Arch: "amd64", Mirrors: []string{"deb " + c.mirror + " bookworm main"}, Packages: []string{"base-files"}, Epoch: 1,
			}, tree, &transcript, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "\nhint: ") || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("Bootstrap() = %v, want an error that says %q and hints %q\n%s", err, c.want, c.hint, transcript.String())
			}
			if _, err := os.Stat(tree); !os.IsNotExist(err) {
				t.Errorf("half a tree is left: %v", err)
			}
		})
	}
}

func TestBootstrapNamesTheMissingKeyring(t *testing.T) {
	r := debian(t)
	r.Keyring = "/nowhere/keyring.gpg"
	err := Bootstrap(t.Context(), slog.New(slog.DiscardHandler), Spec{Release: r, Arch: "amd64"}, filepath.Join(t.TempDir(), "x.tar"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/keyring.gpg does not exist") || !strings.Contains(err.Error(), "debian-archive-keyring") {
		t.Errorf("Bootstrap() = %v, want an error that names the keyring and its package", err)
	}
}

func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"disk full":      {[]string{"I: x", "tar: ./usr: Cannot write: No space left on device", "E: mmdebstrap failed"}, "free disk space"},
		"apt, disk full": {[]string{"E: Write error - write (28: No space left on device)"}, "Write error - write (28: No space left on device)\nhint: free disk space"},
		"no package":     {[]string{"E: Unable to locate package nosuch"}, "Unable to locate package nosuch\nhint: the release has no such package"},
		"bad hash":       {[]string{"E: Failed to fetch x", "   Hash Sum mismatch"}, "being updated or altered"},
		"unknown":        {[]string{"E: something else"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := explain(c.lines)
			if !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("explain() = %q, want %q in it", got, c.want)
			}
		})
	}
}
