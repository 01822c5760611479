package firstboot

import (
	"errors"
	"fmt"
	"io/fs"
)

const (
	efiDir  = "sys/firmware/efi"
	efiVars = efiDir + "/efivars"
	// secureBootPath is UEFI's variable SecureBoot (UEFI 2.10, 3.3), as efivarfs shows it.
	secureBootPath = efiVars + "/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
)

// secureBoot tells whether the firmware starts only what is signed.
func (m *Machine) secureBoot() (bool, error) {
	data, err := m.root.ReadFile(secureBootPath)
	if errors.Is(err, fs.ErrNotExist) {
		// A BIOS, or a UEFI that never heard of it. To take variables that are not shown
		// for a no could end a machine whose image is signed.
		if _, e := m.root.Stat(efiDir); e == nil && m.facts.Image.SecureBoot != "" {
			if all, e := fs.ReadDir(m.root.FS(), efiVars); e != nil || len(all) == 0 {
				return false, fmt.Errorf("/%s shows no variable, and the image is signed", efiVars)
			}
		}
		return false, nil
	} else if err != nil {
		return false, err
	}
	if len(data) != 5 { // four bytes of attributes
		return false, fmt.Errorf("/%s has %d bytes, want 5", secureBootPath, len(data))
	}
	return data[4] == 1, nil
}

// CheckKernel tells whether the machine could make a kernel bootable: where the
// firmware wants a signature it cannot, as the key is not on the machine. The
// package manager asks before it unpacks a kernel.
func (m *Machine) CheckKernel(version string) error {
	if !kernelVersion.MatchString(version) {
		return fmt.Errorf("kernel version %q: not one", version)
	}
	if m.facts.Image.Verity {
		return errHint(fmt.Errorf("kernel %s: root is verified and read-only, and its kernel image belongs to it", version), "bake a new image with `ward build --update`")
	}
	if _, ok := rootPartition(m.line("proc/cmdline")); !ok && m.line("proc/cmdline") != "" {
		return errHint(fmt.Errorf("kernel %s: root is in memory, and the machine starts what the network gives it", version), "bake a new image and export it with `ward pxe export --live`")
	}
	on, err := m.secureBoot()
	if err != nil {
		return fmt.Errorf("kernel %s: Secure Boot: %w", version, err)
	}
	if !on {
		return nil
	}
	return errHint(fmt.Errorf("kernel %s: Secure Boot is on and the key that signs kernel images is not on the machine, so it could not start", version),
		"bake a new image with `ward build --update --secure-boot-key`; what boots now stays as it is")
}
