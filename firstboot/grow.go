package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

// leastGrowth is the least that is worth the trouble, in bytes.
const leastGrowth = 16 << 20

const mebibyte = 1 << 20

// growDisks gives what a disk has more than its partitions use to the last of
// them. While PHI is blank and comes right after root, root gets its share too:
// later PHI cannot be moved out of its way.
func (m *Machine) growDisks(ctx context.Context) error {
	report, err := m.report()
	if err != nil || report == nil || m.root.Name() != "/" { // a test's tree has no disks
		return err
	}
	blank := map[string]bool{} // by partition
	var parts []string
	root, onDisk := rootPartition(m.line("proc/cmdline"))
	if onDisk {
		parts = append(parts, root)
	}
	pins, err := m.pins()
	if err != nil {
		return err
	}
	for _, r := range report.Volumes {
		if r.PartUUID == "" {
			continue
		}
		in, err := m.intent(r.Name)
		if err != nil {
			return err
		}
		_, pinned := pins.Find(r.Name)
		parts = append(parts, r.PartUUID)
		blank[strings.ToLower(r.PartUUID)] = r.State == handoff.StateBlank && in == nil && !pinned
	}
	var done []string
	for _, id := range parts {
		dev, err := m.device(id)
		if err != nil {
			m.log.Warn("size of the disk is not looked at", "partition", id, "error", err)
			continue
		}
		disk, err := diskOf(dev)
		if err != nil {
			return err
		}
		if slices.Contains(done, disk) {
			continue
		}
		done = append(done, disk)
		if err := m.growDisk(ctx, disk, func(guid string) bool { return blank[strings.ToLower(guid)] }); err != nil {
			return fmt.Errorf("grow %s: %w", disk, err)
		}
	}
	if !onDisk { // it is in memory
		return nil
	}
	if m.facts.Image.Verity { // root itself stays as it was made
		return m.growState(ctx)
	}
	return m.growRoot(ctx, root)
}

// rootPartition reads the UUID of the root partition out of a kernel line.
func rootPartition(cmdline string) (string, bool) {
	for word := range strings.FieldsSeq(cmdline) {
		if id, ok := strings.CutPrefix(word, "root=PARTUUID="); ok {
			return id, true
		}
	}
	return "", false
}

// diskOf is the disk that a partition is on.
func diskOf(dev string) (string, error) {
	at, err := filepath.EvalSymlinks("/sys/class/block/" + path.Base(dev))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(at + "/partition"); err != nil {
		return "", fmt.Errorf("%s is no partition: %w", dev, err)
	}
	return "/dev/" + path.Base(path.Dir(at)), nil
}

// blockBytes is a number that the kernel tells of a block device, times a unit.
func (m *Machine) blockBytes(dev, attribute string, unit int64) (int64, error) {
	n, err := strconv.ParseInt(m.line("sys/class/block/"+path.Base(dev)+"/"+attribute), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", attribute, dev, err)
	}
	return n * unit, nil
}

func (m *Machine) growDisk(ctx context.Context, disk string, blank func(string) bool) error {
	size, err1 := m.blockBytes(disk, "size", 512) // in 512 bytes whatever the disk has
	sector, err2 := m.blockBytes(disk, "queue/logical_block_size", 1)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := gpt.Read(f, int(sector), int(sector))
	if err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	changes := growth(table, size, m.facts.Image.RootShare, blank)
	if len(changes) == 0 {
		return nil
	}
	// The kernel lets go of a partition that moves before the table says where it is
	// now: whoever wrote to the old place would write into another partition.
	for _, c := range changes {
		if c.moves {
			if err := blkpg(f, unix.BLKPG_DEL_PARTITION, c); err != nil {
				return fmt.Errorf("partition %d: %w", c.number, err)
			}
		}
	}
	if err := table.Write(f, size); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	for _, c := range changes {
		op := unix.BLKPG_RESIZE_PARTITION
		if c.moves {
			op = unix.BLKPG_ADD_PARTITION
		}
		if err := blkpg(f, int32(op), c); err != nil {
			return errHint(fmt.Errorf("partition %d: the kernel does not take its new size: %w", c.number, err), "restart the machine: the table on the disk is right")
		}
		m.log.Info("partition grew", "disk", disk, "partition", c.name, "mib", c.length>>20, "was_mib", c.before>>20)
	}
	_, err = m.run(ctx, nil, "udevadm", "settle", "--timeout=60")
	return err
}

// change is one partition with its new place.
type change struct {
	number        int
	name          string
	start, length int64 // bytes
	before        int64 // length, bytes
	moves         bool
}

