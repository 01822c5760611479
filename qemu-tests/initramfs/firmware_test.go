package initramfs_test

import (
	"encoding/base64"
	"path/filepath"
	"testing"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// TestEmbeddedKey has the key in the initramfs itself.
func TestEmbeddedKey(t *testing.T) {
	k := newKeys(t)
	initrd := packInitramfs(t, config(handoff.Source{Type: "embedded"}), map[string][]byte{"phi-data.key": k.file})
	s, console := boot(t, machine{initramfs: initrd, disk: disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k)))})
	if v := expect(t, s, console, handoff.StateOpened, ""); v.KeySource != "embedded" {
		t.Errorf("the key came from %q, want embedded", v.KeySource)
	}
}

// fwCfg gives a key as an entry of QEMU's firmware configuration.
func fwCfg(t *testing.T, name string, key []byte) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	write(t, path, key)
	return []string{"-fw_cfg", "name=" + keysource.FwCfgName(name) + ",file=" + path}
}

func TestFirmwareSources(t *testing.T) {
	k := newKeys(t)
	d := disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k)))
	for _, c := range []struct {
		source string
		qemu   []string
	}{
		{"fw_cfg", fwCfg(t, "phi-data.key", k.file)},
		{"smbios", []string{"-smbios", "type=11,value=" + keysource.SMBIOSPrefix("phi-data.key") + base64.StdEncoding.EncodeToString(k.file)}},
	} {
		t.Run(c.source, func(t *testing.T) {
			s, console := boot(t, machine{initramfs: buildInitramfs(t, config(handoff.Source{Type: c.source})), disk: d, qemu: c.qemu})
			if v := expect(t, s, console, handoff.StateOpened, ""); v.KeySource != c.source {
				t.Errorf("the key came from %q, want %q", v.KeySource, c.source)
			}
		})
	}
}
