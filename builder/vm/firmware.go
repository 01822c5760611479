package vm

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
)

// uefi is where a distribution keeps a UEFI and the variables that go with it.
type uefi struct{ code, vars, by string }

// firmware was built without Secure Boot; the raw 4 MiB form.
var firmware = []uefi{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "Debian, Ubuntu: ovmf"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", "Fedora, Rocky: edk2-ovmf"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", "Arch: edk2-ovmf"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", "Debian before 12: ovmf"},
}

// secureFirmware was built with Secure Boot, and with its variables behind the
// system management mode; the variables are those without any key.
var secureFirmware = []uefi{
	{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "Debian, Ubuntu: ovmf"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", "Fedora, Rocky: edk2-ovmf"},
	{"/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", "Arch: edk2-ovmf"},
}

// findFirmware returns the first UEFI of a list whose two files are there.
func findFirmware(list []uefi, exists func(string) bool) (code, vars string, err error) {
	var packages []string
	for _, f := range list {
		if exists(f.code) && exists(f.vars) {
			return f.code, f.vars, nil
		}
		packages = append(packages, f.by)
	}
	return "", "", errors.New("no UEFI firmware for QEMU on this host\nhint: install one of these packages: " + strings.Join(packages, "; "))
}

// board is the machine of one architecture and what starts it.
type board struct {
	arch, qemu, by string // by: Debian's package of qemu
	machine        string // -machine
	tcgCPU         string // -cpu without KVM
	bios           bool
	firmware       []uefi
	secure         []uefi            // with Secure Boot; none: no such machine
	tpm            string            // model of a TPM
	rom            map[string]string // iPXE for the virtio card by firmware, as Debian's package ipxe-qemu has it
}

// boards are the machines, the usual one first.
var boards = []board{
	{
		arch: "amd64", qemu: "qemu-system-x86_64", by: "qemu-system-x86", machine: "q35", tcgCPU: "max", bios: true, firmware: firmware, secure: secureFirmware,
		tpm: "tpm-crb", rom: map[string]string{"uefi": "/usr/lib/ipxe/qemu/efi-virtio.rom", "bios": "/usr/lib/ipxe/qemu/pxe-virtio.rom"},
	},
	{
		// Computing pointer authentication as the architecture says takes half of TCG's time;
		// impdef is as good for a test (QEMU, docs/system/arm/cpu-features).
		arch: "arm64", qemu: "qemu-system-aarch64", by: "qemu-system-arm", machine: "virt", tcgCPU: "max,pauth-impdef=on", firmware: armFirmware,
		tpm: "tpm-tis-device",
	},
}

// armFirmware are files of 64 MiB, as the board's flash is.
var armFirmware = []uefi{
	{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "Debian, Ubuntu: qemu-efi-aarch64"},
	{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw", "Fedora, Rocky: edk2-aarch64"},
}

// boardOf finds the machine of an architecture.
func boardOf(arch string) (board, error) {
	for _, b := range boards {
		if b.arch == cmp.Or(arch, boards[0].arch) {
			return b, nil
		}
	}
	return board{}, fmt.Errorf("architecture %q: there is no machine of it here", arch)
}

// Missing names, with its package, each host program that starting a machine
// of amd64 needs and that is not there.
func Missing() error { return MissingFor(boards[0].arch) }

// MissingFor is Missing for a machine of that architecture; empty: the usual one.
func MissingFor(arch string) error {
	b, err := boardOf(arch)
	if err != nil {
		return err
	}
	var faults []error
	for _, p := range []struct{ name, by string }{
		{b.qemu, b.by},
		{"qemu-img", "qemu-utils"},
	} {
		if _, err := lookPath(p.name); err != nil {
			faults = append(faults, fmt.Errorf("%s is not installed\nhint: install the package %s", p.name, p.by))
		}
	}
	if _, _, err := findFirmware(b.firmware, isFile); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
