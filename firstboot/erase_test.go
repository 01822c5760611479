package firstboot

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// erasable is a bench whose machine can erase: nothing is mounted or mapped, and
// the disk has a serial number.
func erasable(t *testing.T) *bench {
	t.Helper()
	b, _ := formatted(t)
	if err := b.sealRecoveryKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.reboot()
	acted, real := b.Machine.run, hostRun(b.log)
	b.Machine.run = func(ctx context.Context, stdin []byte, argv ...string) (string, error) {
		switch argv[0] {
		case "findmnt":
			return real(ctx, nil, "sh", "-c", "exit 1") // nothing found
		case "lsblk":
			return "S3Z8NB0K\n", nil
		case "journalctl", "ssh-keygen":
			b.calls = append(b.calls, strings.Join(argv, " "))
			return "", nil
		case "dd", "blkdiscard":
			return real(ctx, nil, argv...)
		}
		return acted(ctx, stdin, argv...)
	}
	return b
}

func TestErase(t *testing.T) {
	b := erasable(t)
	var log bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	c, err := b.Erase(t.Context(), "phi-data", "S3Z8NB0K", "alice")
	if err != nil {
		t.Fatal(err)
	}
	if c.By != "alice" || c.Serial != "S3Z8NB0K" || len(c.Slots) != 3 || c.File != "/var/lib/ward/erased-"+c.LUKSUUID+".json" {
		t.Errorf("certificate = %+v, want three slots: key file, recovery key, and the one of the proof", c)
	}
	proof := strings.Join(c.Proof, "\n")
	for _, want := range []string{"before: the key file opens", "before: a recovery key", "with the slots destroyed: the key file is refused", "with the slots destroyed: the recovery key is refused",
		"with the header destroyed: the key file is refused", "with the header destroyed: the recovery key is refused", "each of the 4096 blocks", "the disk does not discard", "blkid recognises nothing"} {
		if !strings.Contains(proof, want) {
			t.Errorf("the certificate does not say %q:\n%s", want, proof)
		}
	}
	if head := b.head(); bytes.Contains(head, []byte("LUKS\xba\xbe")) || bytes.Contains(head, []byte("SKUL\xba\xbe")) {
		t.Error("a header is left")
	}
	kept, err := os.ReadFile(filepath.Join(b.dir, c.File))
	if err != nil {
		t.Fatal(err)
	}
	var again Certificate
	if err := json.Unmarshal(kept, &again); err != nil || strings.Join(again.Proof, "\n") != proof {
		t.Errorf("the certificate that is kept: %v, %s", err, kept)
	}
	if pins, err := b.pins(); err != nil || len(pins.Volumes) != 0 {
		t.Errorf("pins = %+v, %v, want none", pins, err)
	}
	text := log.String()
	first, last := strings.Index(text, "erasing a volume"), strings.Index(text, "a volume is erased")
	if first < 0 || last < first || !strings.Contains(text, "by=alice") || !strings.Contains(text, `document="certificate of destruction"`) {
		t.Errorf("the log has no word before and after, or no certificate: %s", text)
	}
	sync := slices.Index(b.calls, "journalctl --sync")
	destroyed := slices.IndexFunc(b.calls, func(s string) bool { return strings.HasPrefix(s, "cryptsetup erase") })
	if sync < 0 || destroyed < sync {
		t.Errorf("the record was not on the disk before the destruction: %q", b.calls)
	}
	if !slices.ContainsFunc(b.calls, func(s string) bool { return strings.HasPrefix(s, "ssh-keygen -q -Y sign -n ward-erase") }) {
		t.Errorf("the certificate is not signed: %q", b.calls)
	}
}

func TestEraseRefuses(t *testing.T) {
	b := erasable(t)
	head := b.head()
	if _, err := b.Erase(t.Context(), "phi-data", "S3Z8NB0", "alice"); err == nil || !strings.Contains(err.Error(), "--confirm is not the serial number") {
		t.Errorf("Erase() with another serial number = %v, want it refused", err)
	}
	if err := writeJSON(b.root, reencryptionPath("phi-data"), reencryption{Volume: "phi-data"}, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Erase(t.Context(), "phi-data", "S3Z8NB0K", "alice"); err == nil || !strings.Contains(err.Error(), "is being reencrypted") {
		t.Errorf("Erase() during a reencryption = %v, want it refused", err)
	}
	if err := b.Rotate(t.Context(), "phi-data", "/dev/null", &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "is being reencrypted") {
		t.Errorf("Rotate() during a reencryption = %v, want it refused", err)
	}
	if !bytes.Equal(head, b.head()) {
		t.Error("something was destroyed")
	}
}
