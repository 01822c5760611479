package drill

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// put makes a file and returns its node, as restic would list it.
func put(t *testing.T, root, path, content string, mtime time.Time) node {
	t.Helper()
	name := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, mtime, mtime); err != nil {
		t.Fatal(err)
	}
	return node{Struct: "node", Type: "file", Path: path, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Size: int64(len(content)), Mode: 0o640, MTime: mtime}
}

func TestCompare(t *testing.T) {
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	taken := old.Add(time.Minute)
	for _, c := range []struct {
		name        string
		change      func(t *testing.T, scratch, live string)
		changed     int
		differences string
	}{
		{"equal", func(*testing.T, string, string) {}, 0, ""},
		{"written since", func(t *testing.T, _, live string) { put(t, "/", live+"/a", "newer", time.Now()) }, 1, ""},
		{"removed since", func(t *testing.T, _, live string) { os.Remove(live + "/a") }, 1, ""},
		{"other bytes", func(t *testing.T, scratch, live string) { put(t, scratch, live+"/a", "ONE", old) }, 0, "bytes differ"},
		{"shorter", func(t *testing.T, scratch, live string) { put(t, scratch, live+"/a", "o", old) }, 0, "restored with 1 bytes, was 3"},
		{"not restored", func(t *testing.T, scratch, live string) { os.Remove(filepath.Join(scratch, live, "a")) }, 0, "not restored"},
		{"mode", func(t *testing.T, scratch, live string) { os.Chmod(filepath.Join(scratch, live, "a"), 0o644) }, 0, "restored with mode -rw-r--r--, was -rw-r-----"},
	} {
		t.Run(c.name, func(t *testing.T) {
			live, scratch := t.TempDir(), t.TempDir()
			tree := []node{put(t, "/", live+"/a", "one", old), put(t, "/", live+"/sub/b", "two", old)}
			put(t, scratch, live+"/a", "one", old)
			put(t, scratch, live+"/sub/b", "two", old)
			c.change(t, scratch, live)
			got, err := compare(scratch, live, tree, taken)
			if err != nil {
				t.Fatal(err)
			}
			if got.changed != c.changed {
				t.Errorf("changed = %d, want %d", got.changed, c.changed)
			}
			all := strings.Join(got.differences, "\n")
			if c.differences == "" && all != "" || !strings.Contains(all, c.differences) {
				t.Errorf("differences = %q, want %q", all, c.differences)
			}
		})
	}
}

func TestCompareNothing(t *testing.T) {
	_, err := compare(t.TempDir(), "/var/data/phi", []node{{Path: "/elsewhere", Type: "dir"}}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "nothing of /var/data/phi") {
		t.Errorf("compare() = %v, want an error that the snapshot has nothing of it", err)
	}
}

func TestReadTree(t *testing.T) {
	for _, c := range []struct{ name, out, err string }{
		{"empty", `{"struct_type":"snapshot"}`, "is empty"},
		{"climbs", `{"struct_type":"node","path":"/a/../../etc"}`, `has the path "/a/../../etc"`},
		{"relative", `{"struct_type":"node","path":"etc"}`, `has the path "etc"`},
		{"cut", `{"struct_type":"no`, "read the tree"},
	} {
		if _, err := readTree(c.out, nil); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: readTree() = %v, want an error with %q", c.name, err, c.err)
		}
	}
}

func TestRecovery(t *testing.T) {
	for _, c := range []struct {
		took       time.Duration
		done, live int64
		want       time.Duration
	}{
		{time.Minute, 100, 100, time.Minute},
		{time.Minute, 100, 1000, 10 * time.Minute},
		{time.Minute, 100, 10, time.Minute},
		{time.Minute, 0, 10, time.Minute},
	} {
		if got := recovery(c.took, c.done, c.live); got != c.want {
			t.Errorf("recovery(%v, %d, %d) = %v, want %v", c.took, c.done, c.live, got, c.want)
		}
	}
}

func TestRoom(t *testing.T) {
	if err := room(t.TempDir(), 1); err != nil {
		t.Errorf("room(1 byte) = %v", err)
	}
	if err := room(t.TempDir(), 1<<60); err == nil || !strings.Contains(err.Error(), "the drill needs") {
		t.Errorf("room(2^60 bytes) = %v, want an error that says what the drill needs", err)
	}
}
