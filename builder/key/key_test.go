package key

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// out runs a tool and returns what it prints.
func out(t *testing.T, argv ...string) string {
	t.Helper()
	b, err := exec.Command(program(argv[0]), argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, b)
	}
	return string(b)
}

// TestNew asks e2fsprogs and cryptsetup what they think of a new key device.
func TestNew(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	image := filepath.Join(dir, "key.img")
	if err := New(ctx, quiet, image, []string{"phi-data", "archive"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(image)
	if err != nil || info.Mode() != 0o600 || info.Size() != imageKiB<<10 {
		t.Errorf("image has mode %v and %d bytes, %v, want -rw------- and %d", info.Mode(), info.Size(), err, imageKiB<<10)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the folder holds %v, want the image only", names)
	}
	out(t, "e2fsck", "-fn", image)
	if s := out(t, "dumpe2fs", "-h", image); !strings.Contains(s, "Filesystem volume name:   WARD-KEY\n") || strings.Contains(s, "has_journal") {
		t.Errorf("dumpe2fs says %s, want the label WARD-KEY and no journal", s)
	}
	var keys [][]byte
	for _, name := range []string{"phi-data.key", "archive.key"} {
		s := out(t, "debugfs", "-R", "stat "+name, image)
		for _, want := range []string{"Type: regular", "Mode:  0400", "User:     0   Group:     0", "Size: 64"} {
			if !strings.Contains(s, want) {
				t.Errorf("debugfs stat %s says %s, want %s", name, s, want)
			}
		}
		file := filepath.Join(t.TempDir(), name)
		out(t, "debugfs", "-R", "dump "+name+" "+file, image)
		key, err := os.ReadFile(file)
		if err != nil || len(key) != Size {
			t.Fatalf("%s has %d bytes, %v, want %d", name, len(key), err, Size)
		}
		keys = append(keys, key)
	}
	if bytes.Equal(keys[0], keys[1]) || bytes.Equal(keys[0], make([]byte, Size)) {
		t.Error("the two keys are the same, or nothing")
	}
	if err := Check(ctx, quiet, image, []string{"phi-data", "archive"}); err != nil {
		t.Errorf("Check() = %v, want nil", err)
	}

	// A volume made with the key opens with it, and not with the other one.
	volume := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(volume, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(volume, 24<<20); err != nil {
		t.Fatal(err)
	}
	file := func(key []byte) string {
		f := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(f, key, 0o400); err != nil {
			t.Fatal(err)
		}
		return f
	}
	out(t, "cryptsetup", "-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", file(keys[0]), volume)
	out(t, "cryptsetup", "open", "--test-passphrase", "--key-file", file(keys[0]), volume)
	b, err := exec.Command(program("cryptsetup"), "open", "--test-passphrase", "--key-file", file(keys[1]), volume).CombinedOutput()
	if err == nil || !strings.Contains(string(b), "No key available") {
		t.Errorf("the other key: %v, %s, want an error that says no key is available", err, b)
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken.img")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "link.img")
	if err := os.Symlink("/nowhere/at/all", dangling); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		volumes    []string
		want       string
	}{
		{"taken", taken, []string{"phi-data"}, "exists and is not replaced: a lost key cannot be made again"},
		{"link", dangling, []string{"phi-data"}, "exists and is not replaced"},
		{"no folder", filepath.Join(dir, "no", "key.img"), []string{"phi-data"}, "does not exist"},
		{"no volume", filepath.Join(dir, "key.img"), nil, "no volume is named"},
		{"path", filepath.Join(dir, "key.img"), []string{"../x"}, `volume "../x": want a letter`},
		{"command", filepath.Join(dir, "key.img"), []string{"x\nrm"}, "want a letter"},
		{"twice", filepath.Join(dir, "key.img"), []string{"a", "a"}, `volume "a" is named twice`},
	} {
		if err := New(context.Background(), quiet, tt.file, tt.volumes); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: New() = %v, want %s", tt.name, err, tt.want)
		}
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "precious" {
		t.Errorf("the file that was there is %q, %v, want it untouched", b, err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("the folder holds %v, want nothing new", names)
	}
}

// TestNewFails: when a tool fails half way, neither image nor key stays behind.
func TestNewFails(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho 'debugfs 1.47.0 (5-Feb-2023)' >&2\necho 'write: No space left on device' >&2\n"
	if err := os.WriteFile(filepath.Join(bin, "debugfs"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	err := New(context.Background(), quiet, filepath.Join(dir, "key.img"), []string{"phi-data"})
	if err == nil || err.Error() != "volume phi-data: debugfs: write: No space left on device" {
		t.Errorf("New() = %v, want an error that says what debugfs said", err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("the folder holds %v, want nothing", names)
	}
}

func TestCheckRefuses(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	// device makes an image whose phi-data.key has the given bytes.
	device := func(name, label string, key []byte) string {
		src := t.TempDir()
		if key != nil {
			if err := os.WriteFile(filepath.Join(src, "phi-data.key"), key, 0o400); err != nil {
				t.Fatal(err)
			}
		}
		image := filepath.Join(dir, name)
		out(t, "mke2fs", "-q", "-F", "-t", "ext2", "-L", label, "-d", src, image, "1m")
		return image
	}
	file := func(name string, content []byte) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	good := bytes.Repeat([]byte("0123456789abcdef"), 4)
	for _, tt := range []struct{ name, image, want string }{
		{"no file", filepath.Join(dir, "nowhere.img"), "nowhere.img: there is no such file\nhint: ward key new FILE"},
		{"empty file", file("empty.img", nil), "empty.img: is empty (0 bytes)\nhint: ward key new FILE"},
		{"bare key", file("bare.key", good), "is a bare key file, not an image of a key device"},
		{"something else", file("text.img", bytes.Repeat([]byte("x"), 4096)), "holds no ext4 or FAT file system"},
		{"other label", device("label.img", "BACKUP", good), `is labelled "BACKUP", want WARD-KEY`},
		{"no key", device("none.img", "WARD-KEY", nil), "phi-data.key: there is no such file on it"},
		{"empty key", device("zero.img", "WARD-KEY", []byte{}), "phi-data.key: is empty (0 bytes)\nhint: the key was never written"},
		{"short key", device("short.img", "WARD-KEY", []byte("hunter2")), "phi-data.key: has 7 bytes, want 32 to 8192"},
		{"long key", device("long.img", "WARD-KEY", bytes.Repeat([]byte("k"), 9000)), "phi-data.key: has 9000 bytes, want 32 to 8192"},
		{"blank key", device("blank.img", "WARD-KEY", make([]byte, 64)), "phi-data.key: holds the same byte again and again"},
	} {
		err := Check(ctx, quiet, tt.image, []string{"phi-data"})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: Check() = %v, want %s", tt.name, err, tt.want)
		}
	}
	if err := Check(ctx, quiet, device("good.img", "WARD-KEY", good), []string{"phi-data"}); err != nil {
		t.Errorf("Check(good) = %v, want nil", err)
	}
	// A memory stick from another computer is FAT.
	stick := file("stick.img", make([]byte, 1<<20))
	out(t, "mkfs.vfat", "-n", "WARD-KEY", stick)
	out(t, "mcopy", "-i", stick, file("k", good), "::phi-data.key")
	if err := Check(ctx, quiet, stick, []string{"phi-data"}); err != nil {
		t.Errorf("Check(FAT) = %v, want nil", err)
	}
	if err := Check(ctx, quiet, stick, []string{"archive"}); err == nil || !strings.Contains(err.Error(), "archive.key: mcopy: ") {
		t.Errorf("Check(FAT, archive) = %v, want an error of mcopy", err)
	}
}
