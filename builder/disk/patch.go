package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ward/builder/command"
)

// Patch is what makes one file system of another: what is removed, in an order in
// which folders are empty by then, and what is made, folders before what is in them.
type Patch struct {
	UUID   string // of the new file system
	Epoch  int64  // time of access and change of what is made, seconds
	Remove []Removed
	Make   []Made
}

// Removed is a file of any type.
type Removed struct {
	Path   string // "/etc/motd"
	Folder bool
}

// Made is a file of any type, or a folder that gets other attributes.
type Made struct {
	Path   string // "/etc/motd"
	Mode   uint32 // type and permissions, as stat(2) has them
	UID    uint32
	GID    uint32
	Mtime  int64  // seconds
	Source string // of a regular file: where its content is
	Link   string // of a symbolic link: where it points
	SameAs string // of a regular file: path of the one made before that it is a further name of
	Names  uint32 // of a regular file with several names: how many
	Exists bool   // a folder that is there
	Xattrs map[string][]byte
	Gone   []string // extended attributes that a folder no longer has
}

// PatchExt4 changes a file system that WriteExt4 made. The same file system and
// patch give the same bytes; what is free afterwards is zeros, so that nothing
// removed is in the image. Values of attributes are put into files in the folder work.
func PatchExt4(ctx context.Context, log *slog.Logger, image, work string, p Patch) error {
	script, err := p.script(work)
	if err != nil {
		return err
	}
	epoch := strconv.FormatInt(p.Epoch, 10)
	env := append(os.Environ(), "E2FSPROGS_FAKE_TIME="+epoch, "SOURCE_DATE_EPOCH="+epoch)
	var said bytes.Buffer
	if err := command.Start(ctx, log, command.Spec{Argv: []string{"debugfs", "-w", "-f", "-", image}, Env: env, Stdin: script, Stderr: &said}); err != nil {
		return err
	}
	if err := faults(said.String()); err != nil {
		return fmt.Errorf("debugfs %s: %w", image, err)
	}
	// Not by debugfs, which leaves the copies of the superblock as they are: e2fsck
	// would find them to differ, and the machine would check, mend and start again on
	// its first boot. Checksums do not depend on it: WriteExt4 gave them a seed of
	// their own.
	if err := command.Start(ctx, log, command.Spec{Argv: []string{"tune2fs", "-U", p.UUID, image}, Env: env, Stdout: io.Discard}); err != nil {
		return err
	}
	return zeroFree(ctx, log, image)
}

// faults are what debugfs says on standard error beside its version: it goes on
// after a command that failed, and ends well.
func faults(said string) error {
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	text := strings.Join(lines[:min(len(lines), 3)], "; ")
	if strings.Contains(said, "Could not allocate") {
		return fmt.Errorf("%w: %s", ErrTooSmall, text)
	}
	return errors.New(text)
}

// script are the commands of the patch for debugfs(8).
func (p Patch) script(work string) (*bytes.Buffer, error) {
	if err := p.names(work); err != nil {
		return nil, err
	}
	out := &bytes.Buffer{}
	for _, r := range p.Remove {
		verb := "rm"
		if r.Folder {
			verb = "rmdir"
		}
		fmt.Fprintf(out, "%s %s\n", verb, quoted(r.Path))
	}
	folder := ""
	for _, m := range p.Make {
		if m.Exists {
			continue
		}
		if dir := path.Dir(m.Path); dir != folder { // write takes names of this folder alone
			fmt.Fprintf(out, "cd %s\n", quoted(dir))
			folder = dir
		}
		name := quoted(path.Base(m.Path))
		switch m.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			fmt.Fprintf(out, "mkdir %s\n", name)
		case unix.S_IFLNK:
			fmt.Fprintf(out, "symlink %s %s\n", name, quoted(m.Link))
		case unix.S_IFIFO:
			fmt.Fprintf(out, "mknod %s p\n", name)
		case unix.S_IFREG:
			if m.SameAs != "" {
				fmt.Fprintf(out, "ln %s %s\n", quoted(m.SameAs), name)
			} else {
				fmt.Fprintf(out, "write %s %s\n", quoted(m.Source), name)
			}
		default:
			return nil, fmt.Errorf("%s: a file of mode %o has no place in an image", m.Path, m.Mode)
		}
	}
	values := 0
	for _, m := range p.Make {
		if m.SameAs != "" {
			continue
		}
		at := quoted(m.Path)
		for _, name := range m.Gone {
			fmt.Fprintf(out, "ea_rm %s %s\n", at, quoted(name))
		}
		for _, name := range slices.Sorted(maps.Keys(m.Xattrs)) {
			file := filepath.Join(work, fmt.Sprintf("attribute-%d", values))
			values++
			if err := os.WriteFile(file, m.Xattrs[name], 0o600); err != nil {
				return nil, err
			}
			fmt.Fprintf(out, "ea_set -f %s %s %s\n", quoted(file), at, quoted(name))
		}
		// Last, because what is done to a file or in a folder may set its times.
		fmt.Fprintf(out, "sif %s mode 0%o\nsif %s uid %d\nsif %s gid %d\nsif %s mtime @%d\nsif %s ctime @%d\nsif %s atime @%d\n",
			at, m.Mode, at, m.UID, at, m.GID, at, m.Mtime, at, p.Epoch, at, p.Epoch)
		if m.Names > 1 {
			fmt.Fprintf(out, "sif %s links_count %d\n", at, m.Names)
		}
	}
	return out, nil
}

