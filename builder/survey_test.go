package builder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder/cache"
	"ward/builder/secrets"
)

// A file that is known is not read, every other one is, and each is judged by name.
func TestSurveyReadsWhatIsNotKnown(t *testing.T) {
	dir := tree(t)
	key := "-----BEGIN " + "PRIVATE KEY-----\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "usr/old.pem"), []byte(key), 0o600),
		os.WriteFile(filepath.Join(dir, "usr/new.pem"), []byte(key), 0o600),
		os.MkdirAll(filepath.Join(dir, "root/.ssh"), 0o700),
		os.WriteFile(filepath.Join(dir, "root/.ssh/authorized_keys"), []byte("x"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	s, err := surveyTree(t.Context(), dir, true, func(path string, _ fs.FileInfo) (string, bool) {
		return map[string]string{"/usr/old.pem": "00", "/root/.ssh/authorized_keys": "01"}[path], true
	})
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.secrets()
	if err != nil {
		t.Fatal(err)
	}
	got := secrets.Refuse(found).Error()
	for _, want := range []string{"would hold 2 secrets", "/usr/new.pem:1: private key", "/root/.ssh/authorized_keys: SSH file of root"} {
		if !strings.Contains(got, want) {
			t.Errorf("the gate says %q, want %q in it", got, want)
		}
	}
	want, err := cache.Sum(filepath.Join(dir, "usr/bin/su"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range s {
		if e.path == "/usr/bin/su" && e.sum != want || e.path == "/usr/old.pem" && e.sum != "00" {
			t.Errorf("%s has digest %s", e.path, e.sum)
		}
	}
}

func TestSurveyRefusesAnEmptyTree(t *testing.T) {
	s, err := surveyTree(t.Context(), t.TempDir(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.secrets(); err == nil || !strings.Contains(err.Error(), "no files") {
		t.Errorf("secrets() = %v, want an error: a gate that looked at nothing has not passed anything", err)
	}
}

// The digest of a tree changes with whatever an image would get from it.
func TestTreeDigest(t *testing.T) {
	dir := tree(t)
	digest := func(suspects ...string) string {
		t.Helper()
		s, err := surveyTree(t.Context(), dir, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return treeDigest(s, suspects)
	}
	su := filepath.Join(dir, "usr/bin/su")
	before := digest()
	if digest() != before {
		t.Error("the same tree has two digests")
	}
	if digest("/usr/bin/su") == before {
		t.Error("the suspects are not in the digest")
	}
	for what, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(su, []byte("Program"), 0o755) },
		"mode":    func() error { return os.Chmod(su, 0o700) },
		"link":    func() error { return errors.Join(os.Remove(dir+"/bin"), os.Symlink("usr", dir+"/bin")) },
		"file":    func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		after := digest()
		if after == before {
			t.Errorf("%s: the digest stays as it was", what)
		}
		before = after
	}
}

// Only a file below of the same name and size that our layer does not have is
// unchanged, and none that was suspect.
func TestUnchanged(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	for _, name := range []string{"same", "changed", "suspect", "longer"} {
		if err := os.WriteFile(filepath.Join(lower, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(upper, "changed"), []byte("CHANGED"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bake{upper: upper, facts: treeFacts{Suspects: []string{"/suspect"}}}
	b.lower = begin(func() (survey, error) { return surveyTree(t.Context(), lower, false, nil) })
	known := b.unchanged()
	for path, want := range map[string]bool{"/same": true, "/changed": false, "/suspect": false, "/longer": false, "/new": false} {
		name := filepath.Join(lower, path)
		if path == "/longer" {
			name = filepath.Join(lower, "same")
		}
		info, err := os.Lstat(name)
		if path == "/new" {
			info, err = os.Lstat(filepath.Join(lower, "same"))
		}
		if err != nil {
			t.Fatal(err)
		}
		if sum, ok := known(path, info); ok != want || ok && sum == "" {
			t.Errorf("unchanged(%s) = %q, %v, want %v", path, sum, ok, want)
		}
	}
	if b.upper = ""; b.unchanged() != nil {
		t.Error("a copied tree has files that are taken for unchanged")
	}
}
