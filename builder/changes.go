package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"ward/builder/disk"
)

// changes are what makes the file system of the finished tree from that of the
// unpacked one. They depend on the two trees alone, not on how the one was made of
// the other: a layer and a copy give the same. below and above are their folders;
// untouched knows of files that are those below, which spares looking.
func changes(below string, lower survey, above string, finished survey, untouched func(path string) bool) (p disk.Patch, err error) {
	old := make(map[string]surveyed, len(lower))
	for _, e := range lower {
		old[e.path] = e
	}
	made := map[[2]uint64]string{} // device and inode of a file with several names -> the name made first
	names := map[string]uint32{}   // name made first -> how many names are made
	here := make(map[string]bool, len(finished))
	for _, e := range finished {
		here[e.path] = true
		was, ok := old[e.path]
		change := disk.Made{
			Path: e.path, Mode: e.owner.Mode, UID: e.owner.Uid, GID: e.owner.Gid, Mtime: e.owner.Mtim.Sec, Link: e.link,
		}
		if e.path == "" {
			change.Path = "/"
		}
		kept := ok && sameFile(was, e)
		if kept && untouched(e.path) {
			continue
		}
		if change.Xattrs, err = attributes(above + e.path); err != nil {
			return p, err
		}
		var before map[string][]byte
		if ok {
			if before, err = attributes(below + e.path); err != nil {
				return p, err
			}
		}
		equal := maps.EqualFunc(before, change.Xattrs, bytes.Equal)
		if kept && equal {
			continue
		}
		if ok && was.info.IsDir() && e.info.IsDir() {
			change.Exists = true
			for name := range before {
				if _, still := change.Xattrs[name]; !still {
					change.Gone = append(change.Gone, name)
				}
			}
			p.Make = append(p.Make, change)
			continue
		}
		if ok {
			here[e.path] = false
		}
		if e.info.Mode().IsRegular() {
			change.Source = above + e.path
			if id := [2]uint64{e.owner.Dev, e.owner.Ino}; e.owner.Nlink > 1 {
				if first, ok := made[id]; ok {
					change.SameAs = first
				} else {
					made[id] = e.path
				}
				names[made[id]]++
			}
		}
		p.Make = append(p.Make, change)
	}
	for i, m := range p.Make {
		if m.SameAs == "" {
			p.Make[i].Names = names[m.Path]
		}
	}
	// A folder comes before what is in it: backwards, it is empty when its turn comes.
	for i := len(lower) - 1; i >= 0; i-- {
		if e := lower[i]; !here[e.path] {
			p.Remove = append(p.Remove, disk.Removed{Path: e.path, Folder: e.info.IsDir()})
		}
	}
	return p, nil
}

// sameFile compares all but extended attributes. The time of a symbolic link counts too.
func sameFile(a, b surveyed) bool {
	return a.owner.Mode == b.owner.Mode && a.owner.Uid == b.owner.Uid && a.owner.Gid == b.owner.Gid && a.owner.Rdev == b.owner.Rdev &&
		a.owner.Mtim.Sec == b.owner.Mtim.Sec && a.link == b.link && a.sum == b.sum && (!a.info.Mode().IsRegular() || a.info.Size() == b.info.Size())
}

// attributes are the extended attributes of a file, without those in which overlayfs
// keeps its own.
func attributes(name string) (map[string][]byte, error) {
	list := make([]byte, 1<<16) // the most that Linux has (xattr(7))
	n, err := unix.Llistxattr(name, list)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: name, Err: err}
	}
	all := map[string][]byte{}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return nil, fmt.Errorf("getxattr %s %s: %w", attr, name, err)
		}
		all[attr] = value[:n]
	}
	return all, nil
}
