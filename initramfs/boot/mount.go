package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
)

// basics are the file systems that the kernel offers itself; flags and modes are
// those that systemd would choose, because it finds them mounted and keeps them.
var basics = []struct {
	target, fs string
	flags      uintptr
	data       string
}{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%"},
}

func mountBasics() error {
	for _, b := range basics {
		if err := os.MkdirAll(b.target, 0o755); err != nil {
			return err
		}
		err := unix.Mount(b.fs, b.target, b.fs, b.flags, b.data)
		if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: CONFIG_DEVTMPFS_MOUNT has been faster
			return fmt.Errorf("mount %s: %w", b.target, err)
		}
	}
	return nil
}

// rootSpec is what root= asks for.
type rootSpec struct {
	text  string
	match func(disks.Block) bool
}

// parseRoot reads root=. A device by name is accepted, as the kernel does, but
// no image of ward says so: names differ from boot to boot.
func parseRoot(s string) (rootSpec, error) {
	kind, value, ok := strings.Cut(s, "=")
	value = strings.Trim(value, `"`)
	spec := rootSpec{text: s}
	switch {
	case ok && value == "":
		return rootSpec{}, fmt.Errorf("root=%s: no value", s)
	case ok && kind == "PARTUUID":
		spec.match = func(b disks.Block) bool { return strings.EqualFold(b.PartUUID, value) }
	case ok && kind == "PARTLABEL":
		spec.match = func(b disks.Block) bool { return b.PartLabel == value }
	case ok && kind == "UUID":
		spec.match = func(b disks.Block) bool { return b.FS != "crypto_LUKS" && strings.EqualFold(b.UUID, value) }
	case ok && kind == "LABEL":
		spec.match = func(b disks.Block) bool { return b.Label == value && b.FS != "" }
	case strings.HasPrefix(s, "/dev/") && len(s) > len("/dev/"):
		spec.match = func(b disks.Block) bool { return b.Path == s }
	default:
		return rootSpec{}, fmt.Errorf("root=%s: want PARTUUID=, PARTLABEL=, UUID=, LABEL= or /dev/", s)
	}
	return spec, nil
}

// mountRoot waits for the root partition and mounts it, read-only unless the
// kernel line says rw. There is no fsck here: ext4 and xfs replay their journal
// when they are mounted, and systemd-fsck-root runs before root is made writable.
func (m *machine) mountRoot() error {
	if m.options.Root != nil {
		return m.mountGiven()
	}
	text, ok := m.line.Get("root")
	if !ok {
		return errors.New("the kernel line has no root=")
	}
	spec, err := parseRoot(text)
	if err != nil {
		return err
	}
	limit := m.timeout(rootTimeout)
	ctx, cancel := m.context(limit)
	defer cancel()
	found, err := m.disks.Wait(ctx, spec.match)
	if err != nil {
		return fmt.Errorf("no device with %s appeared in %s", text, limit)
	}
	m.timing("root found")()
	m.root = spec
	b := found[0]
	// A disk that does not answer is not waited for: it cannot be told from none.
	settle, cancel := m.context(2 * time.Second)
	defer cancel()
	_ = m.disks.Settle(settle)
	if err := m.onlyRoot(); err != nil {
		return err
	}
	device := b.Path
	verity, verified, err := m.verity()
	if err != nil {
		return err
	}
	if verified {
		if device, err = m.mapVerity(b, verity); err != nil {
			return err
		}
	}
	fstype, _ := m.line.Get("rootfstype")
	if fstype == "" {
		fstype = b.FS
	}
	if verified { // what the partition says is not believed
		fstype = "ext4"
	}
	if fstype == "" || fstype == "crypto_LUKS" {
		return fmt.Errorf("%s has no file system that is known here", b.Path)
	}
	if err := m.modules.Load(fstype); err != nil {
		return err
	}
	flags, data := uintptr(unix.MS_RDONLY), ""
	if m.line.Last("ro", "rw") == "rw" && !verified {
		flags = 0
	}
	if v, ok := m.line.Get("rootflags"); ok {
		data = v
	}
	if err := os.MkdirAll(sysroot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, sysroot, fstype, flags, data); err != nil {
		if verified {
			err = notVerified(err)
		}
		return fmt.Errorf("mount %s as %s: %w", device, fstype, err)
	}
	m.log.Info("root is mounted", "device", device, "fs", fstype)
	if verified {
		if err := m.overlay(); err != nil {
			return err
		}
	}
	return m.readPins()
}

// mountGiven mounts a root that Options.Root gives.
func (m *machine) mountGiven() error {
	given, err := m.options.Root(context.Background(), Found{Log: m.log, Line: m.line, Disks: m.disks, Modules: m.modules})
	if err != nil {
		return err
	}
	if err := m.modules.Load("ext4"); err != nil {
		return err
	}
	if err := os.MkdirAll(sysroot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(given.Device, sysroot, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", given.Device, err)
	}
	root, err := os.OpenRoot(sysroot)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := given.Prepare(root); err != nil {
		return err
	}
	m.log.Info("root is mounted", "device", given.Device)
	return m.readPins()
}

// onlyRoot refuses a second device that root= fits: a copy of the disk is
// attached, and which of them is the right one cannot be known.
func (m *machine) onlyRoot() error {
	if m.root.match == nil {
		return nil // root is given
	}
	found := m.disks.Find(m.root.match)
	if len(found) > 1 {
		return fmt.Errorf("%s and %s both have %s: detach the copy", found[0].Path, found[1].Path, m.root.text)
	}
	return nil
}

// readPins reads which volumes this machine knows. No file is right before the
// first volume is made; a file that cannot be read is not.
func (m *machine) readPins() error {
	root, err := os.OpenRoot(sysroot)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := root.ReadFile(strings.TrimPrefix(handoff.PinsPath, "/"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		m.pins, err = handoff.DecodePins(data)
	}
	if err != nil {
		m.pinErr = err
	}
	m.hasPins = true
	return nil
}
