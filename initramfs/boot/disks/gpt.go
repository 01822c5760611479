package disks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Partition is one entry of a GUID partition table. GUIDs are lower case.
type Partition struct {
	Number int // from 1, as in the kernel's names
	Type   string
	UUID   string
	Name   string
}

// errNoGPT says that a disk has no GUID partition table.
var errNoGPT = errors.New("no GUID partition table")

const (
	maxEntries   = 1024 // tables in use have 128; the kernel takes no more than 256 partitions
	maxEntrySize = 4096
)

// readGPT reads the primary table of a disk with the given logical block size,
// UEFI specification 2.10, section 5.3. The backup is not read: the kernel does
// not use it either unless told to, and what the kernel does not see has no node.
func readGPT(r io.ReaderAt, blockSize int) ([]Partition, error) {
	if blockSize < 512 || blockSize > 64<<10 || blockSize&(blockSize-1) != 0 {
		return nil, fmt.Errorf("logical block size %d", blockSize)
	}
	header := make([]byte, 512)
	if _, err := r.ReadAt(header, int64(blockSize)); err != nil {
		return nil, fmt.Errorf("%w: %v", errNoGPT, err)
	}
	if !bytes.Equal(header[:8], []byte("EFI PART")) {
		return nil, errNoGPT
	}
	le := binary.LittleEndian
	size := le.Uint32(header[12:])
	if size < 92 || size > 512 {
		return nil, fmt.Errorf("partition table: header of %d bytes", size)
	}
	sum := le.Uint32(header[16:])
	copy(header[16:20], make([]byte, 4))
	if crc32.ChecksumIEEE(header[:size]) != sum {
		return nil, errors.New("partition table: the header's checksum is wrong")
	}
	count, width := le.Uint32(header[80:]), le.Uint32(header[84:])
	start := le.Uint64(header[72:])
	if count > maxEntries || width < 128 || width > maxEntrySize || width&(width-1) != 0 || start < 2 || start > 1<<40 {
		return nil, fmt.Errorf("partition table: %d entries of %d bytes at block %d", count, width, start)
	}
	table := make([]byte, int(count)*int(width))
	if _, err := r.ReadAt(table, int64(start)*int64(blockSize)); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(header[88:]) {
		return nil, errors.New("partition table: the checksum of the entries is wrong")
	}
	var out []Partition
	for i := range int(count) {
		e := table[i*int(width):][:128]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		out = append(out, Partition{Number: i + 1, Type: guid(e[:16]), UUID: guid(e[16:32]), Name: utf16Name(e[56:128])})
	}
	return out, nil
}

// guid prints a GUID as it is stored in GPT: the first three fields are little-endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Name(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
