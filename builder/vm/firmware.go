package vm

import (
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

// Missing names, with its package, each host program that starting a machine
// needs and that is not there.
func Missing() error {
	var faults []error
	for _, p := range []struct{ name, by string }{
		{qemu, "qemu-system-x86"},
		{"qemu-img", "qemu-utils"},
	} {
		if _, err := lookPath(p.name); err != nil {
			faults = append(faults, fmt.Errorf("%s is not installed\nhint: install the package %s", p.name, p.by))
		}
	}
	if _, _, err := findFirmware(firmware, isFile); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
