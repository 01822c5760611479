package initramfs_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ward/initramfs/handoff"
)

// TestNoKeyInMemory looks through the whole memory of the machine, after it has
// switched root, for the key file: as it is, and as HMAC's pads. The volume key
// must be there, dm-crypt encrypts with it, but not in hexadecimal as a table of
// device-mapper would have it.
func TestNoKeyInMemory(t *testing.T) {
	for _, fstype := range []string{"ext4", "vfat"} {
		t.Run(fstype, func(t *testing.T) {
			k := newKeys(t)
			ctx, r := start(t, machine{
				initramfs: buildInitramfs(t, config()), wait: true,
				disk: disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k))),
				key:  keyDevice(t, fstype, map[string][]byte{"phi-data.key": k.file}),
			})
			if _, err := r.Expect(ctx, "witness: done"); err != nil {
				t.Fatal(err)
			}
			expect(t, r.sight(t), r.ConsoleText(), handoff.StateOpened, "")
			// What the kernel frees after a grace period of RCU is freed now.
			time.Sleep(2 * time.Second)
			dump := filepath.Join(t.TempDir(), "memory")
			if err := r.QMP(ctx, "pmemsave", map[string]any{"val": 0, "size": 512 << 20, "filename": dump}, nil); err != nil {
				t.Fatal(err)
			}
			memory, err := os.ReadFile(dump)
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(dump)
			if !bytes.Contains(memory, k.volume[:32]) {
				t.Error("the volume key is not in memory, where dm-crypt has to have it: this test looks at the wrong memory")
			}
			for name, f := range map[string]func(b []byte) []byte{
				"as it is":                func(b []byte) []byte { return b },
				"as HMAC's inner pad":     func(b []byte) []byte { return xor(b, 0x36) },
				"as HMAC's outer pad":     func(b []byte) []byte { return xor(b, 0x5c) },
				"in SHA-2's 32-bit words": swap32,
			} {
				for at := 0; at+16 <= len(k.file); at += 8 {
					if i := bytes.Index(memory, f(k.file[at:at+16])); i >= 0 {
						t.Errorf("bytes %d to %d of the key file are in memory at %#x, %s", at, at+16, i, name)
					}
				}
			}
			for _, b := range [][]byte{k.file, k.volume} {
				if i := bytes.Index(memory, []byte(hex.EncodeToString(b[:16]))); i >= 0 {
					t.Errorf("a key is in memory in hexadecimal at %#x", i)
				}
			}
		})
	}
}

func xor(b []byte, x byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= x
	}
	return out
}

func swap32(b []byte) []byte {
	out := bytes.Clone(b)
	for i := 0; i+4 <= len(out); i += 4 {
		out[i], out[i+1], out[i+2], out[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	return out
}
