package netboot

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// TestStore cuts a partition out of the pieces of a disk.
func TestStore(t *testing.T) {
	disk := make([]byte, 40*page)
	for i := range disk {
		if i/page%3 != 0 { // every third page is empty
			disk[i] = byte(i*7 + i/page)
		}
	}
	const start, length = 5*page + 512, 20*page + 512 // neither begins nor ends with a piece
	f, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(length); err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < int64(len(disk)); at += 4 * page {
		if err := store(f, disk[at:at+4*page], at-start, length); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, disk[start:start+length]) {
		t.Error("what is stored is not the partition")
	}
}

func TestEnough(t *testing.T) {
	d := netimage.Disk{Size: 12 << 20, ChunkSize: 4 << 20, Chunks: []netimage.Chunk{{}, {Zero: true}, {}}}
	if err := enough(d, 0, 3, spare+8<<20); err != nil {
		t.Errorf("enough = %v, want that chunks of zeros take nothing", err)
	}
	if err := enough(d, 0, 3, spare+8<<20-1); err == nil || !strings.Contains(err.Error(), "root takes up to 8 MiB of memory and the system 512 more") {
		t.Errorf("enough = %v, want how much is missing", err)
	}
}

// TestPHITable has sgdisk's opinion of the table of a disk for patients' data alone.
func TestPHITable(t *testing.T) {
	const size = 200<<20 + 512*33
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	table, err := phiTable(size, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sgdisk", "--verify", "--print", "--info=1", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") || !strings.Contains(string(out), "198.0 MiB") || !strings.Contains(strings.ToLower(string(out)), handoff.PHIType) {
		t.Errorf("sgdisk: %v: %s", err, out)
	}
	again, err := gpt.Read(f, 512, 512)
	if err != nil || len(again.Partitions) == 0 || again.Partitions[0].Name != "phi-data" {
		t.Errorf("the table is %+v, %v", again, err)
	}
	if _, err := phiTable(32<<20, 512); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("phiTable of a small disk = %v, want that it is too small", err)
	}
}

func TestPutConfig(t *testing.T) {
	for _, dir := range []string{"var", "var/upper"} {
		root := t.TempDir()
		name := filepath.Join(dir, configPath)
		if err := putConfig(root, name, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{name: 0o600, filepath.Dir(name): 0o700, filepath.Dir(filepath.Dir(name)): 0o755} {
			if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
				t.Errorf("/%s: %v, %v, want mode %o", path, info, err, want)
			}
		}
	}
}
