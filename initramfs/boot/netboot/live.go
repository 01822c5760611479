package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot"
	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/netkeys"
	"ward/initramfs/handoff"
	"ward/initramfs/netimage"
)

// Live are the options of a boot whose root comes over the network into memory;
// only patients' data are on a disk. The manifest is verified as for an
// installation, and each part of root before it is stored.
func Live() boot.Options {
	o, net := netkeys.Options()
	o.Root = func(ctx context.Context, f boot.Found) (boot.Given, error) {
		in := &install{log: f.Log, line: f.Line, disks: f.Disks, modules: f.Modules, net: net()}
		given, err := in.live(ctx)
		if err != nil {
			err = fmt.Errorf("live: %w", err)
			if in.server != nil {
				in.server.report("refused: " + err.Error())
			}
		}
		return given, err
	}
	return o
}

// live fetches root into memory.
func (in *install) live(ctx context.Context) (boot.Given, error) {
	data, err := os.ReadFile(netimage.PinsPath)
	if err != nil {
		return boot.Given{}, err
	}
	if in.pins, err = netimage.DecodePins(data); err != nil {
		return boot.Given{}, err
	}
	if err := in.network(ctx); err != nil {
		return boot.Given{}, err
	}
	m, err := in.server.manifest(ctx, in.pins.PublicKey)
	if err != nil {
		return boot.Given{}, err
	}
	in.log.Info("the manifest is signed by the pinned key", "image", m.Image, "made", m.Made.Format(time.DateOnly))
	me, known, err := m.Find(in.server.macs, in.server.serial)
	if err != nil {
		return boot.Given{}, err
	}
	var config []byte
	if known {
		if config, err = in.server.config(ctx, me); err != nil {
			return boot.Given{}, err
		}
	}
	if err := in.partition(ctx, m, me); err != nil {
		return boot.Given{}, err
	}
	in.server.report("loads " + m.Image + " into memory")
	device, err := in.root(ctx, m.Disk)
	if err != nil {
		return boot.Given{}, err
	}
	in.server.report("starts " + m.Image + " from memory")
	return boot.Given{Device: device, Prepare: func(root *os.Root) error {
		if config != nil {
			if err := putConfig(root.Name(), path.Join("var", configPath), config); err != nil {
				return err
			}
		}
		// Neither root nor an EFI system partition is on a disk.
		return root.WriteFile("etc/fstab", []byte("# /etc/fstab: root is in memory. The PHI volume's line is added when it is there.\n"+device+" / ext4 defaults 0 0\n"), 0o644)
	}}, nil
}

// root stores the root partition of the image in memory and makes a block device of it.
func (in *install) root(ctx context.Context, d netimage.Disk) (string, error) {
	u, err := netimage.NewUnpacker()
	if err != nil {
		return "", err
	}
	var t *table
	if err := in.server.part(ctx, d, 0, 1, func(i int, frame []byte) error {
		plain, err := u.Unpack(d, i, frame)
		if err == nil {
			t, err = readTable(plain, d.Sector)
		}
		return err
	}); err != nil {
		return "", err
	}
	p, dir, err := t.written()
	if err != nil {
		return "", err
	}
	if dir != "var" {
		return "", errors.New("the image has a verified root, which is not supported in memory: each part is verified as it comes")
	}
	if p.start < 0 || p.length <= 0 || p.start+p.length > d.Size {
		return "", fmt.Errorf("the root partition is from byte %d, %d long, on a disk of %d", p.start, p.length, d.Size)
	}
	from, to := int(p.start/d.ChunkSize), int((p.start+p.length-1)/d.ChunkSize)+1
	if err := enough(d, from, to, availableBytes()); err != nil {
		return "", err
	}
	fd, err := unix.MemfdCreate("ward-root", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "ward-root")
	defer f.Close() // the loop device has it from then on
	if err := f.Truncate(p.length); err != nil {
		return "", err
	}
	err = in.server.part(ctx, d, from, to, func(i int, frame []byte) error {
		plain, err := u.Unpack(d, i, frame)
		if err != nil || d.Chunks[i].Zero {
			return err
		}
		return store(f, plain, int64(i)*d.ChunkSize-p.start, p.length)
	})
	if err != nil {
		return "", err
	}
	return in.loop(f)
}

// page is what memory is stored in; one of zeros is not stored.
const page = 4096

