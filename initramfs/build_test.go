package initramfs

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"

	"ward/initramfs/handoff"
)

var update = flag.Bool("update", false, "write the golden files")

const elf = "\x7fELF"

func compressed(t *testing.T, kind, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	case "gz":
		w = gzip.NewWriter(&b)
	}
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// modules is a small kernel with modules in every kind of compression.
func modules(t *testing.T) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{
		"modules.dep": {Data: []byte(`kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.zst
kernel/drivers/virtio/virtio.ko.zst:
kernel/drivers/block/virtio_blk.ko.gz: kernel/drivers/virtio/virtio.ko.zst
kernel/drivers/md/dm-crypt.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-mod.ko:
kernel/crypto/xts.ko:
kernel/crypto/ecb.ko:
kernel/drivers/net/e1000.ko:
kernel/drivers/firmware/qemu_fw_cfg.ko:
`)},
		"modules.softdep": {Data: []byte("softdep xts pre: ecb\nsoftdep ecb pre: xts\n")},
		"modules.alias":   {Data: []byte("alias virtio:d00000002v* virtio_blk\nalias pci:v00001AF4d* virtio_pci\nalias pci:v00008086d* e1000\nalias acpi*:QEMU0002:* qemu_fw_cfg\n")},
		"modules.builtin": {Data: []byte("kernel/fs/ext4/ext4.ko\n")},
	}
	for _, line := range strings.Split(strings.TrimSpace(string(fsys["modules.dep"].Data)), "\n") {
		file, _, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		text := elf + " module " + name
		data := []byte(text)
		if ext := strings.TrimPrefix(filepath.Ext(file), "."); ext != "ko" {
			data = compressed(t, ext, text)
		}
		fsys[file] = &fstest.MapFile{Data: data}
	}
	return fsys
}

func spec(t *testing.T) Spec {
	t.Helper()
	return Spec{
		Init: []byte(elf + " init"), KernelVersion: "6.1.0-1-test", ModulesFS: modules(t),
		Config: handoff.Config{
			Version: handoff.Version, OnFailure: handoff.Degrade,
			Volumes: []handoff.Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}},
			Sources: []handoff.Source{{Type: "device", Label: handoff.KeyLabel}},
		},
	}
}

func build(t *testing.T, s Spec) ([]byte, Result) {
	t.Helper()
	var b bytes.Buffer
	r, err := Build(&b, s)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), r
}

func unpack(t *testing.T, image []byte) []cpio.Record {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	plain, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain)))
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestBuildGolden is the whole image as text: each file with mode and content.
func TestBuildGolden(t *testing.T) {
	image, result := build(t, spec(t))
	var b strings.Builder
	fmt.Fprintf(&b, "load %s\nmodules %s\n\n", strings.Join(result.Load, " "), strings.Join(result.Modules, " "))
	for _, r := range unpack(t, image) {
		fmt.Fprintf(&b, "%06o %d:%d %s\n", r.Mode, r.UID, r.GID, r.Name)
		if r.FileSize > 0 {
			data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range strings.Split(strings.TrimRight(string(data), "\n"), "\n") {
				fmt.Fprintf(&b, "    %q\n", line)
			}
		}
	}
	golden := filepath.Join("testdata", "image.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the image is\n%s\nwant\n%s", b.String(), want)
	}
}

func TestBuildIsReproducible(t *testing.T) {
	a, _ := build(t, spec(t))
	b, _ := build(t, spec(t))
	if !bytes.Equal(a, b) {
		t.Error("two builds of one spec differ")
	}
}

// TestCpioReadsIt asks the usual tool.
func TestCpioReadsIt(t *testing.T) {
	image, result := build(t, spec(t))
	plain := exec.Command("zstd", "-dc")
	plain.Stdin = bytes.NewReader(image)
	data, err := plain.Output()
	if err != nil {
		t.Fatalf("zstd: %v", err)
	}
	if int64(len(data)) != result.Bytes {
		t.Errorf("the archive has %d bytes, Build says %d", len(data), result.Bytes)
	}
	list := exec.Command("cpio", "-t", "--quiet")
	list.Stdin = bytes.NewReader(data)
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	for _, want := range []string{"init\n", "etc/ward/init.json\n", "lib/modules/6.1.0-1-test/kernel/drivers/block/virtio_blk.ko\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio -t does not list %q:\n%s", want, out)
		}
	}
}

