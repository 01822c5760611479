// Package disk writes the disk image: a GPT, the EFI system partition with its
// boot files, the root file system and the blank PHI partitions. It writes plain
// files: no loop device, no device-mapper, no mount, no privilege.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	diskfs "github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sync/errgroup"

	"ward/initramfs/handoff"
)

const (
	sector = 512
	// alignment of partitions: erase blocks of flash and cloud volumes divide 1 MiB.
	alignment = 1 << 20
	// espType is the EFI system partition of UEFI 2.10, 5.3.3.
	espType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
)

// Layout is a disk: ESP, further PHI volumes, root, state where root is verified,
// and PHI, in this order. PHI is last so that it can grow when the disk does, and
// what a machine writes outside of it, root or state, is before it so that it can
// take a share of that while PHI is blank. By number the further volumes come after
// the three that every disk has, and state after them.
type Layout struct {
	GUID    string // of the disk
	ESP     ESP
	Volumes []PHI
	Root    Root
	State   Root // what a machine writes whose root is read-only; without a size: none
	PHI     PHI
	// BIOS is the boot sector of syslinux for GPT, a file of the host; empty: the
	// disk does not start under a BIOS.
	BIOS string
}

// ESP is the FAT32 partition that the firmware reads.
type ESP struct {
	GUID  string
	Size  int64             // bytes
	Files map[string]string // path in the partition -> file on the host
}

// Root is the root file system.
type Root struct {
	GUID string
	Size int64  // bytes
	File string // file system image, at most Size bytes; of Layers: empty
	// Layers are the file system image in compressed blocks. With Elsewhere they are
	// left out of the raw disk: whoever converts it takes them from here, see RootPart.
	Layers    Layers
	Elsewhere bool
}

// length is the size of the file system image in bytes.
func (r Root) length() (int64, error) {
	if r.Layers != nil {
		return r.Layers.size(), nil
	}
	info, err := os.Stat(r.File)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// PHI is a partition for patients' data; it is left blank, the machine formats it.
type PHI struct {
	GUID string
	Name string // GPT partition name
	Size int64  // bytes
}

// Size is the size of the whole disk in bytes.
func (l Layout) Size() int64 {
	// The first MiB holds the primary table, the last one the backup.
	return l.root() + up(l.Root.Size) + up(l.State.Size) + up(l.PHI.Size) + alignment
}

// root is where the root partition begins.
func (l Layout) root() int64 {
	at := alignment + up(l.ESP.Size)
	for _, v := range l.Volumes {
		at += up(v.Size)
	}
	return at
}

// RootPart is the root partition for WriteQCOW2, when Root has Layers.
func (l Layout) RootPart() Part { return Part{At: l.root(), Layers: l.Root.Layers} }

func up(n int64) int64 { return (n + alignment - 1) / alignment * alignment }

// Write writes the disk to a new sparse file. The same layout and files give
// the same bytes, given the same SOURCE_DATE_EPOCH in the environment, which
// mtools takes its times from.
func Write(ctx context.Context, log *slog.Logger, path string, l Layout) (err error) {
	systems := []fileSystem{{"root", l.Root}}
	if l.State.Size > 0 {
		systems = append(systems, fileSystem{handoff.StateLabel, l.State})
	}
	for _, p := range systems {
		if n, err := p.length(); err != nil {
			return fmt.Errorf("disk: %s: %w", p.name, err)
		} else if n > p.Size {
			return fmt.Errorf("disk: %s: file system has %d bytes, its partition %d", p.name, n, p.Size)
		}
	}
	d, err := diskfs.Create(path, l.Size(), diskfs.SectorSize512)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()

	esp := partition(1, "esp", espType, l.ESP.GUID, alignment, l.ESP.Size)
	if l.BIOS != "" {
		esp.Attributes = legacyBoot
	}
	root := partition(2, "root", handoff.RootType, l.Root.GUID, l.root(), l.Root.Size)
	behind := l.root() + up(l.Root.Size)
	phi := partition(3, l.PHI.Name, handoff.PHIType, l.PHI.GUID, behind+up(l.State.Size), l.PHI.Size)
	table := &gpt.Table{
		GUID: l.GUID, ProtectiveMBR: true, LogicalSectorSize: sector, PhysicalSectorSize: sector,
		Partitions: []*gpt.Partition{esp, root, phi},
	}
	at := alignment + up(l.ESP.Size)
	for i, v := range l.Volumes {
		table.Partitions = append(table.Partitions, partition(4+i, v.Name, handoff.PHIType, v.GUID, at, v.Size))
		at += up(v.Size)
	}
	starts := []int64{l.root(), behind}
	if l.State.Size > 0 {
		table.Partitions = append(table.Partitions, partition(4+len(l.Volumes), handoff.StateLabel, handoff.StateType, l.State.GUID, behind, l.State.Size))
	}
	if err := d.Partition(table); err != nil {
		return fmt.Errorf("disk: partition table: %w", err)
	}
	// The root file system is most of the bytes; it is copied while the ESP is filled.
	// Flushing is for whoever gives the file its final name.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.writeBoot(ctx, log, path, int64(esp.Start)*sector) })
	for i, p := range systems {
		group.Go(func() error { return p.write(ctx, path, starts[i]) })
	}
	return group.Wait()
}

func (l Layout) writeBoot(ctx context.Context, log *slog.Logger, path string, at int64) error {
	if err := writeESP(ctx, log, path, l.ESP, at); err != nil {
		return fmt.Errorf("disk: esp: %w", err)
	}
	if l.BIOS == "" {
		return nil
	}
	if err := writeBIOS(ctx, log, path, l.BIOS, at); err != nil {
		return fmt.Errorf("disk: bios: %w", err)
	}
	return nil
}

// fileSystem is one that fills a partition of that name.
type fileSystem struct {
	name string
	Root
}

func (p fileSystem) write(ctx context.Context, path string, at int64) error {
	if p.Elsewhere {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if p.Layers != nil {
		err = p.Layers.Unpack(ctx, f, at)
	} else {
		err = copySparse(f, at, p.File)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("disk: %s: %w", p.name, err)
	}
	return nil
}

func partition(index int, name, kind, guid string, start, size int64) *gpt.Partition {
	return &gpt.Partition{
		Index: index, Name: name, Type: gpt.Type(kind), GUID: guid,
		Start: uint64(start / sector), End: uint64((start+up(size))/sector - 1), Size: uint64(up(size)),
	}
}

// copySparse copies the parts of a file that hold data to an offset of f, so
// that holes stay holes.
func copySparse(f *os.File, offset int64, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	for at := int64(0); ; {
		start, end, err := nextData(src, at)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := f.Seek(offset+start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(f, src, end-start); err != nil {
			return err
		}
		at = end
	}
}
