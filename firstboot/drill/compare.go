package drill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// node is one line of restic ls --json.
type node struct {
	Struct string    `json:"struct_type"`
	Type   string    `json:"type"` // file, dir, symlink, ...
	Path   string    `json:"path"` // absolute
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	Mode   uint32    `json:"mode"` // as Go's fs.FileMode
	MTime  time.Time `json:"mtime"`
}

// readTree reads what restic lists of a snapshot, but for what lies in the folders
// without.
func readTree(out string, without []string) ([]node, error) {
	var tree []node
	for line := range strings.Lines(out) {
		var n node
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			return nil, fmt.Errorf("read the tree of the snapshot: %w", err)
		}
		if n.Struct != "node" {
			continue
		}
		if !filepath.IsAbs(n.Path) || filepath.Clean(n.Path) != n.Path {
			return nil, fmt.Errorf("the tree of the snapshot has the path %q", n.Path)
		}
		if !slices.ContainsFunc(without, func(dir string) bool { return n.Path == dir || strings.HasPrefix(n.Path, dir+"/") }) {
			tree = append(tree, n)
		}
	}
	if len(tree) == 0 {
		return nil, errors.New("the snapshot is empty")
	}
	return tree, nil
}

type comparison struct {
	changed     int
	liveBytes   int64
	differences []string
}

// compare holds each node against the restored file, and that against the live
// one. A live file that was written after the snapshot counts as changed; one that
// was not must be equal, byte for byte.
func compare(scratch, live string, tree []node, taken time.Time) (*comparison, error) {
	c := &comparison{}
	differ := func(n node, format string, args ...any) {
		c.differences = append(c.differences, n.Path+": "+fmt.Sprintf(format, args...))
	}
	inside := 0
	for _, n := range tree {
		if n.Path != live && !strings.HasPrefix(n.Path, live+"/") {
			continue // the folders above it
		}
		inside++
		restored := filepath.Join(scratch, n.Path)
		info, err := os.Lstat(restored)
		if err != nil {
			differ(n, "not restored")
			continue
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode() != fs.FileMode(n.Mode) {
			differ(n, "restored with mode %v, was %v", info.Mode(), fs.FileMode(n.Mode))
		}
		if stat.Uid != n.UID || stat.Gid != n.GID {
			differ(n, "restored with owner %d:%d, was %d:%d", stat.Uid, stat.Gid, n.UID, n.GID)
		}
		if n.Type != "file" {
			continue
		}
		if info.Size() != n.Size {
			differ(n, "restored with %d bytes, was %d", info.Size(), n.Size)
			continue
		}
		now, err := os.Lstat(n.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c.changed++
			continue
		case err != nil:
			return nil, fmt.Errorf("compare %s: %w", n.Path, err)
		case now.ModTime().After(taken) || !now.ModTime().Equal(n.MTime):
			c.changed++
			continue
		}
		same, err := equal(restored, n.Path)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", n.Path, err)
		}
		if !same {
			differ(n, "restored bytes differ from the live file, which was not written since")
		}
	}
	if inside == 0 {
		return nil, fmt.Errorf("the snapshot has nothing of %s", live)
	}
	err := filepath.WalkDir(live, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".ward-drill-") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				c.liveBytes += info.Size()
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", live, err)
	}
	return c, nil
}

// equal compares two files without holding either in memory.
func equal(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		na, errA := io.ReadFull(fa, bufA)
		nb, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		endA, endB := isEnd(errA), isEnd(errB)
		switch {
		case errA != nil && !endA:
			return false, errA
		case errB != nil && !endB:
			return false, errB
		case endA || endB:
			return endA == endB, nil
		}
	}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
