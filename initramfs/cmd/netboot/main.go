// Command netboot is the first process, PID 1, of a machine that is installed
// over the network. It writes one disk and reboots into it, or says why not and
// switches the machine off. In an initramfs that has netimage.LivePath it loads
// root into memory instead, and becomes the real init. See package netboot.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot"
	"ward/initramfs/boot/netboot"
	"ward/initramfs/netimage"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "netboot: this program is the first process of a machine and does nothing else")
		os.Exit(2)
	}
	if _, err := os.Stat(netimage.LivePath); err == nil {
		err := boot.Safely(func() error { return boot.Run(netboot.Live()) }) // it becomes the real init
		fmt.Fprintln(os.Stderr, "ward-init: the machine is switched off:", err)
		boot.End(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	how := unix.LINUX_REBOOT_CMD_RESTART
	if err := boot.Safely(netboot.Run); err != nil {
		// A machine that tries for ever hides its reason; off is seen by whoever
		// looks, and the console has the reason.
		fmt.Fprintln(os.Stderr, "ward-netboot: not installed, the machine is switched off:", err)
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	boot.End(how)
}
