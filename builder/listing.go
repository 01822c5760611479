package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ward/builder/cache"
)

// listingFile lists every file of the root file system in the form of mtree(5),
// which bsdtar and mtree read as well.
const listingFile = "files.mtree"

// list writes the listing of the tree. Times are left out: they are the
// packages' or the epoch, and a file that only got newer is not another file.
func (b *bake) list(ctx context.Context) error {
	return writeListing(ctx, filepath.Join(b.Output, listingFile), b.tree)
}

func writeListing(ctx context.Context, name, tree string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriter(f)
	fmt.Fprintln(out, "#mtree")
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := listed(path, d)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, ".%s %s\n", mtreeText(strings.TrimPrefix(path, tree)), line)
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// kinds are the values of mtree's keyword type.
var kinds = map[fs.FileMode]string{
	0: "file", fs.ModeDir: "dir", fs.ModeSymlink: "link", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket",
	fs.ModeDevice: "block", fs.ModeDevice | fs.ModeCharDevice: "char",
}

// listed are the keywords of one file.
func listed(path string, d fs.DirEntry) (string, error) {
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no owner", path)
	}
	line := fmt.Sprintf("type=%s mode=%04o uid=%d gid=%d", kinds[info.Mode().Type()], st.Mode&0o7777, st.Uid, st.Gid)
	switch info.Mode().Type() {
	case 0:
		sum, err := cache.Sum(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" size=%d sha256digest=%s", info.Size(), sum)
	case fs.ModeSymlink:
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " link=" + mtreeText(to)
	}
	return line, nil
}

// mtreeText writes what would end a word or begin a comment as \ and three octal
// digits, as vis(3) does.
func mtreeText(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\#*?[=`, c) >= 0 {
			fmt.Fprintf(&out, `\%03o`, c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}
