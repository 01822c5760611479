package boot

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrTried is in the error of a boot that the boot loader counts: the next one, or
// the one after it, starts the kernel that worked.
var ErrTried = errors.New("this kernel is on trial")

// bootCount is the variable of systemd-boot's Boot Loader Interface that is there
// while it counts.
const (
	efivars   = "/sys/firmware/efi/efivars"
	bootCount = efivars + "/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

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
	_, err := os.Stat(bootCount)
	return err == nil
}
