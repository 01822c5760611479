package initramfs_test

import (
	"os"
	"testing"

	"ward/initramfs/handoff"
)

// TestSize holds the two limits that the project has set itself.
func TestSize(t *testing.T) {
	for _, c := range []struct {
		name    string
		config  handoff.Config
		modules []string
		limit   int64
	}{
		{"virtio", config(), nil, 2_621_440}, // 2.5 MiB
		{"generic, with network, TLS and TPM", config(handoff.Source{Type: "tpm2"}), []string{"generic"}, 8 << 20},
	} {
		info, err := os.Stat(buildInitramfs(t, c.config, c.modules...))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.2f MiB", c.name, float64(info.Size())/(1<<20))
		if info.Size() > c.limit {
			t.Errorf("%s: %d bytes, want at most %d", c.name, info.Size(), c.limit)
		}
	}
}
