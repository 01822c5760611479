package disk

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWriteBIOS(t *testing.T) {
	l := layout(t)
	boot := l.ESP.Files["/EFI/BOOT/BOOTX64.EFI"]
	l.ESP.Files["/syslinux/vmlinuz-6.1.0-56-cloud-amd64"] = boot
	var err error
	if l.BIOS, err = BootSector(); err != nil {
		t.Fatal(err)
	}
	var disks [2][]byte
	for i := range disks {
		img := filepath.Join(t.TempDir(), "disk.raw")
		if err := Write(t.Context(), slog.New(slog.DiscardHandler), img, l); err != nil {
			t.Fatal(err)
		}
		disks[i] = read(t, img)
		if i == 1 {
			break
		}
		if out := run(t, "sgdisk", "--verify", img); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk --verify: %s", out)
		}
		if out := run(t, "sgdisk", "--attributes=1:show", img); !strings.Contains(out, "legacy BIOS bootable") {
			t.Errorf("sgdisk --attributes: %s", out)
		}
		code := read(t, l.BIOS)
		if !bytes.Equal(disks[0][:len(code)], code) {
			t.Error("the first sector is not syslinux's")
		}
		esp := filepath.Join(t.TempDir(), "esp")
		if err := os.WriteFile(esp, disks[0][alignment:alignment+l.ESP.Size], 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "fsck.vfat", "-n", esp)
		out := run(t, "env", "MTOOLS_SKIP_CHECK=1", "mdir", "-/", "-a", "-b", "-i", esp)
		for _, want := range []string{"::/syslinux/ldlinux.sys", "::/syslinux/ldlinux.c32", "::/syslinux/vmlinuz-6.1.0-56-cloud-amd64", "::/EFI/BOOT/BOOTX64.EFI"} {
			if !strings.Contains(out, want) {
				t.Errorf("mdir has no %s:\n%s", want, out)
			}
		}
		time.Sleep(2100 * time.Millisecond) // FAT's times have two seconds
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("the same layout gives two disks")
	}
}

func TestWriteBIOSRefuses(t *testing.T) {
	l := layout(t)
	l.BIOS = filepath.Join(t.TempDir(), "sector")
	if err := os.WriteFile(l.BIOS, make([]byte, 441), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Write(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "disk.raw"), l)
	if err == nil || !strings.Contains(err.Error(), "has 441 bytes, want 1 to 440") {
		t.Errorf("Write() = %v, want that the boot sector is too long", err)
	}
}
