package qemutests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"ward/initramfs/handoff"
)

// verifiedProfile has a read-only root that is verified block by block.
const verifiedProfile = `name: verified
extends: hipaa
controls:
  integrity: {root: verity}
  updates: {unattended: false}
`

// readLate is a file of root that nothing reads during a boot.
const readLate = "/usr/share/common-licenses/GPL-3"

// TestVerity: a machine with a verified root boots, every safeguard holds, and what it
// writes outlasts a reboot; a byte that somebody changes on the disk is an error where
// it is read, turns verify red, and ends a boot that needs it, with the reason.
func TestVerity(t *testing.T) {
	t.Parallel()
	image(t)
	i := bakeWith(t, verifiedProfile)
	b := &bootBench{f: fixture(t)}
	b.c = b.f.VM(i)
	b.c.State, b.c.DiskSize = t.TempDir(), 5<<30
	disk := filepath.Join(b.c.State, "disk.qcow2")

	b.up(t)
	for _, dir := range []string{"/usr", "/boot", "/opt", "/srv", "/"} {
		out, code, err := b.root.Run(within(t, b.m, time.Minute), "touch "+dir+"/written 2>&1")
		if err != nil {
			t.Fatal(err)
		}
		if code == 0 || !strings.Contains(out, "Read-only file system") {
			t.Errorf("touch %s/written: exit code %d, want that it is read-only: %s", dir, code, out)
		}
	}
	// Of /etc the integrity control leaves this folder alone.
	kept := strings.Replace(strings.Join(handoff.Overlaid, "/written ")+"/written", "etc/", "etc/ward/", 1)
	run(t, b.m, b.root, "cd /; for f in "+kept+"; do echo kept >$f; done; sync")
	// The state partition has its share of the larger disk.
	mib, err := strconv.Atoi(strings.TrimSpace(run(t, b.m, b.root, "df -BM --output=size "+handoff.StateMount+" | tail -1 | tr -dc 0-9")))
	if err != nil || mib < 1100 {
		t.Errorf("the state partition's file system has %d MiB (%v), want more than the image's", mib, err)
	}
	out, code, err := b.root.Run(within(t, b.m, time.Minute), "wardctl initramfs $(uname -r) 2>&1")
	if err != nil {
		t.Fatal(err)
	}
	if code == 0 || !strings.Contains(out, "root is verified and read-only, and its kernel image belongs to it") {
		t.Errorf("wardctl initramfs: exit code %d, want that it is refused: %s", code, out)
	}
	b.reboot(t)
	b.up(t)
	if out := run(t, b.m, b.root, "cd /; cat "+kept+"; rm "+kept); out != strings.Repeat("kept\n", 4) {
		t.Errorf("after a reboot there is %q", out)
	}
	b.down(t)

	t.Log("one byte of a file changes on the disk")
	begins, block := rootBlocks(t, disk)
	change(t, disk, begins+block*handoff.VerityBlock)
	b.up(t)
	if out, code, err := b.root.Run(within(t, b.m, time.Minute), "cat "+readLate+" 2>&1 >/dev/null"); err != nil || code == 0 || !strings.Contains(out, "Input/output error") {
		t.Errorf("reading the changed file: exit code %d, %v: %s", code, err, out)
	}
	red(t, b.m, b.root, "integrity", "root", "a block of root differs from its digest")
	b.down(t)

	t.Log("the file system's first block changes")
	change(t, disk, begins+1024) // the superblock
	m := start(t, b.c)
	expect(t, m, 3*time.Minute, `ward-init: the machine is switched off: root: mount /dev/mapper/root as ext4: .*: the root partition is not what this kernel image was made with, or is damaged`)
}

// rootBlocks tells where root begins on a disk, in bytes, and at which block of it
// the file readLate begins.
func rootBlocks(t *testing.T, disk string) (start, first int64) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "qemu-img", "convert", "-O", "raw", disk, name)
	defer os.Remove(name)
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table, err := gpt.Read(file, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		if strings.EqualFold(string(p.Type), handoff.RootType) {
			start = int64(p.Start) * 512
		}
	}
	out, err := exec.CommandContext(t.Context(), "debugfs", "-R", "blocks "+readLate, fmt.Sprintf("%s?offset=%d", name, start)).Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(out))
	if start == 0 || len(f) == 0 {
		t.Fatalf("root begins at %d, %s is in blocks %q", start, readLate, out)
	}
	if first, err = strconv.ParseInt(f[0], 10, 64); err != nil || first == 0 {
		t.Fatalf("%s is in block %q", readLate, f[0])
	}
	return start, first
}

// change overwrites 512 bytes of a disk that is not in use.
func change(t *testing.T, disk string, at int64) {
	t.Helper()
	tool(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 0x5a %d 512", at), disk)
}
