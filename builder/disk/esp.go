package disk

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"ward/builder/command"
)

// writeESP formats the partition that starts at an offset in bytes of the image
// and copies the boot files into it, in the order of their names: FAT keeps
// entries in the order of writing, and equal inputs must give equal bytes.
//
// dosfstools and mtools write into the image at an offset and need no mount.
// go-diskfs's FAT32 was tried first (v1.9.4) and is not what a firmware should
// be given: fsck.vfat finds fewer table entries than clusters at 64 MiB, and a
// wrong ".." in each folder of the root.
func writeESP(ctx context.Context, log *slog.Logger, image string, esp ESP, start int64) error {
	err := command.Run(ctx, log, "mkfs.vfat", "-F", "32", "-S", strconv.Itoa(sector), "-s", strconv.FormatInt(clusterSectors(esp.Size), 10), "-n", "WARD-ESP", "--invariant",
		"--offset", strconv.FormatInt(start/sector, 10), image, strconv.FormatInt(esp.Size/1024, 10))
	if err != nil {
		return err
	}
	at := fmt.Sprintf("%s@@%d", image, start)
	made := map[string]bool{"/": true}
	for _, name := range slices.Sorted(maps.Keys(esp.Files)) {
		if err := makeFolder(ctx, log, at, path.Dir(name), made); err != nil {
			return err
		}
		if err := mtools(ctx, log, "mcopy", "-i", at, esp.Files[name], "::"+name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// clusterSectors is how many sectors a cluster of a file system of that size has.
// A FAT with fewer than 65,525 clusters is not FAT32 to mtools and to firmware,
// whatever its header says (Microsoft's FAT specification, 3.5).
func clusterSectors(size int64) int64 {
	n := int64(1)
	for size/sector/(2*n) >= 131_072 {
		n *= 2
	}
	return n
}

func makeFolder(ctx context.Context, log *slog.Logger, at, folder string, made map[string]bool) error {
	if made[folder] {
		return nil
	}
	if err := makeFolder(ctx, log, at, path.Dir(folder), made); err != nil {
		return err
	}
	made[folder] = true
	return mtools(ctx, log, "mmd", "-i", at, "::"+folder)
}

// mtools runs a program of mtools. Its check of the disk's geometry is left out:
// it wants whole tracks, which no disk has had for decades (mtools(1)).
func mtools(ctx context.Context, log *slog.Logger, argv ...string) error {
	return command.Start(ctx, log, command.Spec{Argv: argv, Env: append(os.Environ(), "MTOOLS_SKIP_CHECK=1")})
}
