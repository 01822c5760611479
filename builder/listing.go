package builder

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// listingFile lists every file of the root file system in the form of mtree(5),
// which bsdtar and mtree read as well.
const listingFile = "files.mtree"

// writeListing writes the listing of a tree. Times are left out: they are the
// packages' or the epoch, and a file that only got newer is not another file.
func (s survey) writeListing(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriter(f)
	fmt.Fprintln(out, "#mtree")
	for _, e := range s {
		fmt.Fprintf(out, ".%s %s\n", mtreeText(e.path), e.listed())
	}
	return out.Flush()
}

// kinds are the values of mtree's keyword type.
var kinds = map[fs.FileMode]string{
	0: "file", fs.ModeDir: "dir", fs.ModeSymlink: "link", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket",
	fs.ModeDevice: "block", fs.ModeDevice | fs.ModeCharDevice: "char",
}

// listed are the keywords of one file.
func (e surveyed) listed() string {
	line := fmt.Sprintf("type=%s mode=%04o uid=%d gid=%d", kinds[e.info.Mode().Type()], e.owner.Mode&0o7777, e.owner.Uid, e.owner.Gid)
	switch e.info.Mode().Type() {
	case 0:
		line += fmt.Sprintf(" size=%d sha256digest=%s", e.info.Size(), e.sum)
	case fs.ModeSymlink:
		line += " link=" + mtreeText(e.link)
	}
	return line
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
