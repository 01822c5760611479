// Command init is the first process of a ward machine, PID 1 in the initramfs.
// It opens the PHI volumes and becomes the real init. See package boot.
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this program is the first process of a machine and does nothing else")
		os.Exit(2)
	}
	err := boot.Safely(func() error { return boot.Run(options()) })
	// A machine that starts again on a failure would try for ever, but for one whose
	// boot loader counts: that one tries until the former kernel's turn comes.
	what, how := "is switched off", unix.LINUX_REBOOT_CMD_POWER_OFF
	if errors.Is(err, boot.ErrTried) {
		what, how = "starts again", unix.LINUX_REBOOT_CMD_RESTART
	}
	fmt.Fprintf(os.Stderr, "ward-init: the machine %s: %v\n", what, err)
	boot.End(how)
}
