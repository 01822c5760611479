package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/initramfs/handoff"
)

// entry is one partition as sfdisk -J tells of it.
type entry struct {
	Node             string
	Start, Size      int64 // sectors
	Type, UUID, Name string
}

func layout(t *testing.T) Layout {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	root := filepath.Join(dir, "root.ext4")
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree, root, "32M")
	boot := filepath.Join(dir, "boot.efi")
	if err := os.WriteFile(boot, bytes.Repeat([]byte("efi"), 700_000), 0o644); err != nil {
		t.Fatal(err)
	}
	return Layout{
		GUID: "11111111-2222-4333-8444-555555555555",
		ESP: ESP{GUID: "aaaaaaaa-2222-4333-8444-555555555555", Size: 256 << 20, Files: map[string]string{
			"/EFI/BOOT/BOOTX64.EFI": boot, "/EFI/Linux/ward-6.1.0-56-cloud-amd64.efi": boot,
		}},
		Root: Root{GUID: "bbbbbbbb-2222-4333-8444-555555555555", Size: 40 << 20, File: root},
		PHI:  PHI{GUID: "cccccccc-2222-4333-8444-555555555555", Name: "phi-data", Size: 32 << 20},
	}
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// Other tools read every layer of what Write wrote.
func TestWriteIsAcceptedByOtherTools(t *testing.T) {
	t.Run("one PHI volume", func(t *testing.T) { accepted(t, layout(t)) })
	t.Run("three PHI volumes", func(t *testing.T) {
		l := layout(t)
		l.Volumes = []PHI{
			{GUID: "dddddddd-2222-4333-8444-555555555555", Name: "archive", Size: 33<<20 + 512},
			{GUID: "eeeeeeee-2222-4333-8444-555555555555", Name: "images-2", Size: 32 << 20},
		}
		accepted(t, l)
	})
	t.Run("state", func(t *testing.T) { accepted(t, withState(t, layout(t))) })
	t.Run("state and two PHI volumes", func(t *testing.T) {
		l := withState(t, layout(t))
		l.Volumes = []PHI{{GUID: "dddddddd-2222-4333-8444-555555555555", Name: "archive", Size: 33<<20 + 512}}
		accepted(t, l)
	})
}

// withState adds the partition that a verified root has beside it.
func withState(t *testing.T, l Layout) Layout {
	t.Helper()
	file := filepath.Join(t.TempDir(), "state.ext4")
	run(t, "mke2fs", "-q", "-t", "ext4", "-L", "ward-state", file, "16M")
	l.State = Root{GUID: "ffffffff-2222-4333-8444-555555555555", Size: 20 << 20, File: file}
	return l
}

func TestWriteRefusesAFileSystemThatDoesNotFit(t *testing.T) {
	for name, change := range map[string]func(*Layout){
		"root":  func(l *Layout) { l.Root.Size = 31 << 20 },
		"state": func(l *Layout) { l.State.Size = 15 << 20 },
	} {
		l := withState(t, layout(t))
		change(&l)
		err := Write(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "disk.raw"), l)
		if err == nil || !strings.Contains(err.Error(), "disk: "+name+": file system has") {
			t.Errorf("%s: Write() = %v, want that it does not fit", name, err)
		}
	}
}