func TestModulesChoice(t *testing.T) {
	for _, c := range []struct {
		words []string
		has   string
		lacks string
	}{
		{nil, "virtio_blk dm_crypt", "e1000"},
		{[]string{"generic"}, "virtio_blk dm_crypt e1000", ""},
		{[]string{"nvme"}, "dm_crypt", "virtio_blk"},
		{[]string{"nvme", "virtio-blk"}, "dm_crypt virtio_blk virtio", "virtio_pci"},
	} {
		s := spec(t)
		s.Modules = c.words
		_, r := build(t, s)
		got := " " + strings.Join(r.Modules, " ") + " "
		for _, m := range strings.Fields(c.has) {
			if !strings.Contains(got, " "+m+" ") {
				t.Errorf("%v has %s, want %s in it", c.words, got, m)
			}
		}
		for _, m := range strings.Fields(c.lacks) {
			if strings.Contains(got, " "+m+" ") {
				t.Errorf("%v has %s, want no %s", c.words, got, m)
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	broken := func(change func(fstest.MapFS)) func(*Spec) {
		return func(s *Spec) { change(s.ModulesFS.(fstest.MapFS)) }
	}
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Init = []byte("#!/bin/sh") }, "init: not an ELF file"},
		{func(s *Spec) { s.KernelVersion = "../6.1" }, "kernel version \"../6.1\""},
		{func(s *Spec) { s.ModulesFS = nil }, "modules: no folder"},
		{func(s *Spec) { s.Modules = []string{"no-such"} }, "this kernel has no module \"no-such\"; sets are base, "},
		{func(s *Spec) { s.Config.OnFailure = "ask" }, "on_failure"},
		{broken(func(m fstest.MapFS) { delete(m, "kernel/drivers/md/dm-mod.ko") }), "module dm_mod: open kernel/drivers/md/dm-mod.ko"},
		{broken(func(m fstest.MapFS) { m["kernel/drivers/virtio/virtio.ko.zst"].Data = []byte("no") }), "virtio.ko.zst"},
		{broken(func(m fstest.MapFS) { m["kernel/drivers/virtio/virtio_pci.ko.xz"].Data = []byte("no") }), "virtio_pci.ko.xz"},
		{broken(func(m fstest.MapFS) { m["kernel/crypto/xts.ko"].Data = []byte("text") }), "xts.ko: not an ELF file"},
		{broken(func(m fstest.MapFS) { delete(m, "modules.dep") }), "modules.dep"},
	} {
		s := spec(t)
		c.change(&s)
		if _, err := Build(io.Discard, s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Build = %v, want an error with %q", err, c.want)
		}
	}
	s := Spec{}
	if _, err := Build(io.Discard, s); err == nil || strings.Count(err.Error(), "\n") < 4 {
		t.Errorf("Build of nothing = %v, want every fault", err)
	}
}

// TestSetsName: a set may be named, and none is named twice.
func TestSetsName(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range SetNames() {
		if seen[n] {
			t.Errorf("two sets are named %s", n)
		}
		seen[n] = true
	}
	for name, parts := range composed {
		for _, p := range parts {
			if !seen[p] {
				t.Errorf("%s is made of %s, which is no set", name, p)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("looked at nothing")
	}
}

// TestConfigInImage: what init reads is what the builder was given, and the
// modules to load.
func TestConfigInImage(t *testing.T) {
	s := spec(t)
	image, result := build(t, s)
	for _, r := range unpack(t, image) {
		if "/"+r.Name != handoff.ConfigPath {
			continue
		}
		data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := handoff.DecodeConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		s.Config.Modules = result.Load
		got, _ := json.Marshal(c)
		want, _ := json.Marshal(s.Config)
		if string(got) != string(want) {
			t.Errorf("configuration is %s, want %s", got, want)
		}
		return
	}
	t.Errorf("the image has no %s", handoff.ConfigPath)
}

// TestSourcesBringDrivers: an image whose key comes over the network has drivers
// of network cards without anybody naming them, and another one has none.
func TestSourcesBringDrivers(t *testing.T) {
	const ca = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
	for _, c := range []struct {
		source handoff.Source
		want   bool
	}{
		{handoff.Source{Type: "device", Label: handoff.KeyLabel}, false},
		{handoff.Source{Type: "https", URL: "https://keys.example.org/", CA: ca}, true},
		{handoff.Source{Type: "tang", URL: "http://tang.example.org/"}, true},
	} {
		s := spec(t)
		s.Config.Sources = []handoff.Source{c.source}
		_, r := build(t, s)
		if got := slices.Contains(r.Modules, "e1000"); got != c.want {
			t.Errorf("%s: modules %v, with e1000: %v, want %v", c.source.Type, r.Modules, got, c.want)
		}
	}
}

// TestEmbeddedKeys: a key is in the archive under the name that init asks for,
// and one that init would not look at is refused.
func TestEmbeddedKeys(t *testing.T) {
	key := bytes.Repeat([]byte("k"), 64)
	lab := func() Spec {
		s := spec(t)
		s.Config.Sources = []handoff.Source{{Type: "embedded"}}
		s.Keys = map[string][]byte{"phi-data.key": key}
		return s
	}
	image, _ := build(t, lab())
	found := false
	for _, r := range unpack(t, image) {
		if r.Name != "etc/ward/keys/phi-data.key" {
			continue
		}
		got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		found = err == nil && bytes.Equal(got, key) && r.Mode&0o777 == 0o400
	}
	if !found {
		t.Error("the archive lacks the key, or others may read it")
	}
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Keys = nil }, "a source is embedded and there is no key"},
		{func(s *Spec) { s.Config.Sources = spec(t).Config.Sources }, "no source is embedded"},
		{func(s *Spec) { s.Keys["other.key"] = key }, `no volume has the key file "other.key"`},
		{func(s *Spec) { s.Keys["phi-data.key"] = key[:8] }, "phi-data.key has 8 bytes, want 32 to 8192"},
	} {
		s := lab()
		c.change(&s)
		if _, err := Build(io.Discard, s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Build = %v, want an error with %q", err, c.want)
		}
	}
}
