package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// table is the image's partition table and first sector.
type table struct {
	*gpt.Table
	mbr    []byte
	sector int64
}

// readTable reads it from the image's first chunk.
func readTable(first []byte, sector int) (*table, error) {
	if len(first) < head {
		return nil, errors.New("the image is too short for a partition table")
	}
	g, err := gpt.Read(memory{bytes.NewReader(first)}, sector, sector)
	if err != nil {
		return nil, fmt.Errorf("partition table of the image: %w", err)
	}
	g.Partitions = slices.DeleteFunc(g.Partitions, func(p *gpt.Partition) bool { return p == nil || p.Type == gpt.Unused })
	if len(g.Partitions) == 0 {
		return nil, errors.New("partition table of the image: no partition")
	}
	for _, p := range g.Partitions {
		if p.Start*uint64(sector) < head || p.End < p.Start || p.End > math.MaxInt64/uint64(sector)-1 {
			return nil, fmt.Errorf("partition table of the image: %s is from %d to %d", p.Name, p.Start, p.End)
		}
	}
	return &table{Table: g, mbr: bytes.Clone(first[:512]), sector: int64(sector)}, nil
}

// last is the partition that ends last.
func (t *table) last() *gpt.Partition {
	return slices.MaxFunc(t.Partitions, func(a, b *gpt.Partition) int {
		if a.End < b.End {
			return -1
		}
		return 1
	})
}

// end is where the last partition ends.
func (t *table) end() int64 { return int64(t.last().End+1) * t.sector }

// written is the partition on which the machine keeps what it writes, and where
// on it /var is: root, or the state partition where root is verified.
func (t *table) written() (p partition, dir string, err error) {
	for _, kind := range []struct {
		is  func(string) bool
		dir string
	}{{isState, "var/upper"}, {isRoot, "var"}} {
		for _, p := range t.Partitions {
			if kind.is(string(p.Type)) {
				return partition{start: int64(p.Start) * t.sector, length: int64(p.End-p.Start+1) * t.sector, number: int32(p.Index)}, kind.dir, nil
			}
		}
	}
	return partition{}, "", errors.New("the image has no root partition")
}

// grow makes the table one for a disk of that size. The PHI partition, if it is the
// last one, gets what is there, in whole MiB.
func (t *table) grow(size int64) error {
	t.Resize(uint64(size))
	last := t.last()
	usable := t.LastDataSector()
	if usable < last.End {
		return fmt.Errorf("the partitions end at sector %d, the disk is usable to %d", last.End, usable)
	}
	align := uint64(1<<20) / uint64(t.sector)
	if end := (usable+1)/align*align - 1; isPHI(string(last.Type)) && end > last.End {
		last.Expand(end - last.End)
	}
	// The protective entry covers the disk, as far as 32 bits reach (UEFI 2.10, 5.2.3).
	for at := 446; at < 510; at += 16 {
		if t.mbr[at+4] == 0xee {
			binary.LittleEndian.PutUint32(t.mbr[at+12:], uint32(min(size/t.sector-1, math.MaxUint32)))
		}
	}
	return nil
}

// write writes backup, primary table and, when both are on the medium, the first
// sector: with it the disk is complete.
func (t *table) write(f *os.File, size int64) error {
	if err := t.Table.Write(&held{f}, size); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(t.mbr, 0); err != nil {
		return err
	}
	return f.Sync()
}

// held is a disk whose first sector is not written.
type held struct{ *os.File }

func (h *held) WriteAt(b []byte, at int64) (int, error) {
	if at < 512 {
		if at+int64(len(b)) > 512 {
			return 0, fmt.Errorf("%d bytes at %d reach past the first sector", len(b), at)
		}
		return len(b), nil
	}
	return h.File.WriteAt(b, at)
}

// memory is a file that is only read.
type memory struct{ *bytes.Reader }

func (m memory) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (m memory) Close() error               { return nil }