// accepted asks other tools about a disk with this layout.
func accepted(t *testing.T, l Layout) {
	img := filepath.Join(t.TempDir(), "disk.raw")
	if err := Write(t.Context(), slog.New(slog.DiscardHandler), img, l); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "--verify", img); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk --verify: %s", out)
	}
	var table struct {
		PartitionTable struct {
			ID         string
			Partitions []entry
		}
	}
	if err := json.Unmarshal([]byte(run(t, "sfdisk", "-J", img)), &table); err != nil {
		t.Fatal(err)
	}
	parts := table.PartitionTable.Partitions
	slices.SortFunc(parts, func(a, b entry) int { return int(a.Start - b.Start) })
	// In the order of the disk: root and phi-data, with state between them, are always the last.
	want := []entry{{Node: img + "1", Name: "esp", Type: espType, UUID: l.ESP.GUID, Size: up(l.ESP.Size)}}
	for i, v := range l.Volumes {
		want = append(want, entry{Node: fmt.Sprint(img, 4+i), Name: v.Name, Type: handoff.PHIType, UUID: v.GUID, Size: up(v.Size)})
	}
	rootAt := len(want)
	want = append(want, entry{Node: img + "2", Name: "root", Type: handoff.RootType, UUID: l.Root.GUID, Size: up(l.Root.Size)})
	if l.State.Size > 0 {
		want = append(want, entry{Node: fmt.Sprint(img, 4+len(l.Volumes)), Name: handoff.StateLabel, Type: handoff.StateType, UUID: l.State.GUID, Size: up(l.State.Size)})
	}
	want = append(want, entry{Node: img + "3", Name: "phi-data", Type: handoff.PHIType, UUID: l.PHI.GUID, Size: up(l.PHI.Size)})
	if len(parts) != len(want) {
		t.Fatalf("sfdisk sees %d partitions, want %d", len(parts), len(want))
	}
	end := int64(alignment)
	for i, w := range want {
		w.Start, w.Size, w.Type, w.UUID = end/sector, w.Size/sector, strings.ToUpper(w.Type), strings.ToUpper(w.UUID)
		if parts[i] != w {
			t.Errorf("partition %d of the disk is %+v, want %+v", i+1, parts[i], w)
		}
		end += w.Size * sector
	}
	if info, err := os.Stat(img); err != nil || info.Size() != end+alignment || l.Size() != info.Size() {
		t.Errorf("the disk has %d bytes, Size() = %d, want %d, %v", info.Size(), l.Size(), end+alignment, err)
	}
	cut := func(i int) string {
		file := filepath.Join(t.TempDir(), "part")
		data := read(t, img)
		at := parts[i].Start * sector
		if err := os.WriteFile(file, data[at:at+parts[i].Size*sector], 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	esp := cut(0)
	run(t, "fsck.vfat", "-n", esp)
	if out := run(t, "env", "MTOOLS_SKIP_CHECK=1", "mdir", "-/", "-b", "-i", esp); !strings.Contains(out, "::/EFI/Linux/ward-6.1.0-56-cloud-amd64.efi") {
		t.Errorf("mdir: %s", out)
	}
	copied := filepath.Join(t.TempDir(), "copied")
	run(t, "env", "MTOOLS_SKIP_CHECK=1", "mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", copied)
	if !bytes.Equal(read(t, copied), read(t, l.ESP.Files["/EFI/BOOT/BOOTX64.EFI"])) {
		t.Error("mcopy reads other bytes from the ESP than were written")
	}
	root := cut(rootAt)
	run(t, "e2fsck", "-fn", root)
	if l.State.Size > 0 {
		state := cut(rootAt + 1)
		run(t, "e2fsck", "-fn", state)
		if out := run(t, "blkid", "-p", state); !strings.Contains(out, `LABEL="ward-state"`) {
			t.Errorf("blkid: %s", out)
		}
	}
	if out := run(t, "debugfs", "-R", "cat /hello", root); !strings.Contains(out, "hello") {
		t.Errorf("debugfs: %s", out)
	}
	for i, p := range parts {
		if p.Type != strings.ToUpper(handoff.PHIType) {
			continue
		}
		if phi := read(t, cut(i)); len(bytes.Trim(phi, "\x00")) != 0 {
			t.Errorf("the PHI partition %s is not blank", p.Name)
		}
	}
}

func TestWriteTwiceGivesTheSameBytes(t *testing.T) {
	l := layout(t)
	var sums [2][32]byte
	for i := range sums {
		img := filepath.Join(t.TempDir(), "disk.raw")
		if err := Write(t.Context(), slog.New(slog.DiscardHandler), img, l); err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(read(t, img))
	}
	if sums[0] != sums[1] {
		t.Errorf("two writes differ: %x and %x", sums[0], sums[1])
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Layout)
		want   string
	}{
		"root too large": {func(l *Layout) { l.Root.Size = 1 << 20 }, "file system has"},
		"no root":        {func(l *Layout) { l.Root.File = "/nowhere" }, "no such file"},
		"no boot file":   {func(l *Layout) { l.ESP.Files = map[string]string{"/a": "/nowhere"} }, "/nowhere"},
		"boot file larger than the ESP": {func(l *Layout) {
			l.ESP.Files["/big"] = l.Root.File
			l.ESP.Files["/big2"] = l.Root.File
			l.ESP.Size = 40 << 20
		}, "esp"},
	} {
		t.Run(name, func(t *testing.T) {
			l := layout(t)
			c.change(&l)
			err := Write(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "disk.raw"), l)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Write() = %v, want an error that says %q", err, c.want)
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
