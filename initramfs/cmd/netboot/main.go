// Command netboot is the first process, PID 1, of a machine that is installed
// over the network. It writes one disk and reboots into it, or says why not and
// switches the machine off. See package netboot.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot/netboot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "netboot: this program is the first process of a machine and does nothing else")
		os.Exit(2)
	}
	how := unix.LINUX_REBOOT_CMD_RESTART
	if err := run(); err != nil {
		// A machine that tries for ever hides its reason; off is seen by whoever
		// looks, and the console has the reason.
		fmt.Fprintln(os.Stderr, "ward-netboot: not installed, the machine is switched off:", err)
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	unix.Sync()
	time.Sleep(time.Second) // a serial line needs it to say so
	if err := unix.Reboot(how); err != nil {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
	}
	select {}
}

func run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("init is broken: %v", r)
		}
	}()
	return netboot.Run()
}
