// Package arch holds what differs between the processors that ward bakes for, as
// data: one row each. What also differs between releases is a column of package
// distro.
//
//	a, err := arch.Find("arm64")
package arch

import (
	"fmt"
	"strings"
)

// Arch is what is known of one architecture.
type Arch struct {
	Name    string // of Debian, of Go and in image files: "amd64"
	Machine string // of uname(2), and the end of QEMU's names: "x86_64"
	// EFI is the end of names of UEFI programs: UEFI 2.10, 3.5.1.1; systemd's are lower case.
	EFI     string
	Console string // serial console of a server, for console=
	BIOS    bool   // there are machines with a BIOS
	// NoCalls are older system calls that its 64-bit table lacks, and that auditctl(8)
	// refuses a rule for; a program there makes the newer ones (unlinkat for unlink).
	NoCalls []string
}

// All is every architecture that ward knows.
var All = []Arch{
	{Name: "amd64", Machine: "x86_64", EFI: "x64", Console: "ttyS0,115200", BIOS: true},
	{
		Name: "arm64", Machine: "aarch64", EFI: "aa64", Console: "ttyAMA0,115200",
		// ausyscall aarch64 CALL of Debian 12; the table is the kernel's include/uapi/asm-generic/unistd.h.
		NoCalls: []string{"chmod", "chown", "creat", "lchown", "open", "rename", "rmdir", "unlink"},
	},
}

// Find returns the row of an architecture, or an error that lists the known ones.
func Find(name string) (Arch, error) {
	var names []string
	for _, a := range All {
		if a.Name == name {
			return a, nil
		}
		names = append(names, a.Name)
	}
	return Arch{}, fmt.Errorf("architecture %q is not known; known are: %s", name, strings.Join(names, ", "))
}

// BootFile is the file that a firmware starts from the EFI system partition by itself.
func (a Arch) BootFile() string { return "/EFI/BOOT/BOOT" + strings.ToUpper(a.EFI) + ".EFI" }

// File is the name for this architecture of a UEFI program that a row of package
// distro names for amd64, such as usr/lib/systemd/boot/efi/linuxx64.efi.stub.
func (a Arch) File(amd64 string) string {
	at := strings.LastIndex(amd64, All[0].EFI+".")
	if at < 0 {
		return amd64
	}
	return amd64[:at] + a.EFI + amd64[at+len(All[0].EFI):]
}
