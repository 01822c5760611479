package builder

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/initramfs/handoff"
)

// kernelTree is a tree with a small kernel and its modules.
func kernelTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	modules := map[string]string{
		"modules.dep": "", "modules.softdep": "", "modules.alias": "", "modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	}
	for _, name := range []string{"drivers/virtio/virtio", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk", "drivers/scsi/virtio_scsi", "drivers/md/dm-mod", "drivers/md/dm-crypt",
		"crypto/xts", "crypto/ecb", "drivers/firmware/qemu_fw_cfg"} {
		modules["modules.dep"] += "kernel/" + name + ".ko:\n"
		modules["kernel/"+name+".ko"] = "\x7fELF module " + name
	}
	files := map[string]string{"boot/vmlinuz-6.1-test": "kernel", "init": "\x7fELF init"}
	for name, text := range modules {
		files[filepath.Join("usr/lib/modules/6.1-test", name)] = text
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The initramfs is made once for one tree; a damaged one is made again with the
// same bytes, and one from a damaged tree is not kept.
func TestInitramfsIsKept(t *testing.T) {
	tree, cache := kernelTree(t), t.TempDir()
	var said bytes.Buffer
	pack := func(digest string, below error) (packed, error) {
		b := &bake{log: slog.New(slog.NewTextHandler(&said, nil)), facts: treeFacts{Digest: digest}}
		b.Init, b.Cache, b.Code = filepath.Join(tree, "init"), cache, "code"
		b.Config = handoff.Config{
			Version: handoff.Version, OnFailure: "degrade", Sources: []handoff.Source{{Type: "device", Label: handoff.KeyLabel}},
			Volumes: []handoff.Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}},
		}
		b.lower = begin(func() (survey, error) { return nil, below })
		return b.pack(context.Background(), tree)
	}
	first, err := pack("d1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Kernel != "6.1-test" || len(first.Modules) == 0 || len(first.image) == 0 {
		t.Fatalf("packed %q with %q", first.Kernel, first.Modules)
	}
	entries := func() []string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(cache, "initramfs-*", "initramfs.img"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if len(entries()) != 1 {
		t.Fatalf("entries %q", entries())
	}

	// Taken from the cache: what the tree has now does not matter.
	kept := filepath.Join(tree, "usr/lib/modules/6.1-test/modules.dep")
	if err := os.Rename(kept, kept+".away"); err != nil {
		t.Fatal(err)
	}
	second, err := pack("d1", nil)
	if err != nil || !bytes.Equal(first.image, second.image) || len(second.Modules) != len(first.Modules) {
		t.Errorf("the second is another one (%v)", err)
	}
	if err := os.Rename(kept+".away", kept); err != nil {
		t.Fatal(err)
	}

	damaged := bytes.Clone(first.image)
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(entries()[0], damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	third, err := pack("d1", nil)
	if err != nil || !bytes.Equal(first.image, third.image) || !strings.Contains(said.String(), "the cached initramfs is damaged and is made again") {
		t.Errorf("after damage: %v, log %q", err, said.String())
	}

	boom := errors.New(treeChanged)
	if _, err := pack("d2", boom); !errors.Is(err, boom) {
		t.Errorf("from a damaged tree: %v, want %v", err, boom)
	}
	if len(entries()) != 1 {
		t.Errorf("one from a damaged tree is kept: %q", entries())
	}
}
