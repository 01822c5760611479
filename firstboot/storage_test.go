package firstboot

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/ignition/v2/config/v3_5/types"
)

var noLookups = lookups{
	user:  func(string) (int, error) { return os.Getuid(), nil },
	group: func(string) (int, error) { return os.Getgid(), nil },
}

func apply(t *testing.T, root *os.Root, config string) error {
	t.Helper()
	c, err := ParseConfig([]byte(config), mounts)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStorage(root, c.ign, noLookups)
	if err != nil {
		t.Fatal(err)
	}
	return s.apply(t.Context(), c, func(types.Node) bool { return true })
}

func TestStorage(t *testing.T) {
	root, dir := openRoot(t)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprint(w, "packed text")
	w.Close()
	sum := sha256.Sum256([]byte("packed text"))
	config := fmt.Sprintf(`{"ignition":{"version":"3.5.0"},"storage":{
		"directories":[{"path":"/etc/clinic","mode":488}],
		"files":[
			{"path":"/etc/clinic/a","mode":416,"contents":{"source":"data:,text"}},
			{"path":"/etc/clinic/z","contents":{"source":"data:;base64,%s","compression":"gzip","verification":{"hash":"sha256-%s"}}},
			{"path":"/deep/er/est","contents":{"source":"data:,"}}],
		"links":[{"path":"/etc/clinic/l","target":"a"},{"path":"/etc/clinic/h","target":"/etc/clinic/a","hard":true}]}}`,
		base64.StdEncoding.EncodeToString(z.Bytes()), hex.EncodeToString(sum[:]))
	const want = `-rw-r--r-- deep/er/est
-rw-r----- etc/clinic/a
-rw-r----- etc/clinic/h
Lrwxrwxrwx etc/clinic/l -> a
-rw-r--r-- etc/clinic/z
-rw------- var/lib/ward/owned.json
`
	for range 2 {
		if err := apply(t, root, config); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); got != want {
			t.Errorf("apply() left\n%s\nwant\n%s", got, want)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/clinic/z")); string(b) != "packed text" {
		t.Errorf("z = %q, want it unpacked", b)
	}
	if st, _ := os.Stat(filepath.Join(dir, "etc/clinic")); st.Mode().Perm() != 0o750 {
		t.Errorf("mode of the directory = %v, want 0750", st.Mode())
	}
	// What ward made before, a new config may change.
	changed := strings.Replace(config, "data:,text", "data:,other", 1)
	if err := apply(t, root, changed); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/clinic/a")); string(b) != "other" {
		t.Errorf("a = %q, want the new text", b)
	}
}

func TestStorageRefuses(t *testing.T) {
	for _, c := range []struct{ name, storage, want string }{
		{"a file that is there", `"files":[{"path":"/etc/there","contents":{"source":"data:,new"}}]`, "exists already with other contents"},
		{"a directory in its place", `"files":[{"path":"/etc/dir","overwrite":true,"contents":{"source":"data:,new"}}]`, "is a directory"},
		{"a file in a directory's place", `"directories":[{"path":"/etc/there"}]`, "is not a directory"},
		{"a link over a file", `"links":[{"path":"/etc/there","target":"x"}]`, "exists already"},
		{"another digest", `"files":[{"path":"/etc/x","contents":{"source":"data:,a","verification":{"hash":"sha256-` + strings.Repeat("0", 64) + `"}}}]`, "the config says 0000"},
		{"broken gzip", `"files":[{"path":"/etc/x","contents":{"source":"data:,a","compression":"gzip"}}]`, "gzip:"},
		{"a way out of the tree", `"files":[{"path":"/etc/out/x","contents":{"source":"data:,a"}}]`, "escapes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, dir := openRoot(t)
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc/dir/sub"), 0o755), os.WriteFile(filepath.Join(dir, "etc/there"), []byte("old"), 0o644),
				os.Symlink(t.TempDir(), filepath.Join(dir, "etc/out"))); err != nil {
				t.Fatal(err)
			}
			err := apply(t, root, `{"ignition":{"version":"3.5.0"},"storage":{`+c.storage+`}}`)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("apply() = %v, want %q in it", err, c.want)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "etc/there")); string(b) != "old" {
				t.Errorf("the file that was there is now %q", b)
			}
		})
	}
}

func TestMode(t *testing.T) {
	n := 0o4755
	if got := modeOf(&n, 0); got != 0o755|os.ModeSetuid {
		t.Errorf("modeOf(04755) = %v, want set-user-ID and 0755", got)
	}
	if got := modeOf(nil, 0o644); got != 0o644 {
		t.Errorf("modeOf(nil) = %v, want 0644", got)
	}
}
