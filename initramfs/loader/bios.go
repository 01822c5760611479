package loader

import (
	"fmt"
	"path"
	"strings"
)

// BIOSDir is where syslinux has its files; SyslinuxConfig is the one that it reads.
const (
	BIOSDir        = "syslinux"
	SyslinuxConfig = BIOSDir + "/syslinux.cfg"
)

// BIOSKernel and BIOSInitrd are the files of a kernel that syslinux starts.
func BIOSKernel(version string) string { return path.Join(BIOSDir, "vmlinuz-"+version) }

func BIOSInitrd(version string) string { return path.Join(BIOSDir, "initrd-"+version) }

// Syslinux is the configuration that starts the first of the versions, and has
// the others to choose from. There is no prompt: whoever can type there has the
// kernel line, and with it the machine.
func Syslinux(versions []string, cmdline string) string {
	var b strings.Builder
	b.WriteString("# Written by ward. See https://wiki.syslinux.org/wiki/index.php?title=SYSLINUX\nSERIAL 0 115200\nPROMPT 0\nNOESCAPE 1\nALLOWOPTIONS 0\n")
	fmt.Fprintf(&b, "DEFAULT %s\n", versions[0])
	for _, v := range versions {
		fmt.Fprintf(&b, "\nLABEL %s\n  LINUX %s\n  INITRD %s\n  APPEND %s\n", v, path.Base(BIOSKernel(v)), path.Base(BIOSInitrd(v)), cmdline)
	}
	return b.String()
}
