package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ward/builder/registry/registrytest"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRegistry(t *testing.T) {
	host, blobs := registrytest.Serve(t)
	ref := "oci+http://" + host + "/ward/debian-12:v1"
	dir := folder(t, map[string]string{"disk.qcow2": "disk", "same": "disk", "manifest.json": "{}", "left": "not pushed"})
	names := []string{"manifest.json", "disk.qcow2", "same"}
	notes := map[string]string{"ward.digest": "d1"}
	if err := Push(t.Context(), ref, Image, dir, names, "2026-11-01T00:00:00Z", notes, nil); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	var mu sync.Mutex
	var told []string
	got, err := Pull(t.Context(), ref, Image, to, func(name string, size int64) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s %d", name, size))
	})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(told); !slices.Equal(told, []string{"disk.qcow2 4", "manifest.json 2", "same 4"}) && !slices.Equal(told, []string{"disk.qcow2 4", "manifest.json 2"}) {
		t.Errorf("told of %q", told)
	}
	if got["ward.digest"] != "d1" {
		t.Errorf("notes %v", got)
	}
	entries, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("pulled %v, want three files", entries)
	}
	for _, name := range names {
		want, err1 := os.ReadFile(filepath.Join(dir, name))
		have, err2 := os.ReadFile(filepath.Join(to, name))
		if err := errors.Join(err1, err2); err != nil || string(want) != string(have) {
			t.Errorf("%s is %q, want %q (%v)", name, have, want, err)
		}
	}
	if _, err := Pull(t.Context(), ref, Entry, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "is a \"application/vnd.ward.image.v1\"") {
		t.Errorf("another kind: %v", err)
	}
	if _, err := Pull(t.Context(), "oci+http://"+host+"/ward/debian-12:v2", Image, t.TempDir(), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such tag: %v, want %v", err, ErrNotFound)
	}

	// One byte changed where the registry keeps it.
	n := 0
	err = filepath.WalkDir(blobs, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && string(data) == "disk" {
			n++
			err = os.WriteFile(path, []byte("disc"), 0o644)
		}
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("changed %d blobs, %v", n, err)
	}
	if _, err := Pull(t.Context(), ref, Image, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a changed blob: %v, want an error about its digest", err)
	}
}

// Names that would leave the folder are refused before anything is fetched.
func TestPullRefusesNames(t *testing.T) {
	host, _ := registrytest.Serve(t)
	dir := folder(t, nil)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "a"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := "oci+http://" + host + "/ward/evil:v1"
	if err := Push(t.Context(), ref, Image, dir, []string{"sub/a"}, "2026-11-01T00:00:00Z", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), ref, Image, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), `"sub/a" is no name`) {
		t.Errorf("Pull() = %v, want an error that names it", err)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		ref    string
		tagged bool
		want   string
	}{
		{"oci://registry.example/ward/debian-12:v1", true, ""},
		{"registry.example/ward/debian-12:v1", true, ""},
		{"oci://registry.example/ward/cache", false, ""},
		{"oci://registry.example/ward/debian-12", true, "has no tag"},
		{"oci://registry.example/ward/cache:v1", false, "has the tag v1"},
		{"oci://registry.example", true, "want oci://HOST/NAME:TAG"},
		{"oci://registry.example/Ward:v1", true, "want oci://HOST/NAME:TAG"},
	} {
		err := Check(c.ref, c.tagged)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Check(%s, %v) = %v, want %q", c.ref, c.tagged, err, c.want)
		}
	}
}