// growth changes the table for a disk of that size and says which partitions are
// others now; nil when it is not worth it. share is what root, or the state
// partition behind a verified root, gets of the space, in percent, while blank says that the PHI partition behind it holds nothing.
func growth(t *gpt.Table, size int64, share int, blank func(guid string) bool) []change {
	parts := slices.DeleteFunc(slices.Clone(t.Partitions), func(p *gpt.Partition) bool { return p == nil || p.Type == gpt.Unused })
	if len(parts) == 0 {
		return nil
	}
	slices.SortFunc(parts, func(a, b *gpt.Partition) int { return int(int64(a.Start) - int64(b.Start)) })
	last := parts[len(parts)-1]
	isRoot := func(p *gpt.Partition) bool { return strings.EqualFold(string(p.Type), handoff.RootType) }
	isState := func(p *gpt.Partition) bool { return strings.EqualFold(string(p.Type), handoff.StateType) }
	isPHI := func(p *gpt.Partition) bool { return strings.EqualFold(string(p.Type), handoff.PHIType) }
	if !isRoot(last) && !isPHI(last) {
		return nil
	}
	sector := int64(t.LogicalSectorSize)
	align := uint64(mebibyte / sector)
	t.Resize(uint64(size))
	end := (t.LastDataSector()+1)/align*align - 1
	if end <= last.End || int64(end-last.End)*sector < leastGrowth {
		return nil
	}
	free := end - last.End
	lengths := map[*gpt.Partition]uint64{}
	for _, p := range parts {
		lengths[p] = p.End - p.Start + 1
	}
	var changes []change
	add := func(p *gpt.Partition, moves bool) {
		p.Size = (p.End - p.Start + 1) * uint64(sector)
		changes = append(changes, change{
			number: p.Index, name: p.Name, moves: moves,
			start: int64(p.Start) * sector, length: int64(p.Size), before: int64(lengths[p]) * sector,
		})
	}
	if len(parts) > 1 && isPHI(last) && blank(last.GUID) {
		before := parts[len(parts)-2]
		if extra := free * uint64(share) / 100 / align * align; (isRoot(before) || isState(before)) && before.End+1 == last.Start && extra > 0 {
			before.End += extra
			last.Start, last.End = last.Start+extra, end
			add(before, false)
			add(last, true)
			return changes
		}
	}
	last.End = end
	add(last, false)
	return changes
}

// growRoot has the root file system fill its partition.
func (m *Machine) growRoot(ctx context.Context, id string) error {
	dev, err := m.device(id)
	if err != nil {
		return err
	}
	return m.growExt4(ctx, "root", dev)
}

// growState has the file system of the state partition fill it.
func (m *Machine) growState(ctx context.Context) error {
	out, err := m.run(ctx, nil, "findmnt", "--noheadings", "--output", "SOURCE", handoff.StateMount)
	if err != nil {
		return err
	}
	return m.growExt4(ctx, handoff.StateLabel, strings.TrimSpace(out))
}

// growExt4 has a mounted ext4 fill its device.
func (m *Machine) growExt4(ctx context.Context, name, dev string) error {
	have, err := m.blockBytes(dev, "size", 512)
	if err != nil {
		return err
	}
	out, err := m.run(ctx, nil, "dumpe2fs", "-h", dev)
	if err != nil {
		return err
	}
	size, err := ext4Size(out)
	if err != nil {
		return fmt.Errorf("dumpe2fs %s: %w", dev, err)
	}
	if have-size < leastGrowth {
		return nil
	}
	if _, err := m.run(ctx, nil, "resize2fs", dev); err != nil {
		return err
	}
	m.log.Info("file system grew", "name", name, "mib", have>>20, "was_mib", size>>20)
	return nil
}

// ext4Size reads the size of a file system out of what dumpe2fs -h prints.
func ext4Size(out string) (int64, error) {
	n := map[string]int64{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(line, ":")
		if key == "Block count" || key == "Block size" {
			v, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, err
			}
			n[key] = v
		}
	}
	if n["Block count"] == 0 || n["Block size"] == 0 {
		return 0, errors.New("says no size")
	}
	return n["Block count"] * n["Block size"], nil
}

// growVolumes has the PHI volumes and their file systems fill their partitions.
func (m *Machine) growVolumes(ctx context.Context) error {
	report, err := m.report()
	if err != nil || report == nil || m.root.Name() != "/" {
		return err
	}
	for _, v := range m.volumes() {
		r := find(report, v.Name)
		again, err := m.reencryption(v.Name)
		if err != nil {
			return err
		}
		if again != nil || r.PartUUID == "" || !m.mapped(v.Name) {
			continue
		}
		if err := m.growVolume(ctx, v, r.PartUUID); err != nil {
			// It works as it is, and is tried again at the next boot.
			m.log.Warn("volume does not grow", "volume", v.Name, "error", err)
		}
	}
	return nil
}

func (m *Machine) growVolume(ctx context.Context, v handoff.Volume, id string) error {
	dev, err := m.device(id)
	if err != nil {
		return err
	}
	mapped, err := filepath.EvalSymlinks("/dev/mapper/" + v.Name)
	if err != nil {
		return err
	}
	part, err1 := m.blockBytes(dev, "size", 512)
	have, err2 := m.blockBytes(mapped, "size", 512)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	// The header of LUKS2 takes 16 MiB: cryptsetup-luksFormat(8), --offset.
	if part-have >= 16<<20+leastGrowth {
		key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
		if err != nil {
			return err
		}
		_, err = m.run(ctx, key.Bytes(), "cryptsetup", "resize", "--key-file", "-", v.Name)
		key.Wipe()
		if err != nil {
			return err
		}
	}
	return m.growExt4(ctx, v.Name, mapped)
}
