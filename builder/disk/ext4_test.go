package disk

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const epoch = 1_700_000_000

// tree makes the same files in one order or the other.
func tree(t *testing.T, backwards bool) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 300 {
		if backwards {
			i = 299 - i
		}
		name := filepath.Join(dir, fmt.Sprintf("f%d", i))
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*10), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Now(), time.Unix(epoch, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("f1", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	run(t, "touch", "-h", "-d", fmt.Sprintf("@%d", epoch), filepath.Join(dir, "link"), dir)
	return dir
}

func TestWriteExt4DoesNotDependOnTheMoment(t *testing.T) {
	var images [2][]byte
	for i := range images {
		out := filepath.Join(t.TempDir(), "root.ext4")
		err := WriteExt4(t.Context(), slog.New(slog.DiscardHandler), out, Ext4{
			Tree: tree(t, i == 1), UUID: "11111111-2222-4333-8444-555555555555", Size: 64 << 20, Epoch: epoch,
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, "e2fsck", "-fn", out)
		stat := run(t, "debugfs", "-R", "stat f7", out)
		for _, field := range []string{"ctime", "atime", "mtime", "crtime"} {
			if want := fmt.Sprintf("%s: 0x%08x", field, epoch); !strings.Contains(stat, want) {
				t.Errorf("debugfs: no %q in %s", want, stat)
			}
		}
		images[i] = read(t, out)
		time.Sleep(1100 * time.Millisecond) // ext4 times have seconds: the second tree is of another one
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two trees with the same files give two images")
	}
}

func TestWriteExt4SaysThatTheTreeDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("x"), 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err := WriteExt4(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "root.ext4"), Ext4{
		Tree: dir, UUID: "11111111-2222-4333-8444-555555555555", Size: 16 << 20, Epoch: epoch,
	})
	if !errors.Is(err, ErrTooSmall) {
		t.Errorf("WriteExt4() = %v, want %v", err, ErrTooSmall)
	}
}

func TestUsedInodes(t *testing.T) {
	text := "Inode count:              40\nFree inodes:              23\nGroup 0: (Blocks 1-2)\n  Free inodes: 14-18, 20\nGroup 1:\n  Free inodes: 25-40\n"
	got, err := usedInodes(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := "[2 11 12 13 19 21 22 23 24]"; fmt.Sprint(got) != want {
		t.Errorf("usedInodes() = %v, want %s", got, want)
	}
	for _, bad := range []string{"", "Inode count: x\n", "Inode count: 5\n", "Inode count: 5\n  Free inodes: a-b\n"} {
		if got, err := usedInodes(bad); err == nil {
			t.Errorf("usedInodes(%q) = %v, want an error", bad, got)
		}
	}
}
