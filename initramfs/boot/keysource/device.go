package keysource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
)

// fromDevice reads the key file from the top folder of a file system with the
// source's label or partition UUID. The device may appear at any time before ctx
// ends; a device without the file does not end the wait for another one.
func fromDevice(ctx context.Context, src handoff.Source, req Request) (*Key, error) {
	if req.Disks == nil {
		return nil, errors.New("no list of block devices")
	}
	what := "file system with label " + src.Label
	if src.PartUUID != "" {
		what = "partition " + src.PartUUID
	}
	match := func(b disks.Block) bool {
		if src.PartUUID != "" {
			return strings.EqualFold(b.PartUUID, src.PartUUID)
		}
		// A label on something that is not a file system we mount is no key device.
		return b.Label == src.Label && mountable[b.FS]
	}
	seen := map[string]bool{}
	var last error
	for {
		found, err := req.Disks.WaitNew(ctx, match, seen)
		if err != nil {
			if last != nil {
				return nil, last
			}
			return nil, fmt.Errorf("no %s: %w", what, err)
		}
		for _, b := range found {
			key, err := readFrom(b, req)
			if err == nil {
				return key, nil
			}
			last = fmt.Errorf("%s: %w", b.Path, err)
			req.Log.Warn("key device is of no use", "device", b.Path, "error", err)
			seen[b.Name] = true
		}
	}
}

// mountable are the file systems that a key device may have.
var mountable = map[string]bool{"ext4": true, "vfat": true}

// readFrom reads the key through a mount that has no place in the file system:
// nobody else can open it, and it is gone with its file descriptor.
func readFrom(b disks.Block, req Request) (*Key, error) {
	if !mountable[b.FS] {
		return nil, fmt.Errorf("file system %q is not one of ext2, ext3, ext4, vfat", b.FS)
	}
	if req.Module != nil {
		for _, m := range fsModules[b.FS] {
			if err := req.Module(m); err != nil {
				return nil, err
			}
		}
	}
	dir, err := mountDetached(b)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer unix.Close(dir)
	return readKeyAt(dir, req.KeyFile)
}

// fsModules are loaded before a mount. vfat needs its code page and asks for it
// by name, which only works where modprobe is.
var fsModules = map[string][]string{
	"ext4": {"ext4"},
	"vfat": {"vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"},
}

// mountDetached mounts a device read-only with the mount API of Linux 5.2,
// fsopen(2). "noload" keeps ext3 and ext4 from replaying their journal, which
// would write to the key device.
func mountDetached(b disks.Block) (int, error) {
	fs, err := unix.Fsopen(b.FS, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", b.Path); err != nil {
		return -1, err
	}
	flags := []string{"ro"}
	if b.FS == "ext4" {
		flags = append(flags, "noload")
	}
	for _, o := range flags {
		if err := unix.FsconfigSetFlag(fs, o); err != nil {
			return -1, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// readKeyAt reads a regular file below the folder dir, following no link. It
// reads past the page cache where the file system can, so that the kernel keeps
// no copy of the key in memory that nobody wipes.
func readKeyAt(dir int, name string) (*Key, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_DIRECT, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	fd, err := unix.Openat2(dir, name, &how)
	if errors.Is(err, unix.EINVAL) { // no direct reads here
		how.Flags &^= unix.O_DIRECT
		fd, err = unix.Openat2(dir, name, &how)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	if err := checkLength(int(min(info.Size(), 1<<30))); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	// The mapping starts on a page and is a multiple of every block size, as
	// open(2) asks for direct reads.
	n, err := f.ReadAt(k.mem, 0)
	if err != nil && err != io.EOF {
		k.Wipe()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(n) != info.Size() {
		k.Wipe()
		return nil, fmt.Errorf("%s: read %d bytes of %d", name, n, info.Size())
	}
	k.n = n
	// Where direct reads were not possible, the cache lets go of its copy.
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	return k, nil
}
