package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"ward/builder/command"
)

// Ext4 is a root file system to be made from a tree.
type Ext4 struct {
	Tree  string
	UUID  string // of the file system; also the seed of its directory hashes
	Label string // of the file system; empty: that of root
	Size  int64  // bytes
	Epoch int64  // every time in it is at most this one, seconds
}

// ErrTooSmall is in the error when the tree does not fit into Ext4.Size.
var ErrTooSmall = errors.New("the tree does not fit")

// WriteExt4 makes a file system with the tree's files, owners, modes, links and
// extended attributes in a new sparse file. Equal trees give equal bytes,
// whenever and wherever they were unpacked.
func WriteExt4(ctx context.Context, log *slog.Logger, out string, e Ext4) error {
	if e.Label == "" {
		e.Label = "ward-root"
	}
	epoch := strconv.FormatInt(e.Epoch, 10)
	env := append(os.Environ(), "E2FSPROGS_FAKE_TIME="+epoch, "SOURCE_DATE_EPOCH="+epoch)
	err := command.Start(ctx, log, command.Spec{
		// With a seed of their own the checksums stay right when PatchExt4 sets another UUID.
		Argv: []string{"mke2fs", "-q", "-t", "ext4", "-O", "metadata_csum_seed", "-L", e.Label, "-U", e.UUID, "-m", "1",
			// The file is new and full of holes: nothing has to be zeroed, now or by the machine.
			"-E", "hash_seed=" + e.UUID + ",assume_storage_prezeroed=1,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
			"-d", e.Tree, out, strconv.FormatInt(e.Size/1024, 10) + "K"},
		Env: env,
	})
	if err != nil {
		var c *command.Error
		if errors.As(err, &c) && strings.Contains(c.Tail, "Could not allocate") {
			return fmt.Errorf("%w: %w", ErrTooSmall, err)
		}
		return err
	}
	return fixTimes(ctx, log, out, env, epoch)
}

// fixTimes sets the change and access time of each used inode. mke2fs copies
// them from the tree, where they are the moment of unpacking and cannot be set
// (seen with 1.47.0; from 1.47.1 on it cuts them to SOURCE_DATE_EPOCH itself,
// and this changes nothing).
func fixTimes(ctx context.Context, log *slog.Logger, image string, env []string, epoch string) error {
	groups, err := command.Output(ctx, log, "dumpe2fs", image)
	if err != nil {
		return err
	}
	used, err := usedInodes(groups)
	if err != nil {
		return fmt.Errorf("dumpe2fs %s: %w", image, err)
	}
	var script bytes.Buffer
	for _, n := range used {
		fmt.Fprintf(&script, "sif <%d> ctime @%s\nsif <%d> atime @%s\n", n, epoch, n, epoch)
	}
	return command.Start(ctx, log, command.Spec{Argv: []string{"debugfs", "-w", "-f", "-", image}, Env: env, Stdin: &script})
}

// firstInode is the first that is not reserved, beside the root directory's 2.
const firstInode = 11

// usedInodes reads dumpe2fs's list of groups: those of the ranges "Inode table"
// covers that are not under "Free inodes".
func usedInodes(text string) ([]int64, error) {
	var total int64
	free := map[int64]int64{} // first of a range -> last
	in := bufio.NewScanner(strings.NewReader(text))
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		if v, ok := strings.CutPrefix(line, "Inode count:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			total = n
		}
		// The line of a group is indented; that of the whole file system, a count, is not.
		ranges, ok := strings.CutPrefix(in.Text(), "  Free inodes:")
		if !ok {
			continue
		}
		all, err := spans(ranges)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			free[r.first] = r.last
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if total == 0 || len(free) == 0 {
		return nil, errors.New("names no inodes")
	}
	used := []int64{2}
	for n := int64(firstInode); n <= total; n++ {
		if last, ok := free[n]; ok {
			n = last
			continue
		}
		used = append(used, n)
	}
	return used, nil
}
