package disks

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sgdisk makes a disk of 8 MiB with two partitions by the usual tool.
func sgdisk(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sgdisk", "--clear",
		"--new=1:2048:4095", "--typecode=1:4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "--change-name=1:root", "--partition-guid=1:0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d01",
		"--new=3:4096:8191", "--typecode=3:5d4f1c0e-7a52-4c0b-9b56-77617264504d", "--change-name=3:phi-däta", "--partition-guid=3:7c1d9a52-52a1-4a6f-9f0e-8d5b7a3c6e02",
		path).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk: %v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadGPT(t *testing.T) {
	parts, err := readGPT(bytes.NewReader(sgdisk(t)), 512)
	if err != nil {
		t.Fatal(err)
	}
	want := []Partition{
		{1, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d01", "root"},
		{3, "5d4f1c0e-7a52-4c0b-9b56-77617264504d", "7c1d9a52-52a1-4a6f-9f0e-8d5b7a3c6e02", "phi-däta"},
	}
	if len(parts) != 2 || parts[0] != want[0] || parts[1] != want[1] {
		t.Errorf("readGPT = %+v, want %+v", parts, want)
	}
}

func TestReadGPTRefuses(t *testing.T) {
	good := sgdisk(t)
	for _, c := range []struct {
		name   string
		change func([]byte)
		want   string
	}{
		{"no table", func(b []byte) { clear(b[512:1024]) }, "no GUID partition table"},
		{"header changed", func(b []byte) { b[512+24]++ }, "the header's checksum"},
		{"entry changed", func(b []byte) { b[1024]++ }, "the checksum of the entries"},
		{"size of the header", func(b []byte) { binary.LittleEndian.PutUint32(b[512+12:], 4096) }, "header of 4096 bytes"},
	} {
		b := bytes.Clone(good)
		c.change(b)
		if _, err := readGPT(bytes.NewReader(b), 512); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: readGPT = %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := readGPT(bytes.NewReader(good), 100); err == nil || !strings.Contains(err.Error(), "logical block size 100") {
		t.Errorf("readGPT with blocks of 100 bytes = %v, want an error that says so", err)
	}
	if _, err := readGPT(bytes.NewReader(good[:600]), 512); !errors.Is(err, errNoGPT) {
		t.Errorf("readGPT of 600 bytes = %v, want %v", err, errNoGPT)
	}
}

// mkfs makes file systems with the usual tools and returns their first bytes.
func mkfs(t testing.TB, argv ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(path, make([]byte, 34<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(argv[0], append(argv[1:], path)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", argv[0], err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data[:70<<10]
}

func TestReadSuperblock(t *testing.T) {
	const id = "01234567-89ab-4cde-8f01-23456789abcd"
	for _, c := range []struct {
		name string
		data []byte
		want Superblock
	}{
		{"ext4", mkfs(t, "mke2fs", "-q", "-t", "ext4", "-L", "WARD-KEY", "-U", id), Superblock{"ext4", "WARD-KEY", id}},
		{"ext2", mkfs(t, "mke2fs", "-q", "-t", "ext2", "-L", "sixteen-letters.", "-U", id), Superblock{"ext4", "sixteen-letters.", id}},
		{"FAT12", mkfs(t, "mkfs.fat", "-F", "12", "-n", "WARD-KEY", "-i", "CAFE0123"), Superblock{"vfat", "WARD-KEY", "CAFE-0123"}},
		{"FAT16", mkfs(t, "mkfs.fat", "-F", "16", "-n", "WARD-KEY", "-i", "CAFE0123"), Superblock{"vfat", "WARD-KEY", "CAFE-0123"}},
		{"FAT32", mkfs(t, "mkfs.fat", "-F", "32", "-i", "CAFE0123"), Superblock{"vfat", "", "CAFE-0123"}},
		{"LUKS2", mkfs(t, "cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--uuid", id, "--key-file", "/proc/self/exe", "--keyfile-size", "64"), Superblock{"crypto_LUKS", "", id}},
		{"nothing", make([]byte, 70<<10), Superblock{}},
		{"too short", make([]byte, 100), Superblock{}},
	} {
		got, err := readSuperblock(bytes.NewReader(c.data))
		if err != nil || got != c.want {
			t.Errorf("%s: readSuperblock = %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestLabelIsPrintable(t *testing.T) {
	if got := text([]byte("a\x1b[2J\nb\x00c")); got != "a?[2J?b" {
		t.Errorf("text = %q, want control characters replaced", got)
	}
}

func TestParseUevent(t *testing.T) {
	e, ok := parseUevent([]byte("add@/devices/x/block/vda\x00ACTION=add\x00DEVPATH=/devices/x/block/vda\x00SUBSYSTEM=block\x00"))
	if !ok || e.Action != "add" || e.Env["SUBSYSTEM"] != "block" {
		t.Errorf("parseUevent = %+v, %v", e, ok)
	}
	// libudev's messages have another header and are not the kernel's.
	for _, bad := range []string{"", "libudev\x00\xfe\xed\xca\xfe", "add@/x", "add@/x\x00SUBSYSTEM=block\x00"} {
		if _, ok := parseUevent([]byte(bad)); ok {
			t.Errorf("parseUevent(%q) is taken for an event", bad)
		}
	}
}

// fake makes a /sys and a /dev with one disk of two partitions.
func fake(t *testing.T) *Set {
	t.Helper()
	dir := t.TempDir()
	s := New(slog.New(slog.DiscardHandler))
	s.sys, s.dev = filepath.Join(dir, "sys"), filepath.Join(dir, "dev")
	disk := filepath.Join(s.sys, "devices/pci/block/vda")
	files := map[string]string{
		disk + "/dev": "254:0\n", disk + "/queue/logical_block_size": "512\n",
		disk + "/vda1/dev": "254:1\n", disk + "/vda1/partition": "1\n",
		disk + "/vda3/dev": "254:3\n", disk + "/vda3/partition": "3\n",
		s.dev + "/vda": string(sgdisk(t)), s.dev + "/vda1": string(make([]byte, 8192)),
		s.dev + "/vda3": string(mkfs(t, "mke2fs", "-q", "-t", "ext2", "-L", "inside")),
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	class := filepath.Join(s.sys, "class/block")
	if err := os.MkdirAll(class, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"vda": "vda", "vda1": "vda/vda1", "vda3": "vda/vda3"} {
		if err := os.Symlink("../../devices/pci/block/"+to, filepath.Join(class, link)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestScan(t *testing.T) {
	s := fake(t)
	s.Scan()
	found := s.Find(func(b Block) bool { return b.PartUUID == "7c1d9a52-52a1-4a6f-9f0e-8d5b7a3c6e02" })
	if len(found) != 1 {
		t.Fatalf("Find = %+v, want one partition", found)
	}
	b := found[0]
	if b.Name != "vda3" || b.Disk != "vda" || b.Major != 254 || b.Minor != 3 || b.PartLabel != "phi-däta" || b.Label != "inside" || b.FS != "ext4" {
		t.Errorf("block is %+v", b)
	}
	if all := s.Find(func(Block) bool { return true }); len(all) != 3 {
		t.Errorf("%d devices are known, want 3: %+v", len(all), all)
	}
}

func TestSettle(t *testing.T) {
	s := fake(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Settle(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Settle before anything was probed = %v, want %v", err, context.DeadlineExceeded)
	}
	// A device that cannot be read counts as looked at.
	if err := os.Remove(filepath.Join(s.dev, "vda1")); err != nil {
		t.Fatal(err)
	}
	go s.Scan()
	if err := s.Settle(t.Context()); err != nil {
		t.Errorf("Settle = %v, want nil", err)
	}
	if all := s.Find(func(Block) bool { return true }); len(all) != 2 {
		t.Errorf("%d devices are known, want the 2 that can be read", len(all))
	}
}

func TestWait(t *testing.T) {
	s := fake(t)
	byName := func(b Block) bool { return b.Name == "vda3" }
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, byName); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait without the device = %v, want %v", err, context.DeadlineExceeded)
	}
	got := make(chan []Block)
	go func() {
		found, _ := s.Wait(t.Context(), byName)
		got <- found
	}()
	event := func(action string) {
		s.handle(Event{Action: action, Env: map[string]string{"SUBSYSTEM": "block", "DEVPATH": "/devices/pci/block/vda/vda3"}})
	}
	event("add")
	if found := <-got; len(found) != 1 || found[0].Name != "vda3" {
		t.Errorf("Wait = %+v, want vda3", found)
	}
	event("remove")
	if found := s.Find(byName); len(found) != 0 {
		t.Errorf("Find after removal = %+v, want none", found)
	}
}

func TestListenerHearsTheKernel(t *testing.T) {
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Any device that can be asked to announce itself again.
	const file = "/sys/class/mem/null/uevent"
	if err := os.WriteFile(file, []byte("change"), 0); err != nil {
		t.Fatalf("%v: this test needs root, as the rest of the tests with devices", err)
	}
	e, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	if e.Env["DEVNAME"] != "null" && e.Env["DEVPATH"] == "" {
		t.Errorf("Next = %+v", e)
	}
}

func FuzzGPT(f *testing.F) {
	good := sgdisk(f)[:20<<10]
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, err := readGPT(bytes.NewReader(data), 512)
		if err == nil && len(parts) > maxEntries {
			t.Errorf("%d partitions", len(parts))
		}
		// Past the checksums, which chance does not get right.
		if len(data) >= 2048 {
			_ = guid(data[:16])
			_ = utf16Name(data[:72])
		}
	})
}

func FuzzSuperblock(f *testing.F) {
	f.Add(mkfs(f, "mke2fs", "-q", "-t", "ext4", "-L", "WARD-KEY")[:4096])
	f.Add(mkfs(f, "mkfs.fat", "-n", "WARD-KEY")[:4096])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := readSuperblock(bytes.NewReader(data))
		if err == nil && strings.ContainsAny(s.Label+s.UUID, "\n\x1b\x00") {
			t.Errorf("label %q, UUID %q hold control characters", s.Label, s.UUID)
		}
	})
}

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/x\x00ACTION=add\x00DEVPATH=/x\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, ok := parseUevent(data); ok && (e.Action == "" || e.Env["DEVPATH"] == "") {
			t.Errorf("event %+v", e)
		}
	})
}
