package disk

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ward/initramfs/handoff"
)

// TestVerity has veritysetup verify what was written, and find each byte that differs.
func TestVerity(t *testing.T) {
	const size = 40 << 20
	data := VerityData(size)
	if tree := int64(handoff.VerityTree(uint64(data/handoff.VerityBlock))) * handoff.VerityBlock; data%(1<<20) != 0 || data+tree > size || data+tree < size-2<<20 {
		t.Fatalf("VerityData(%d) = %d, with a tree of %d", size, data, tree)
	}
	dir := t.TempDir()
	tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, "root.ext4")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "hello"), []byte(strings.Repeat("hello\n", 9000)), 0o644); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	make := func(salt string) handoff.Verity {
		t.Helper()
		os.Remove(file)
		if err := WriteExt4(t.Context(), log, file, Ext4{Tree: tree, UUID: "11111111-2222-4333-8444-555555555555", Size: data, Epoch: 1_700_000_000}); err != nil {
			t.Fatal(err)
		}
		v, err := AppendVerity(t.Context(), log, file, data, salt)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	salt := strings.Repeat("ab", 32)
	v := make(salt)
	if again := make(salt); again != v {
		t.Errorf("the same tree has %s, then %s", v, again)
	}
	if other := make(strings.Repeat("cd", 32)); other.Digest == v.Digest {
		t.Error("another salt gives the same digest")
	}
	v = make(salt)
	if info, err := os.Stat(file); err != nil || info.Size() != data+int64(handoff.VerityTree(v.Blocks))*handoff.VerityBlock || info.Size() > size {
		t.Errorf("the file has %d bytes (%v), want data and tree", info.Size(), err)
	}
	run(t, "e2fsck", "-n", "-f", file)
	verify := func() (string, error) {
		out, err := exec.Command("veritysetup", "verify", "--no-superblock", "--salt="+v.Salt, "--data-blocks="+strconv.FormatUint(v.Blocks, 10),
			"--hash-offset="+strconv.FormatInt(data, 10), file, file, v.Digest).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil {
		t.Fatalf("veritysetup verify: %v: %s", err, out)
	}
	for _, at := range []int64{1024, data / 2, data + 5000} { // superblock, a hole, the tree
		flip(t, file, at)
		if out, err := verify(); err == nil || !strings.Contains(out, "Verification failed") && !strings.Contains(out, "Verification of") {
			t.Errorf("veritysetup verify with byte %d changed = %v: %s", at, err, out)
		}
		flip(t, file, at)
	}
}

func flip(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
