package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Safely runs what a first process does and makes an error of its panic, which
// would be one of the kernel.
func Safely(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("init is broken: %v", r)
		}
	}()
	return run()
}

// End stops the machine: how is a command of reboot(2); where that fails the
// machine is switched off, or halts. It does not return, since a first process
// that ends is a panic of the kernel. What was said last has a second to get
// through a serial line.
func End(how int) {
	unix.Sync()
	time.Sleep(time.Second)
	for _, h := range []int{how, unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_HALT} {
		_ = unix.Reboot(h)
	}
	select {}
}
