package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"ward/builder/secrets"
)

// survey is what one walk over a tree found. The listing, the secret gate and the
// comparison of a cached tree are three readers of it: each file is read once.
type survey []surveyed

// surveyed is one file of any type, in the order of filepath.WalkDir.
type surveyed struct {
	path  string // in the tree: "" for the root, "/usr/bin"
	info  fs.FileInfo
	owner *syscall.Stat_t
	link  string            // of a symbolic link: where it points
	sum   string            // of a regular file: SHA-256, hex
	found []secrets.Finding // of a regular file: secrets in its text
}

// surveyTree walks a tree and reads its regular files, several at a time, for
// their digests and, if gate is set, for secrets. known may spare a file the
// reading: it returns the digest of one whose text is known to have no secret.
func surveyTree(ctx context.Context, tree string, gate bool, known func(path string, info fs.FileInfo) (sum string, ok bool)) (survey, error) {
	var s survey
	var files []int
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e := surveyed{path: path[len(tree):]}
		if e.info, err = d.Info(); err != nil {
			return err
		}
		var ok bool
		if e.owner, ok = e.info.Sys().(*syscall.Stat_t); !ok {
			return fmt.Errorf("%s: no owner", path)
		}
		switch {
		case e.info.Mode()&fs.ModeSymlink != 0:
			if e.link, err = os.Readlink(path); err != nil {
				return err
			}
		case e.info.Mode().IsRegular():
			if known != nil {
				e.sum, _ = known(e.path, e.info)
			}
			if e.sum == "" {
				files = append(files, len(s))
			}
		}
		s = append(s, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, s.read(ctx, tree, gate, files)
}

// read fills in the digests of files, and what is found in them.
func (s survey) read(ctx context.Context, tree string, gate bool, files []int) error {
	work := make(chan int)
	group, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			r := reader{buf: make([]byte, 256<<10)}
			for i := range work {
				var err error
				if s[i].sum, s[i].found, err = r.read(tree, s[i].path, gate); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(work)
		for _, i := range files {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

// reader reads files, one at a time; it keeps its buffers between them.
type reader struct {
	buf     []byte
	scanner secrets.Scanner
}

func (r *reader) read(tree, path string, gate bool) (sum string, found []secrets.Finding, err error) {
	f, err := os.OpenFile(tree+path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	h := sha256.New()
	if gate {
		if found, err = r.scanner.Scan(strings.TrimPrefix(path, "/"), io.TeeReader(f, h)); err != nil {
			return "", nil, err
		}
	}
	// The gate may have stopped before the end. Hiding WriteTo makes CopyBuffer use the buffer.
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, r.buf); err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), found, nil
}

// digest is the SHA-256 of the names, modes, owners and contents of the tree.
func (s survey) digest() string {
	h := sha256.New()
	for _, e := range s {
		fmt.Fprintf(h, "%q %o %d:%d %d", e.path, e.owner.Mode, e.owner.Uid, e.owner.Gid, e.owner.Rdev)
		if e.info.Mode().IsRegular() {
			fmt.Fprintf(h, " %d %s", e.info.Size(), e.sum)
		}
		fmt.Fprintf(h, " %q\n", e.link)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// secrets are all that the gate refuses: files that may not be there, and text
// that may not be in one. A tree without any file was not looked at.
func (s survey) secrets() ([]secrets.Finding, error) {
	var all []secrets.Finding
	files := 0
	for _, e := range s {
		if !e.info.Mode().IsRegular() {
			continue
		}
		files++
		if f, bad := secrets.Forbidden(strings.TrimPrefix(e.path, "/"), e.info.Size()); bad {
			all = append(all, f)
			continue
		}
		all = append(all, e.found...)
	}
	if files == 0 {
		return nil, errors.New("look for secrets: the tree has no files")
	}
	return all, nil
}
