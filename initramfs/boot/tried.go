package boot

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

// ErrTried is in the error of a boot that the boot loader counts: the next one, or
// the one after it, starts the kernel that worked.
var ErrTried = errors.New("this kernel is on trial")

const efivars = "/sys/firmware/efi/efivars"

// counted tells whether the boot loader counts this boot. Whatever cannot be asked
// is a no: the machine is then switched off, and counts when it is started again.
func (m *machine) counted() bool {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil || m.modules == nil {
		return false
	}
	if err := m.modules.Load("efivarfs"); err != nil {
		m.log.Debug("efivarfs", "error", err)
	}
	if err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		m.log.Debug("efivarfs", "error", err)
		return false
	}
	_, err := os.Stat(filepath.Join(efivars, handoff.BootCountVariable))
	return err == nil
}
