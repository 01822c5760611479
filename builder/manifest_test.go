package builder

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/cache"
	"ward/builder/provenance"
)

// output makes a small finished output, signed if there is a key.
func output(t *testing.T, key provenance.Signer) (dir string, m *Manifest) {
	t.Helper()
	return outputOf(t, key, "d1")
}

// outputOf makes one from inputs with that digest.
func outputOf(t *testing.T, key provenance.Signer, digest string) (dir string, m *Manifest) {
	t.Helper()
	dir = t.TempDir()
	m = &Manifest{Version: ManifestVersion, Digest: digest, Inputs: json.RawMessage("{}"), Made: time.Unix(1700000000, 0).UTC()}
	for _, name := range []string{"disk.qcow2", "vmlinuz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("bytes of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if m.Files, err = describe(dir); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(filepath.Join(dir, manifestFile), m); err != nil {
		t.Fatal(err)
	}
	own, err := cache.Sum(filepath.Join(dir, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	b := &build{work: dir, Options: Options{Sign: key}, digest: m.Digest}
	if err := errors.Join(b.attest(t.Context(), m, own), writeSums(dir, m.Files), settle(dir, m.Made)); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func TestUnchangedOutput(t *testing.T) {
	at := func(dir string) string { return filepath.Join(dir, "vmlinuz") }
	for name, c := range map[string]struct {
		change  func(dir string, m *Manifest) error
		readAll bool
		want    string
	}{
		"nothing":           {func(string, *Manifest) error { return nil }, false, ""},
		"nothing, all read": {func(string, *Manifest) error { return nil }, true, ""},
		"copied":            {func(dir string, _ *Manifest) error { return os.Chtimes(at(dir), time.Now(), time.Now()) }, false, ""},
		"one byte":          {func(dir string, _ *Manifest) error { return os.WriteFile(at(dir), []byte("Bytes of vmlinuz"), 0o644) }, false, "vmlinuz: sha256 is"},
		"one byte, old time": {func(dir string, m *Manifest) error {
			return errors.Join(os.WriteFile(at(dir), []byte("Bytes of vmlinuz"), 0o644), os.Chtimes(at(dir), m.Made, m.Made))
		}, true, "vmlinuz: sha256 is"},
		"longer": {func(dir string, _ *Manifest) error {
			return os.WriteFile(at(dir), []byte("more bytes of vmlinuz"), 0o644)
		}, false, "has 21 bytes"},
		"gone":        {func(dir string, _ *Manifest) error { return os.Remove(at(dir)) }, false, "no such file"},
		"no sums":     {func(dir string, _ *Manifest) error { return os.Remove(filepath.Join(dir, sumsFile)) }, false, sumsFile},
		"other sums":  {func(dir string, _ *Manifest) error { return os.WriteFile(filepath.Join(dir, sumsFile), nil, 0o644) }, false, "does not name vmlinuz"},
		"no file":     {func(_ string, m *Manifest) error { m.Files = nil; return nil }, false, "names no file"},
		"no manifest": {func(dir string, _ *Manifest) error { return os.Remove(filepath.Join(dir, manifestFile)) }, false, manifestFile},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := output(t, nil)
			if err := c.change(dir, m); err != nil {
				t.Fatal(err)
			}
			err := m.unchanged(dir, c.readAll)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("unchanged() = %v, want %q", err, c.want)
			}
		})
	}
}
