package builder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"ward/images"
)

// writeInitramfs packs files as a kernel reads them.
func writeInitramfs(t *testing.T, name string, files map[string]string) {
	t.Helper()
	var records []cpio.Record
	for path, text := range files {
		records = append(records, cpio.StaticFile(path, text, 0o400))
	}
	var archive, packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.Newc.Writer(&archive)
	if err := errors.Join(cpio.WriteRecords(w, records), cpio.WriteTrailer(w)); err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(archive.Bytes())
	if err := errors.Join(err, z.Close(), os.WriteFile(name, packed.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A secret in any file beside the tree fails the build and is named.
func TestGateOutput(t *testing.T) {
	key := "-----BEGIN " + "PRIVATE KEY-----\n"
	good := map[string]string{"init": "\x7fELF\x00" + key, "etc/ward/config.json": "{}"}
	for name, c := range map[string]struct {
		initramfs map[string]string
		file      string // in the output
		log       string
		want      string
	}{
		"nothing":      {good, "{}", "I: done\n", ""},
		"no log":       {good, "{}", "", ""},
		"manifest":     {good, `{"cmdline": "token=ghp_` + strings.Repeat("a", 36) + `"}`, "I: done\n", "/manifest.json:1: token of GitHub"},
		"log":          {good, "{}", "I: install\n" + key, ".log:2: private key"},
		"initramfs":    {map[string]string{"init": "x", "etc/client.pem": key}, "{}", "", "initramfs.img:/etc/client.pem:1: private key"},
		"machine file": {map[string]string{"init": "x", "etc/ward/machine.json": "{}"}, "{}", "", "initramfs.img:/etc/ward/machine.json: machine file"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &build{Options: Options{Cache: t.TempDir(), Image: &images.Image{Name: "clinic"}}, work: t.TempDir()}
			writeInitramfs(t, filepath.Join(b.work, initrdFile), c.initramfs)
			if err := os.WriteFile(filepath.Join(b.work, manifestFile), []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.log != "" {
				if err := errors.Join(os.MkdirAll(filepath.Dir(b.transcript()), 0o700), os.WriteFile(b.transcript(), []byte(c.log), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			err := b.gateOutput()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "would hold 1 secrets")) {
				t.Errorf("gateOutput() = %v, want %q", err, c.want)
			}
		})
	}
	b := &build{Options: Options{Cache: t.TempDir(), Image: &images.Image{Name: "clinic"}}, work: t.TempDir()}
	if err := os.WriteFile(filepath.Join(b.work, initrdFile), []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.gateOutput(); err == nil || !strings.Contains(err.Error(), initrdFile) {
		t.Errorf("gateOutput(no archive) = %v, want an error: what was not looked at has not passed", err)
	}
}
