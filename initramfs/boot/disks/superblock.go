package disks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Superblock is what a file system says of itself. FS is the name that mount(2)
// takes ("ext4", "vfat", "xfs", "btrfs") or "crypto_LUKS"; "" is none of these.
type Superblock struct {
	FS    string
	Label string
	UUID  string
}

// probeSize covers every superblock but that of btrfs.
const probeSize = 4096

// readSuperblock looks for the few formats that matter here. It is not blkid: a
// format that ward never mounts is not known.
func readSuperblock(r io.ReaderAt) (Superblock, error) {
	b := make([]byte, probeSize)
	n, err := r.ReadAt(b, 0)
	if n < probeSize {
		if err == io.EOF {
			return Superblock{}, nil
		}
		return Superblock{}, err
	}
	for _, f := range []func([]byte) (Superblock, bool){luksLabel, extLabel, xfsLabel, vfatLabel} {
		if s, ok := f(b); ok {
			return s, nil
		}
	}
	c := make([]byte, 1024)
	if n, _ := r.ReadAt(c, 64<<10); n == len(c) {
		if s, ok := btrfsLabel(c); ok {
			return s, nil
		}
	}
	return Superblock{}, nil
}

func luksLabel(b []byte) (Superblock, bool) {
	if !bytes.HasPrefix(b, []byte("LUKS\xba\xbe")) {
		return Superblock{}, false
	}
	// Offset of the UUID is the same in LUKS1 and LUKS2.
	return Superblock{FS: "crypto_LUKS", UUID: text(b[168:208])}, true
}

// extLabel: fs/ext4/ext4.h, struct ext4_super_block at byte 1024. The driver
// "ext4" mounts ext2 and ext3 as well.
func extLabel(b []byte) (Superblock, bool) {
	s := b[1024:]
	if binary.LittleEndian.Uint16(s[0x38:]) != 0xef53 {
		return Superblock{}, false
	}
	return Superblock{FS: "ext4", Label: text(s[0x78:0x88]), UUID: uuid(s[0x68:0x78])}, true
}

// xfsLabel: fs/xfs/libxfs/xfs_format.h, struct xfs_dsb.
func xfsLabel(b []byte) (Superblock, bool) {
	if !bytes.HasPrefix(b, []byte("XFSB")) {
		return Superblock{}, false
	}
	return Superblock{FS: "xfs", Label: text(b[108:120]), UUID: uuid(b[32:48])}, true
}

// btrfsLabel: fs/btrfs, struct btrfs_super_block at 64 KiB.
func btrfsLabel(b []byte) (Superblock, bool) {
	if !bytes.Equal(b[64:72], []byte("_BHRfS_M")) {
		return Superblock{}, false
	}
	return Superblock{FS: "btrfs", Label: text(b[0x12b : 0x12b+256]), UUID: uuid(b[32:48])}, true
}

// vfatLabel reads the label in the boot sector, Microsoft's fatgen103 section
// "Boot Sector and BPB". The copy of the label in the root folder is not read;
// mkfs.fat and every formatter in use write both.
func vfatLabel(b []byte) (Superblock, bool) {
	if b[510] != 0x55 || b[511] != 0xaa {
		return Superblock{}, false
	}
	if sector := binary.LittleEndian.Uint16(b[11:]); sector < 512 || sector > 4096 || sector&(sector-1) != 0 {
		return Superblock{}, false
	}
	var at int
	switch {
	case bytes.Equal(b[82:87], []byte("FAT32")):
		at = 67
	case bytes.Equal(b[54:57], []byte("FAT")):
		at = 39
	default:
		return Superblock{}, false
	}
	id := binary.LittleEndian.Uint32(b[at:])
	label := strings.TrimRight(text(b[at+4:at+15]), " ")
	if label == "NO NAME" {
		label = ""
	}
	return Superblock{FS: "vfat", Label: label, UUID: fmt.Sprintf("%04X-%04X", id>>16, id&0xffff)}, true
}

// text is a field that ends at its first NUL, printable characters only: it is
// logged and compared, and comes from a device that anybody may have written.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == '\ufffd' {
			return '?'
		}
		return r
	}, string(b))
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
