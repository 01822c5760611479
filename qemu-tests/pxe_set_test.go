package qemutests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"ward/initramfs/netimage"
)

// writeSet signs a manifest and writes what a server serves of a set.
func writeSet(t *testing.T, dir string, m *netimage.Manifest, secret, disk []byte) {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := netimage.Sign(secret, text, "a small set")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{netimage.ManifestFile: text, netimage.SignatureFile: sig, netimage.DiskFile: disk} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
