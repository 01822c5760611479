package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sparse writes an image of so many blocks: zeros, text, noise and holes.
func sparse(t *testing.T, blocks int, seed uint64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(blocks) * blockSize); err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8(sha256.Sum256([]byte{byte(seed)}))
	block := make([]byte, blockSize)
	for i := range blocks {
		switch i % 5 {
		case 0, 1: // a hole
			continue
		case 2:
			noise.Read(block)
		case 3:
			copy(block, bytes.Repeat([]byte{byte(i), byte(seed)}, blockSize/2))
		case 4:
			clear(block)
		}
		if _, err := f.WriteAt(block, int64(i)*blockSize); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// What layers say is the image, whatever is below, a shorter one too.
func TestBlocks(t *testing.T) {
	dir := t.TempDir()
	below, image := sparse(t, 300, 1), sparse(t, 600, 2)
	base, top, whole := filepath.Join(dir, "base"), filepath.Join(dir, "top"), filepath.Join(dir, "whole")
	lower, err := WriteBlocks(t.Context(), base, below, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteBlocks(t.Context(), top, image, lower); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteBlocks(t.Context(), whole, image, nil); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{base, top}, {whole}} {
		l, err := OpenLayers(names...)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		to, err := os.Create(filepath.Join(t.TempDir(), "unpacked"))
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if err := l.Unpack(t.Context(), to, 0); err != nil {
			t.Fatal(err)
		}
		if err := to.Truncate(l.size()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, to.Name()), read(t, image)) {
			t.Errorf("%q unpack to another image", names)
		}
	}
}

func TestOpenBlocksRefuses(t *testing.T) {
	name := filepath.Join(t.TempDir(), "blocks")
	if _, err := WriteBlocks(t.Context(), name, sparse(t, 10, 1), nil); err != nil {
		t.Fatal(err)
	}
	good := read(t, name)
	for what, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":         {nil, "is no file of blocks"},
		"another file":  {append([]byte("somethin"), good[8:]...), "is no file of blocks"},
		"cut":           {good[:len(good)-1], "want"},
		"longer":        {append(bytes.Clone(good), 0), "want"},
		"an image huge": {append(append(bytes.Clone(good[:8]), 0, 0, 0, 0, 0, 0, 1, 0), good[16:]...), "more than it has lengths for"},
	} {
		if err := os.WriteFile(name, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBlocks(name)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: OpenBlocks() = %v, want an error that says %q", what, err, c.want)
		}
	}
}

// A disk whose root comes from blocks is the disk with root written into it, to
// qemu-img and byte for byte.
func TestWriteQCOW2(t *testing.T) {
	dir := t.TempDir()
	l := layout(t)
	log := slog.New(slog.DiscardHandler)
	image := sparse(t, 400, 3)
	l.Root = Root{GUID: l.Root.GUID, Size: 400 * blockSize, File: image}
	raw, without := filepath.Join(dir, "raw"), filepath.Join(dir, "without")
	if err := Write(t.Context(), log, raw, l); err != nil {
		t.Fatal(err)
	}
	blocks := filepath.Join(dir, "blocks")
	if _, err := WriteBlocks(t.Context(), blocks, image, nil); err != nil {
		t.Fatal(err)
	}
	layers, err := OpenLayers(blocks)
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	l.Root = Root{GUID: l.Root.GUID, Size: l.Root.Size, Layers: layers, Elsewhere: true}
	if err := Write(t.Context(), log, without, l); err != nil {
		t.Fatal(err)
	}
	var same [2][]byte
	for i, c := range []struct {
		raw   string
		parts []Part
	}{{raw, nil}, {without, []Part{l.RootPart()}}} {
		to := filepath.Join(dir, "disk.qcow2")
		if err := WriteQCOW2(t.Context(), to, c.raw, c.parts...); err != nil {
			t.Fatal(err)
		}
		if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, to); !strings.Contains(out, "Images are identical") {
			t.Errorf("qemu-img compare: %s", out)
		}
		if out := run(t, "qemu-img", "check", "-f", "qcow2", to); !strings.Contains(out, "No errors were found") {
			t.Errorf("qemu-img check: %s", out)
		}
		var info struct {
			Virtual int64 `json:"virtual-size"`
			Special struct {
				Data struct {
					Compression string `json:"compression-type"`
				} `json:"data"`
			} `json:"format-specific"`
		}
		if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", to)), &info); err != nil {
			t.Fatal(err)
		}
		if info.Virtual != l.Size() || info.Special.Data.Compression != "zstd" {
			t.Errorf("qemu-img info: %+v, want %d bytes and zstd", info, l.Size())
		}
		same[i] = read(t, to)
	}
	if !bytes.Equal(same[0], same[1]) {
		t.Error("a root from blocks gives another qcow2 than a root in the raw disk")
	}
	// What a machine writes over compressed clusters leaves a good disk.
	overwritten := filepath.Join(dir, "disk.qcow2")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 300M 3M", overwritten)
	if out := run(t, "qemu-img", "check", "-f", "qcow2", overwritten); !strings.Contains(out, "No errors were found") {
		t.Errorf("qemu-img check after a write: %s", out)
	}
}

func TestWriteQCOW2Refuses(t *testing.T) {
	raw := sparse(t, 4, 1)
	blocks := filepath.Join(t.TempDir(), "blocks")
	if _, err := WriteBlocks(t.Context(), blocks, raw, nil); err != nil {
		t.Fatal(err)
	}
	layers, err := OpenLayers(blocks)
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	to := filepath.Join(t.TempDir(), "disk.qcow2")
	for _, at := range []int64{-blockSize, sector, blockSize} {
		if err := WriteQCOW2(t.Context(), to, raw, Part{At: at, Layers: layers}); err == nil || !strings.Contains(err.Error(), "not within its blocks") {
			t.Errorf("WriteQCOW2(part at %d) = %v, want that it is refused", at, err)
		}
	}
	if err := os.Truncate(raw, 1000); err != nil {
		t.Fatal(err)
	}
	if err := WriteQCOW2(t.Context(), to, raw); err == nil || !strings.Contains(err.Error(), "whole blocks") {
		t.Errorf("WriteQCOW2(1000 bytes) = %v, want that it is refused", err)
	}
}
