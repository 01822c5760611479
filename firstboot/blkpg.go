package firstboot

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blkpg tells the kernel of a partition, linux/blkpg.h.
func blkpg(f *os.File, op int32, c change) error {
	part := unix.BlkpgPartition{Start: c.start, Length: c.length, Pno: int32(c.number)}
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}
