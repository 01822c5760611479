package key

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"ward/initramfs/handoff"
)

// Check tells whether an image is a key device that holds a key for each volume:
// ext2 to ext4 or FAT, the label WARD-KEY, and key files of 32 bytes to 8 KiB
// that are not all one byte. It does not tell whether the keys open anything.
func Check(ctx context.Context, log *slog.Logger, image string, volumes []string) error {
	kind, label, err := identify(image)
	if err != nil {
		return fmt.Errorf("key image %s: %w", image, err)
	}
	if label != handoff.KeyLabel {
		return fmt.Errorf("key image %s: its file system is labelled %q, want %s\nhint: ward key new FILE makes a key device", image, label, handoff.KeyLabel)
	}
	var errs []error
	for _, v := range volumes {
		if err := checkKey(ctx, log, kind, image, v); err != nil {
			errs = append(errs, fmt.Errorf("key image %s: %s: %w", image, fileName(v), err))
		}
	}
	return errors.Join(errs...)
}

// checkKey reads one key, looks at it and wipes it.
func checkKey(ctx context.Context, log *slog.Logger, kind, image, volume string) error {
	name := fileName(volume)
	var key []byte
	var err error
	switch kind {
	case "ext4":
		var out []byte
		// debugfs says "File not found" on standard error and exits 0; stat tells
		// a missing file from an empty one.
		if out, err = tool(ctx, log, nil, "debugfs", "-R", "stat "+name, image); err == nil && !bytes.Contains(out, []byte("Type: regular")) {
			err = errors.New("there is no such file on it")
		}
		if err == nil {
			key, err = tool(ctx, log, nil, "debugfs", "-R", "cat "+name, image)
		}
	case "vfat":
		key, err = tool(ctx, log, nil, "mcopy", "-n", "-i", image, "::"+name, "-")
	}
	defer clear(key)
	switch {
	case err != nil:
		return err
	case len(key) == 0:
		return errors.New("is empty (0 bytes)\nhint: the key was never written; take another copy, or make a new one with ward key new FILE")
	case len(key) < minSize || len(key) > maxSize:
		return fmt.Errorf("has %d bytes, want %d to %d", len(key), minSize, maxSize)
	case len(bytes.Trim(key, string(key[:1]))) == 0:
		return errors.New("holds the same byte again and again, which is no key")
	}
	return nil
}

// identify reads the kind and label of a file system from its superblock: ext4's
// is at 1024 with the magic 0xef53 at 56 and the label at 120 (kernel,
// Documentation/filesystems/ext4/super.rst); FAT's label is an entry of its root
// folder, or in the boot sector at 43 (FAT12/16) or 71 (FAT32).
func identify(image string) (kind, label string, err error) {
	f, err := os.Open(image)
	if errors.Is(err, os.ErrNotExist) {
		return "", "", errors.New("there is no such file\nhint: ward key new FILE makes a key device")
	}
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	head := make([]byte, 2048)
	n, err := io.ReadFull(f, head)
	if n == 0 {
		return "", "", errors.New("is empty (0 bytes)\nhint: ward key new FILE makes a key device")
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", "", err
	}
	switch {
	case err == nil && binary.LittleEndian.Uint16(head[1024+56:]) == 0xef53:
		return "ext4", strings.TrimRight(string(head[1024+120:1024+136]), "\x00"), nil
	case n >= 512 && head[510] == 0x55 && head[511] == 0xaa && strings.HasPrefix(string(head[82:]), "FAT32"):
		return "vfat", strings.TrimRight(string(head[71:82]), " "), nil
	case n >= 512 && head[510] == 0x55 && head[511] == 0xaa && strings.HasPrefix(string(head[54:]), "FAT1"):
		return "vfat", strings.TrimRight(string(head[43:54]), " "), nil
	case n == Size:
		return "", "", errors.New("is a bare key file, not an image of a key device\nhint: ward key new FILE makes a key device")
	}
	return "", "", errors.New("holds no ext4 or FAT file system\nhint: ward key new FILE makes a key device")
}
