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

	"golang.org/x/sys/unix"
)

const otherUUID = "99999999-2222-4333-8444-555555555555"

// A patched file system is what a new one of the changed tree would be, to fsck and
// to whoever reads it, and nothing of what was removed is left in it.
func TestPatchExt4(t *testing.T) {
	dir := tree(t, false)
	secret := bytes.Repeat([]byte("what was removed "), 3000)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "secret"), secret, 0o600),
		os.MkdirAll(filepath.Join(dir, "old/sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "old/sub/x"), []byte("x"), 0o600),
		os.Mkdir(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/twice"), []byte("1"), 0o600),
		os.Link(filepath.Join(dir, "etc/twice"), filepath.Join(dir, "etc/named")),
	); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), `a "source"`)
	text := bytes.Repeat([]byte("new content\n"), 5000)
	if err := os.WriteFile(source, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	p := Patch{UUID: otherUUID, Epoch: epoch,
		Remove: []Removed{{"/old/sub/x", false}, {"/old/sub", true}, {"/old", true}, {"/secret", false}, {"/etc/twice", false}, {"/f7", false}},
		Make: []Made{
			{Path: "/etc", Mode: unix.S_IFDIR | 0o2750, UID: 7, GID: 70_000, Mtime: epoch - 5, Exists: true},
			{Path: "/etc/a b", Mode: unix.S_IFREG | 0o4711, UID: 70_001, GID: 3, Mtime: epoch - 9, Source: source, Xattrs: map[string][]byte{"user.note": []byte("v\x00w")}},
			{Path: `/etc/say "so"`, Mode: unix.S_IFLNK | 0o777, Mtime: epoch - 8, Link: "../a b"},
			{Path: "/etc/new", Mode: unix.S_IFDIR | 0o700, Mtime: epoch - 7},
			{Path: "/etc/new/one", Mode: unix.S_IFREG | 0o644, Mtime: epoch - 6, Source: source, Names: 2},
			{Path: "/etc/new/two", Mode: unix.S_IFREG | 0o644, Mtime: epoch - 6, SameAs: "/etc/new/one", Names: 2},
			{Path: "/etc/pipe", Mode: unix.S_IFIFO | 0o600, Mtime: epoch},
			{Path: "/f7", Mode: unix.S_IFREG | 0o644, Mtime: epoch, Source: source},
		},
	}
	var images [2][]byte
	var image string
	for i := range images {
		work := t.TempDir()
		image = filepath.Join(work, "root.ext4")
		if err := WriteExt4(t.Context(), log, image, Ext4{Tree: dir, UUID: "11111111-2222-4333-8444-555555555555", Size: 64 << 20, Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
		if i == 0 && !bytes.Contains(read(t, image), secret[:60]) {
			t.Fatal("the file that is to be removed is not in the image")
		}
		if err := PatchExt4(t.Context(), log, image, work, p); err != nil {
			t.Fatal(err)
		}
		images[i] = read(t, image)
		time.Sleep(1100 * time.Millisecond)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("one patch of one file system gives two")
	}
	if bytes.Contains(images[0], secret[:60]) {
		t.Error("what was removed is still in the image")
	}
	// As on each boot: it must find nothing to look for, and say "clean" of a system
	// that is large enough to have a copy of its superblock.
	if out := run(t, "dumpe2fs", image); !strings.Contains(out, "Backup superblock at") {
		t.Fatalf("the file system has no copy of its superblock: %s", out)
	}
	if out := run(t, "e2fsck", "-p", image); !strings.Contains(out, ": clean, ") {
		t.Errorf("e2fsck -p: %s", out)
	}
	run(t, "e2fsck", "-fn", image)
	if out := run(t, "blkid", "-p", image); !strings.Contains(out, `UUID="`+otherUUID+`"`) {
		t.Errorf("blkid: %s", out)
	}
	for path, wants := range map[string][]string{
		`"/etc"`:            {"Type: directory", "Mode:  02750", "User:     7   Group: 70000", "mtime: 0x%08x", "-5"},
		`"/etc/a b"`:        {"Type: regular", "Mode:  04711", "User: 70001   Group:     3", "Size: 60000", "Links: 1", "-9"},
		`"/etc/new/two"`:    {"Links: 2", "Mode:  0644", "Size: 60000"},
		`"/etc/pipe"`:       {"Type: FIFO", "Mode:  0600"},
		`"/etc/named"`:      {"Links: 1", "Size: 1"},
		`"/f7"`:             {"Size: 60000"},
		`"/etc/say ""so"""`: {`Fast link dest: "../a b"`, "-8"},
	} {
		stat := run(t, "debugfs", "-R", "stat "+path, image)
		for _, want := range wants {
			if before, ok := strings.CutPrefix(want, "-"); ok {
				var n int
				fmt.Sscan(before, &n)
				want = fmt.Sprintf("mtime: 0x%08x", epoch-n)
			} else if strings.Contains(want, "%") {
				continue
			}
			if !strings.Contains(stat, want) {
				t.Errorf("%s: no %q in %s", path, want, stat)
			}
		}
		for _, field := range []string{"ctime", "atime", "crtime"} {
			if want := fmt.Sprintf("%s: 0x%08x", field, epoch); !strings.Contains(stat, want) {
				t.Errorf("%s: no %q in %s", path, want, stat)
			}
		}
	}
	dump := filepath.Join(t.TempDir(), "dump")
	run(t, "debugfs", "-R", fmt.Sprintf(`dump "/etc/a b" %s`, dump), image)
	if !bytes.Equal(read(t, dump), text) {
		t.Error("the new file has another content")
	}
	if out := run(t, "debugfs", "-R", `ea_get -x "/etc/a b" user.note`, image); !strings.Contains(out, "76 00 77") {
		t.Errorf("ea_get: %s", out)
	}
	for _, gone := range []string{"/old", "/secret", "/etc/twice"} {
		if out := run(t, "debugfs", "-R", "stat "+gone, image); !strings.Contains(out, "not found") {
			t.Errorf("%s is there: %s", gone, out)
		}
	}
}

func TestPatchExt4Refuses(t *testing.T) {
	log, dir := slog.New(slog.DiscardHandler), t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("x"), 60<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	regular := func(path, source string) []Made {
		return []Made{{Path: path, Mode: unix.S_IFREG | 0o644, Source: source}}
	}
	for name, c := range map[string]struct {
		patch Patch
		want  string
	}{
		"nothing to remove": {Patch{Remove: []Removed{{"/nosuch", false}}}, "not found"},
		"folder not empty":  {Patch{Remove: []Removed{{"/full", true}}}, "not empty"},
		"no source":         {Patch{Make: regular("/x", "/nowhere")}, "/nowhere"},
		"line feed":         {Patch{Make: regular("/x\nrm /f1", big)}, "line feed"},
		"carriage return":   {Patch{Make: regular("/x\rrm /f1", big)}, "cannot be told"},
		"device":            {Patch{Make: []Made{{Path: "/dev/x", Mode: unix.S_IFBLK | 0o600}}}, "has no place"},
		"no room":           {Patch{Make: regular("/x", big)}, ErrTooSmall.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			from := tree(t, false)
			if err := os.MkdirAll(filepath.Join(from, "full/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(t.TempDir(), "root.ext4")
			if err := WriteExt4(t.Context(), log, image, Ext4{Tree: from, UUID: otherUUID, Size: 64 << 20, Epoch: epoch}); err != nil {
				t.Fatal(err)
			}
			c.patch.UUID, c.patch.Epoch = otherUUID, epoch
			err := PatchExt4(t.Context(), log, image, t.TempDir(), c.patch)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("PatchExt4() = %v, want an error that says %q", err, c.want)
			}
		})
	}
}

func TestFreeBlocks(t *testing.T) {
	got, size, err := freeBlocks("Free blocks:              23\nBlock size:               4096\nGroup 0: (Blocks 0-2)\n  Free blocks: 14-18, 20\nGroup 1:\n  Free blocks: \n")
	if want := "[{14 18} {20 20}]"; err != nil || fmt.Sprint(got) != want || size != 4096 {
		t.Errorf("freeBlocks() = %v, %d, %v, want %s of 4096", got, size, err, want)
	}
	for _, bad := range []string{"", "Block size: x\n", "Block size: 4096\n", "Block size: 4096\n  Free blocks: a-b\n"} {
		if got, _, err := freeBlocks(bad); err == nil {
			t.Errorf("freeBlocks(%q) = %v, want an error", bad, got)
		}
	}
}
