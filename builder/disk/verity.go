package disk

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"ward/builder/command"
	"ward/initramfs/handoff"
)

// VerityData is how many bytes of a partition of that size are for data, so that
// their hash tree fits behind them; whole MiB.
func VerityData(size int64) int64 {
	tree := int64(handoff.VerityTree(uint64(size/handoff.VerityBlock))) * handoff.VerityBlock
	return (size - tree) / alignment * alignment
}

// AppendVerity writes the hash tree of a file system of that many bytes behind it,
// in the same file. The same file and salt give the same bytes. veritysetup works
// on plain files, without device-mapper.
func AppendVerity(ctx context.Context, log *slog.Logger, file string, bytes int64, salt string) (handoff.Verity, error) {
	v := handoff.Verity{Blocks: uint64(bytes / handoff.VerityBlock), Salt: salt}
	out, err := command.Output(ctx, log, "veritysetup", "format", "--no-superblock", "--hash=sha256", "--salt="+salt,
		"--data-block-size="+strconv.Itoa(handoff.VerityBlock), "--hash-block-size="+strconv.Itoa(handoff.VerityBlock),
		"--data-blocks="+strconv.FormatUint(v.Blocks, 10), "--hash-offset="+strconv.FormatInt(bytes, 10), file, file)
	if err != nil {
		return handoff.Verity{}, err
	}
	if v.Digest, err = rootHash(out); err != nil {
		return handoff.Verity{}, err
	}
	return handoff.ParseVerity(v.String())
}

// rootHash reads it out of what veritysetup prints.
func rootHash(out string) (string, error) {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Root hash:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("veritysetup printed no root hash: %.200q", out)
}
