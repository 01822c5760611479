package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"ward/builder/command"
	"ward/initramfs/loader"
)

// legacyBoot is the attribute "legacy BIOS bootable" (UEFI 2.10, table 5-9), by
// which syslinux's boot sector knows the partition to start.
const legacyBoot = 1 << 2

// bootCode is how much of the first sector is code; the protective MBR is behind it.
const bootCode = 440

// bootSectors is where distributions keep syslinux's boot sector for GPT.
var bootSectors = []string{"/usr/lib/syslinux/mbr/gptmbr.bin", "/usr/share/syslinux/gptmbr.bin", "/usr/lib/SYSLINUX/gptmbr.bin"}

// BootSector is the first of them that is there.
func BootSector() (string, error) {
	for _, name := range bootSectors {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", errors.New("no boot sector of syslinux: " + strings.Join(bootSectors, ", ") + "\nhint: install syslinux-common, or take bios out of the image file's firmware")
}

// writeBIOS has syslinux install itself into the partition at an offset in bytes
// of the image, as it can without a mount, and writes the boot sector that starts it.
func writeBIOS(ctx context.Context, log *slog.Logger, image, sectorFile string, start int64) error {
	code, err := os.ReadFile(sectorFile)
	if err != nil {
		return err
	}
	if len(code) == 0 || len(code) > bootCode {
		return fmt.Errorf("%s has %d bytes, want 1 to %d", sectorFile, len(code), bootCode)
	}
	err = command.Start(ctx, log, command.Spec{
		Argv: []string{"syslinux", "--install", "--directory", loader.BIOSDir, "--offset", strconv.FormatInt(start, 10), image},
		Env:  append(os.Environ(), "MTOOLS_SKIP_CHECK=1"),
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(code, 0)
	return errors.Join(err, f.Close())
}
