package pxe

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"ward/builder"
	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// imageWith is a folder with an initramfs that has a configuration.
func imageWith(t *testing.T, c handoff.Config) string {
	t.Helper()
	dir := t.TempDir()
	var out bytes.Buffer
	keys := map[string][]byte{}
	for _, s := range c.Sources {
		if s.Type == "embedded" {
			keys["phi-data.key"] = bytes.Repeat([]byte("k"), 64)
		}
	}
	modules := fstest.MapFS{}
	for _, name := range []string{"modules.dep", "modules.builtin", "modules.softdep", "modules.alias"} {
		modules[name] = &fstest.MapFile{}
	}
	if _, err := initramfs.Build(&out, initramfs.Spec{Init: []byte("\x7fELF init"), KernelVersion: "6.1", ModulesFS: modules, Config: c, Keys: keys}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, InitrdFile), out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func liveConfig(sources ...string) handoff.Config {
	c := handoff.Config{Version: handoff.Version, OnFailure: handoff.Degrade, Volumes: []handoff.Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}}}
	for _, s := range sources {
		c.Sources = append(c.Sources, handoff.Source{Type: s, Label: handoff.KeyLabel})
	}
	return c
}

// TestLive: the live initramfs does what the image's own does, with its configuration.
func TestLive(t *testing.T) {
	e := &export{Options: Options{Image: imageWith(t, liveConfig("device")), Live: true, Modules: []string{"generic"}}}
	spec := initramfs.Spec{Modules: e.Modules, Files: map[string][]byte{}}
	if err := e.live(&spec); err != nil {
		t.Fatal(err)
	}
	if len(spec.Config.Volumes) != 1 || spec.Config.Sources[0].Type != "device" || spec.Config.OnFailure != handoff.Degrade || len(spec.Config.Modules) != 0 {
		t.Errorf("configuration %+v, want the image's", spec.Config)
	}
	if !slices.Contains(spec.Modules, "loop") || spec.Files[strings.TrimPrefix(netimage.LivePath, "/")] == nil {
		t.Errorf("modules %v, files %v", spec.Modules, spec.Files)
	}

	verified := liveConfig("device")
	verified.Verity = true
	further := liveConfig("device")
	further.Volumes = append(further.Volumes, handoff.Volume{Name: "archive", PartLabel: "archive", KeyFile: "archive.key", Mount: "/srv/archive"})
	for want, c := range map[string]handoff.Config{"verified root": verified, "the PHI volume archive beside phi-data": further, "has the key of patients' data in it": liveConfig("embedded")} {
		e := &export{Options: Options{Image: imageWith(t, c), Live: true}}
		if err := e.live(&initramfs.Spec{Files: map[string][]byte{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("live = %v, want an error with %q", err, want)
		}
	}
	if err := (&export{Options: Options{Image: t.TempDir()}}).live(&initramfs.Spec{}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("live of no image = %v", err)
	}
}

// TestServedWords: what is served says what the export's script says.
func TestServedWords(t *testing.T) {
	e := &export{Options: Options{Live: true}, from: &builder.Manifest{Cmdline: "root=PARTUUID=x ro audit=1 console=ttyS0,115200 loglevel=5"}}
	want := []string{"audit=1", "console=ttyS0,115200", "loglevel=5"}
	if got := e.words(); !slices.Equal(got, want) {
		t.Errorf("words = %q, want %q", got, want)
	}
	if got := wordsOf(Script("https://192.0.2.1/", want)); !slices.Equal(got, want) {
		t.Errorf("wordsOf = %q, want %q", got, want)
	}
	if got := wordsOf(Script("", nil)); len(got) != 0 {
		t.Errorf("wordsOf = %q, want none", got)
	}
	if got := wordsOf("#!ipxe\nboot\n"); got != nil {
		t.Errorf("wordsOf = %q, want none", got)
	}
	if got := (&export{from: e.from}).words(); got != nil {
		t.Errorf("words of an installation = %q, want none", got)
	}
}
