package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"ward/initramfs/handoff"
)

const (
	blankHead = 32 << 20 // more than a LUKS2 header with its key slots, cryptsetup(8): 16 MiB
	blankTail = 4 << 20  // where GPT, md and others keep copies
)

// proveBlank returns nil only when nothing can be on the partition: it is the
// partition that init meant, no known signature is on it, and its beginning and
// its end are all zero. Any doubt means that it is not formatted.
func (m *Machine) proveBlank(ctx context.Context, dev string, v handoff.Volume, r handoff.VolumeReport) error {
	no := func(format string, a ...any) error {
		return &absent{fmt.Sprintf(format, a...), "nothing was formatted; wipe the partition by hand only if it is certain that it holds nothing of value"}
	}
	tags, err := m.probe(ctx, dev)
	if err != nil {
		return err
	}
	for tag, want := range map[string]string{
		"PART_ENTRY_UUID": r.PartUUID, "PART_ENTRY_NAME": v.PartLabel, "PART_ENTRY_TYPE": handoff.PHIType,
	} {
		if !strings.EqualFold(tags[tag], want) {
			return no("%s is not the PHI partition: %s is %q, want %q", dev, tag, tags[tag], want)
		}
	}
	for _, tag := range []string{"TYPE", "PTTYPE", "USAGE", "AMBIVALENT"} {
		if tags[tag] != "" {
			return no("%s is not blank: it holds %s", dev, tags[tag])
		}
	}
	// O_EXCL on a block device fails while it is mounted or mapped: open(2).
	f, err := os.OpenFile(dev, os.O_RDWR|syscall.O_EXCL, 0)
	if err != nil {
		return no("%s is in use: %v", dev, err)
	}
	defer f.Close()
	at, err := notZero(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", dev, err)
	}
	if at >= 0 {
		return no("%s is not blank: byte %d is not zero", dev, at)
	}
	return nil
}

// notZero returns the offset of a byte that is not zero in the head or the tail
// of f, or -1.
func notZero(f io.ReadSeeker) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if size == 0 {
		return 0, errors.New("it has no bytes at all")
	}
	buf := make([]byte, 1<<20)
	for _, part := range [][2]int64{{0, min(size, blankHead)}, {max(0, size-blankTail), size}} {
		if _, err := f.Seek(part[0], io.SeekStart); err != nil {
			return 0, err
		}
		for at := part[0]; at < part[1]; {
			n, err := io.ReadFull(f, buf[:min(int64(len(buf)), part[1]-at)])
			if err != nil {
				return 0, err
			}
			for i, c := range buf[:n] {
				if c != 0 {
					return at + int64(i), nil
				}
			}
			at += int64(n)
		}
	}
	return -1, nil
}

// probe asks blkid, past its cache, what is on a device. Without a signature
// blkid still tells what partition it is; it exits 2 when it knows nothing:
// blkid(8).
func (m *Machine) probe(ctx context.Context, dev string) (map[string]string, error) {
	out, err := m.run(ctx, nil, "blkid", "-p", "-o", "export", dev)
	if err != nil && exitCode(err) == 8 { // ambivalent: more than one signature
		return map[string]string{"AMBIVALENT": "more than one signature"}, nil
	}
	if err != nil && exitCode(err) != 2 {
		return nil, err
	}
	tags := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			tags[k] = strings.ReplaceAll(v, `\ `, " ")
		}
	}
	return tags, nil
}
