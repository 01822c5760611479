package disk

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every format is the same disk to qemu-img, and what its platform asks for.
func TestConvert(t *testing.T) {
	l, dir := layout(t), t.TempDir()
	log := slog.New(slog.DiscardHandler)
	raw := filepath.Join(dir, "disk.raw")
	if err := Write(t.Context(), log, raw, l); err != nil {
		t.Fatal(err)
	}
	if len(Formats) == 0 {
		t.Fatal("there is no format")
	}
	for _, f := range Formats {
		t.Run(f.Name, func(t *testing.T) {
			to := filepath.Join(dir, "disk."+f.Name)
			if err := Convert(t.Context(), log, f, raw, to); err != nil {
				t.Fatal(err)
			}
			if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", f.Driver, raw, to); !strings.Contains(out, "Images are identical") {
				t.Errorf("qemu-img compare: %s", out)
			}
			if f.Name != "vhd" { // qemu-img has no check of it
				if out := run(t, "qemu-img", "check", "-f", f.Driver, to); !strings.Contains(out, "No errors were found") {
					t.Errorf("qemu-img check: %s", out)
				}
			}
			var info struct {
				Format  string `json:"format"`
				Virtual int64  `json:"virtual-size"`
			}
			if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "-f", f.Driver, "--output=json", to)), &info); err != nil {
				t.Fatal(err)
			}
			if info.Format != f.Driver || info.Virtual != l.Size() || info.Virtual%alignment != 0 {
				t.Errorf("qemu-img info: %+v, want %s of %d bytes, whole MiB", info, f.Driver, l.Size())
			}
			data := read(t, to)
			switch f.Name {
			case "vmdk":
				if !strings.Contains(string(data[:4096]), `createType="streamOptimized"`) {
					t.Error("the descriptor does not say streamOptimized")
				}
			case "vhd":
				// The footer of a fixed disk is the last sector; disk type 2 is fixed (VHD specification, "Hard Disk Footer Format").
				footer := data[len(data)-512:]
				if int64(len(data)) != l.Size()+512 || string(footer[:8]) != "conectix" || footer[63] != 2 {
					t.Errorf("%d bytes with footer %q type %d, want %d and a fixed disk's footer", len(data), footer[:8], footer[63], l.Size()+512)
				}
				if used, err := allocated(to); err != nil || used > l.Size()/2 {
					t.Errorf("the file takes %d bytes on disk (%v), want a sparse one", used, err)
				}
			}
		})
	}
}

func TestConvertUnknown(t *testing.T) {
	if _, err := FindFormat("qed"); err == nil || !strings.Contains(err.Error(), `format "qed" is not known`) {
		t.Errorf("FindFormat() = %v, want an error that names the format", err)
	}
	f, err := FindFormat("vmdk")
	if err != nil {
		t.Fatal(err)
	}
	err = Convert(t.Context(), slog.New(slog.DiscardHandler), f, "/nowhere/disk.raw", filepath.Join(t.TempDir(), "x"))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/disk.raw") {
		t.Errorf("Convert() = %v, want an error that names the file", err)
	}
	if _, err := os.Stat("/nowhere"); !os.IsNotExist(err) {
		t.Error(err)
	}
}