// names refuses what debugfs would take for the end of a command, or of a word.
func (p Patch) names(work string) error {
	all := []string{work}
	for _, r := range p.Remove {
		all = append(all, r.Path)
	}
	for _, m := range p.Make {
		all = append(append(all, m.Path, m.Link, m.Source, m.SameAs), m.Gone...)
		all = slices.AppendSeq(all, maps.Keys(m.Xattrs))
	}
	for _, name := range all {
		if strings.ContainsAny(name, "\x00\r\n") {
			return fmt.Errorf("%q: a name with a line feed, carriage return or NUL, which debugfs cannot be told", name)
		}
	}
	return nil
}

// quoted is a word as debugfs reads it: a double quote within is written twice.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// zeroFree overwrites with zeros what lies in blocks that are free.
func zeroFree(ctx context.Context, log *slog.Logger, image string) error {
	text, err := command.Output(ctx, log, "dumpe2fs", image)
	if err != nil {
		return err
	}
	free, size, err := freeBlocks(text)
	if err != nil {
		return fmt.Errorf("dumpe2fs %s: %w", image, err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for _, r := range free {
		if err = zeroRange(f, r.first*size, (r.last+1)*size); err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

// zeroRange writes zeros where a range of a file has data; holes stay holes.
func zeroRange(f *os.File, from, to int64) error {
	for from < to {
		start, end, err := nextData(f, from)
		if errors.Is(err, io.EOF) || err == nil && start >= to {
			return nil
		}
		if err != nil {
			return err
		}
		for from = start; from < min(end, to); {
			n := min(int64(blockSize), min(end, to)-from)
			if _, err := f.WriteAt(zeroBlock[:n], from); err != nil {
				return err
			}
			from += n
		}
	}
	return nil
}

// span is a range of blocks or inodes, with its last one.
type span struct{ first, last int64 }

// freeBlocks reads dumpe2fs's list of groups: the free blocks, and how large one is.
func freeBlocks(text string) (free []span, size int64, err error) {
	in := bufio.NewScanner(strings.NewReader(text))
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		if v, ok := strings.CutPrefix(in.Text(), "Block size:"); ok {
			if size, err = strconv.ParseInt(strings.TrimSpace(v), 10, 64); err != nil {
				return nil, 0, fmt.Errorf("%q: %w", in.Text(), err)
			}
		}
		// The line of a group is indented; that of the whole file system, a count, is not.
		ranges, ok := strings.CutPrefix(in.Text(), "  Free blocks:")
		if !ok {
			continue
		}
		more, err := spans(ranges)
		if err != nil {
			return nil, 0, err
		}
		free = append(free, more...)
	}
	if err := in.Err(); err != nil {
		return nil, 0, err
	}
	if size == 0 || len(free) == 0 {
		return nil, 0, errors.New("names no free blocks")
	}
	return free, size, nil
}

// spans reads a list such as "14-18, 20".
func spans(text string) ([]span, error) {
	var all []span
	for r := range strings.SplitSeq(strings.TrimSpace(text), ", ") {
		if r == "" {
			continue
		}
		from, to, isRange := strings.Cut(r, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseInt(from, 10, 64)
		b, err2 := strconv.ParseInt(to, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		all = append(all, span{a, b})
	}
	return all, nil
}
