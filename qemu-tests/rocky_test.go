package qemutests

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"ward/builder/vm"
	"ward/qemu-tests/lookalike/rpm"
)

// rockyRed is what only Rocky's own packages have: the look-alike brings no policy.
var rockyRed = map[string]string{"kernel: mandatory access control": "SELinux is off"}

// TestLookalikeRocky builds Rocky 9's image, unchanged but for where its packages
// come from, from a repository in Rocky's shape, boots it and grades it as ward test
// does. What is in the packages is Debian's.
func TestLookalikeRocky(t *testing.T) {
	if err := vm.Missing(); err != nil {
		cannot(t, "%v", err)
	}
	if os.Geteuid() != 0 {
		cannot(t, "the repository is made as root")
	}
	a, err := rpm.MakeIn(t.Context(), slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(a.Dir)))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "rocky.yaml")
	if err := rpm.WriteImage(file, server.URL, a.Keyring); err != nil {
		t.Fatal(err)
	}
	i := bake(t, file, plain)
	if i.Manifest.Image != rpm.Image {
		t.Fatalf("the image is %q", i.Manifest.Image)
	}
	graded(t, i, nil, rockyRed)
}
