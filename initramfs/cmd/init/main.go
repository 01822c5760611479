// Command init is the first process of a ward machine, PID 1 in the initramfs.
// It opens the PHI volumes and becomes the real init. See package boot.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this program is the first process of a machine and does nothing else")
		os.Exit(2)
	}
	err := run()
	// PID 1 must not end: the kernel would panic, and a machine that reboots on
	// panic would try for ever. What happened is on the console.
	// One that the boot loader counts tries only until the former kernel's turn comes.
	if errors.Is(err, boot.ErrTried) {
		fmt.Fprintln(os.Stderr, "ward-init: the machine starts again:", err)
		unix.Sync()
		time.Sleep(time.Second)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	fmt.Fprintln(os.Stderr, "ward-init: the machine is switched off:", err)
	unix.Sync()
	time.Sleep(time.Second) // a serial line needs it to say so
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
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
	return boot.Run(options())
}
