package builder

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes a small tree with what a listing may meet.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755),
		os.WriteFile(filepath.Join(dir, "usr/bin/su"), []byte("program"), 0o755),
		os.Chmod(filepath.Join(dir, "usr/bin/su"), 0o755|os.ModeSetuid),
		os.WriteFile(filepath.Join(dir, "usr/a name #1=\\é"), nil, 0o600),
		os.Symlink("usr/bin", filepath.Join(dir, "bin")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeListing(t *testing.T, name, dir string) {
	t.Helper()
	s, err := surveyTree(t.Context(), dir, false, nil)
	if err == nil {
		err = s.writeListing(name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// bsdtar reads the listing and finds what is in the tree, with sizes and modes.
func TestListingIsMtree(t *testing.T) {
	bsdtar, err := exec.LookPath("bsdtar")
	if err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, name := tree(t), filepath.Join(t.TempDir(), listingFile)
	writeListing(t, name, dir)
	// From inside the tree: what is in the listing and not there would be named too.
	cmd := exec.Command(bsdtar, "-tvf", name)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("bsdtar: %v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		// drwxr-xr-x  0 0      0           0 Jan  1  1970 ./usr
		f := strings.Fields(line)
		if len(f) < 9 {
			t.Fatalf("bsdtar says %q", line)
		}
		got = append(got, f[0]+" "+f[4]+" "+strings.Join(f[8:], " "))
	}
	want := []string{
		"drwxr-xr-x 0 .", "lrwxrwxrwx 0 ./bin -> usr/bin", "drwxr-xr-x 0 ./usr", `-rw------- 0 ./usr/a name #1=\\é`,
		"drwxr-xr-x 0 ./usr/bin", "-rwsr-xr-x 7 ./usr/bin/su",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("bsdtar reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestListingChangesWithTheTree(t *testing.T) {
	dir, name := tree(t), filepath.Join(t.TempDir(), listingFile)
	list := func() string {
		t.Helper()
		writeListing(t, name, dir)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	su := filepath.Join(dir, "usr/bin/su")
	before := list()
	if !strings.Contains(before, `./usr/a\040name\040\0431\075\134\303\251 type=file mode=0600`) {
		t.Errorf("a name with special characters is not as vis(3) writes it:\n%s", before)
	}
	for _, c := range []struct {
		what   string
		change func() error
	}{
		{"content", func() error { return os.WriteFile(su, []byte("PROGRAM"), 0o755) }},
		{"mode", func() error { return os.Chmod(su, 0o711) }},
		{"name", func() error { return os.Rename(su, su+"do") }},
		{"link", func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "bin")), os.Symlink("usr", filepath.Join(dir, "bin")))
		}},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		after := list()
		if after == before {
			t.Errorf("%s: the listing stays as it was", c.what)
		}
		before = after
	}
}
