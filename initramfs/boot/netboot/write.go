package netboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// head is what of a disk's beginning is written last: protective MBR and primary
// partition table, 34 sectors (UEFI 2.10, 5.3.1).
const head = 34 * 512

// write writes the image. The order is what keeps a half-written disk from being
// started: the first sector says that it is unfinished and no table is there until
// everything else is on the medium.
func (in *install) write(ctx context.Context, m *netimage.Manifest, t disk, config []byte) (err error) {
	// O_EXCL fails while somebody has mounted or mapped it: open(2). The claim keeps
	// others off, and ours too: it is given up before the new root is mounted.
	claim, err := os.OpenFile(t.Path, os.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", t, err)
	}
	defer claim.Close()
	f, err := os.OpenFile(t.Path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", t, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fail := func(err error) error { return fmt.Errorf("write %s: %w", t, err) }

	if err := mark(f, t.Size, m.Digest); err != nil {
		return fail(err)
	}
	table, err := in.chunks(ctx, f, m.Disk)
	if err != nil {
		return fail(err)
	}
	if err := clearRest(f, m.Disk.Size, t.Size); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if config != nil {
		if err := claim.Close(); err != nil {
			return fail(err)
		}
		if err := in.leaveConfig(f, t, table, config); err != nil {
			return fail(err)
		}
	}
	if err := table.grow(t.Size); err != nil {
		return fail(err)
	}
	if err := table.write(f, t.Size); err != nil {
		return fail(err)
	}
	return nil
}

// mark says in the first sector that the disk is unfinished, and removes both
// partition tables.
func mark(f *os.File, size int64, digest string) error {
	first := make([]byte, head)
	copy(first, fmt.Sprintf("%s of image %.64s\n", unfinished, digest))
	if _, err := f.WriteAt(first, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, head), size-head); err != nil {
		return err
	}
	return f.Sync()
}

// chunks writes every chunk but the head and gives the image's partition table.
func (in *install) chunks(ctx context.Context, f *os.File, d netimage.Disk) (*table, error) {
	u, err := netimage.NewUnpacker()
	if err != nil {
		return nil, err
	}
	var t *table
	err = in.server.stream(ctx, d, func(i int, frame []byte) error {
		plain, err := u.Unpack(d, i, frame)
		if err != nil {
			return err
		}
		at := int64(i) * d.ChunkSize
		if i == 0 {
			if t, err = readTable(plain, d.Sector); err != nil {
				return err
			}
			plain, at = plain[head:], head
		}
		// What is after the last partition is the table's backup, of another disk's end.
		if end := at + int64(len(plain)); end > t.end() {
			clear(plain[max(0, t.end()-at):])
		}
		if d.Chunks[i].Zero {
			return zero(f, at, int64(len(plain)))
		}
		_, err = f.WriteAt(plain, at)
		return err
	})
	return t, err
}

// zero has the disk zero a range; BLKZEROOUT of linux/fs.h falls back to writing
// zeros in the kernel itself.
func zero(f *os.File, at, n int64) error {
	const blkZeroOut = 0x127f
	span := [2]uint64{uint64(at), uint64(n)}
	if n == 0 {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span)))
	if errno == 0 {
		return nil
	}
	if errno != unix.ENOTTY && errno != unix.EOPNOTSUPP {
		return fmt.Errorf("zero %d bytes at %d: %w", n, at, errno)
	}
	buf := make([]byte, 1<<20)
	for n > 0 {
		k := min(n, int64(len(buf)))
		if _, err := f.WriteAt(buf[:k], at); err != nil {
			return err
		}
		at, n = at+k, n-k
	}
	return nil
}

// clearRest zeroes both ends of what the last partition grows into: what formats it
// wants no trace of older data there, and the whole of a large disk takes hours.
func clearRest(f *os.File, image, size int64) error {
	const most = 64 << 20
	if err := zero(f, image, min(most, size-image)); err != nil {
		return err
	}
	if rest := size - image - most; rest > 0 {
		n := min(most, rest)
		return zero(f, size-n, n)
	}
	return nil
}

// configPath is where wardctl looks for the config of the last boot; it is its
// ConfigPath, below /var.
const configPath = "lib/ward/config.ign"

// leaveConfig mounts the new root and puts the machine's config where wardctl
// finds it. The kernel is told of the partition by hand, as no table is there yet.
func (in *install) leaveConfig(f *os.File, t disk, table *table, config []byte) error {
	p, dirOfVar, err := table.written()
	if err != nil {
		return err
	}
	n := p.number
	if err := p.ioctl(f, unix.BLKPG_ADD_PARTITION); err != nil {
		return fmt.Errorf("partition %d: %w", n, err)
	}
	defer p.ioctl(f, unix.BLKPG_DEL_PARTITION)
	name := fmt.Sprintf("%s%d", t.Path, n)
	if c := t.Path[len(t.Path)-1]; c >= '0' && c <= '9' { // block/partitions/core.c
		name = fmt.Sprintf("%sp%d", t.Path, n)
	}
	for range 100 { // devtmpfs makes the node by itself
		if _, err = os.Stat(name); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := in.modules.Load("ext4"); err != nil {
		return err
	}
	const dir = "/sysroot"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(name, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
	}
	err = putConfig(dir, path.Join(dirOfVar, configPath), config)
	unix.Sync()
	if e := unix.Unmount(dir, 0); e != nil && err == nil {
		err = fmt.Errorf("unmount %s: %w", name, e)
	}
	return err
}

// putConfig writes a file in folders that only root enters, as wardctl's own is.
func putConfig(dir, name string, config []byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(path.Dir(name)), 0o755); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(config); err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	return f.Sync()
}

// partition is one of the kernel's, linux/blkpg.h.
type partition struct {
	start, length int64
	number        int32
}

func (p partition) ioctl(f *os.File, op int32) error {
	part := unix.BlkpgPartition{Start: p.start, Length: p.length, Pno: p.number}
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

func isPHI(kind string) bool   { return strings.EqualFold(kind, handoff.PHIType) }
func isState(kind string) bool { return strings.EqualFold(kind, handoff.StateType) }
func isRoot(kind string) bool  { return strings.EqualFold(kind, handoff.RootType) }