// store writes what of a piece of the disk lies within the partition, at is where the
// piece begins in it. Pages of zeros stay holes.
func store(f *os.File, piece []byte, at, length int64) error {
	if at < 0 {
		piece, at = piece[min(int64(len(piece)), -at):], 0
	}
	piece = piece[:max(0, min(int64(len(piece)), length-at))]
	zero := make([]byte, page)
	for len(piece) > 0 {
		n := min(page, len(piece))
		if !bytes.Equal(piece[:n], zero[:n]) {
			if _, err := f.WriteAt(piece[:n], at); err != nil {
				return err
			}
		}
		piece, at = piece[n:], at+int64(n)
	}
	return nil
}

// spare is what the system itself needs beside its root, bytes.
const spare = 512 << 20

// enough refuses a root that would leave no memory to work with.
func enough(d netimage.Disk, from, to int, have int64) error {
	var need int64
	for i := from; i < to; i++ {
		if !d.Chunks[i].Zero {
			need += d.Length(i)
		}
	}
	if have < need+spare {
		return fmt.Errorf("root takes up to %d MiB of memory and the system %d more; %d are free", need>>20, int64(spare)>>20, have>>20)
	}
	return nil
}

// availableBytes is MemAvailable of /proc/meminfo.
func availableBytes() int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var n int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil {
			return n << 10
		}
	}
	return 0
}

// loop makes a block device of a file in memory.
func (in *install) loop(f *os.File) (string, error) {
	if err := in.modules.Load("loop"); err != nil {
		return "", err
	}
	control, err := await("/dev/loop-control", os.O_RDWR)
	if err != nil {
		return "", err
	}
	defer control.Close()
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), unix.LOOP_CTL_GET_FREE, 0)
	if errno != 0 {
		return "", fmt.Errorf("loop device: %w", errno)
	}
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := await(name, os.O_RDWR)
	if err != nil {
		return "", err
	}
	defer dev.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	copy(config.Info.File_name[:], "ward-root")
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		return "", fmt.Errorf("loop device: %w", err)
	}
	return name, nil
}

// await opens a node that devtmpfs makes by itself.
func await(name string, flag int) (f *os.File, err error) {
	for range 100 {
		if f, err = os.OpenFile(name, flag, 0); err == nil {
			return f, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, err
}

// partition makes the partition for patients' data on a disk that a rule names, if
// there is none yet. Without a rule of this machine, or on the kernel line, no disk
// is touched: the manifest's own is for installations.
func (in *install) partition(ctx context.Context, m *netimage.Manifest, me netimage.Machine) error {
	word := me.Target
	if v, ok := in.line.Get("ward.disk"); ok {
		word = v
	}
	settle, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	isPHI := func(b disks.Block) bool { return b.PartType == handoff.PHIType }
	if _, err := in.disks.Wait(settle, isPHI); err == nil || word == "" {
		return nil
	}
	rule, err := netimage.ParseRule(word)
	if err != nil {
		return err
	}
	// A partition below this has no room for a volume.
	const least = 64 << 20
	t, err := in.target(ctx, rule, netimage.Disk{Size: least, Sector: m.Disk.Sector})
	if err != nil {
		return err
	}
	if t.Data != "" {
		return fmt.Errorf("%s holds data: %s; for patients' data of a machine without an installation only a blank disk is taken", t, t.Data)
	}
	if err := makePHI(t); err != nil {
		return fmt.Errorf("write %s: %w", t, err)
	}
	in.log.Warn("this disk is for patients' data from now on", "disk", t.Name, "serial", t.Serial, "bytes", t.Size)
	in.server.report("made a partition for patients' data on " + t.String())
	again, cancel2 := context.WithTimeout(ctx, 10*time.Second)
	defer cancel2()
	if _, err := in.disks.Wait(again, isPHI); err != nil {
		return fmt.Errorf("%s: the new partition does not appear: %w", t, err)
	}
	return nil
}

// makePHI writes a partition table with one partition over the whole disk.
func makePHI(t disk) error {
	f, err := os.OpenFile(t.Path, os.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := phiTable(t.Size, t.Sector)
	if err != nil {
		return err
	}
	if err := table.Write(f, t.Size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
}

// phiTable is the partition table of a disk that is for patients' data alone.
func phiTable(size int64, sector int) (*gpt.Table, error) {
	const align = 1 << 20
	end := size/align*align - align // the last MiB has the backup table
	if end < 64<<20 {
		return nil, fmt.Errorf("%d bytes are too few", size)
	}
	return &gpt.Table{
		GUID: uuid.NewString(), ProtectiveMBR: true, LogicalSectorSize: sector, PhysicalSectorSize: sector,
		Partitions: []*gpt.Partition{{
			Index: 1, Name: "phi-data", Type: gpt.Type(strings.ToUpper(handoff.PHIType)), GUID: uuid.NewString(),
			Start: uint64(align / int64(sector)), End: uint64(end/int64(sector)) - 1, Size: uint64(end - align),
		}},
	}, nil
}
