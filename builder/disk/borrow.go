package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pieceSize is the size of the pieces that an image borrows: a block of an ext4 of
// 512 MiB or more (mke2fs.conf(5)), in which each file begins anew.
const pieceSize = 4 << 10

// perBlock is how many pieces a block has.
const perBlock = blockSize / pieceSize

// Borrowed are the pieces of an image that lie in files of a tree as well, so that
// they need not be kept twice.
type Borrowed struct {
	Size  int64  `json:"size"` // of the image, bytes
	Files []Lent `json:"files"`
}

// Lent is a file of the tree with what is borrowed from it.
type Lent struct {
	Path string `json:"path"` // "usr/bin/bash"
	Runs []Run  `json:"runs"`
}

// Run are pieces that follow one another in both, by number.
type Run struct {
	Image int64 `json:"i"`
	File  int64 `json:"f"`
	Count int64 `json:"n"`
}

// Borrow finds the pieces of an image, of which there are Blocks from zeros, that lie in
// files of a tree, of these paths. It writes which ones to the file list, as JSON, and
// what is left of the image to the file rest, as Blocks. Together with the tree they
// are the image, see Return.
func Borrow(ctx context.Context, from, tree string, paths []string, list, rest string) error {
	x := &index{first: map[print]place{}}
	if err := x.read(ctx, tree, paths); err != nil {
		return err
	}
	l, err := OpenLayers(from)
	if err != nil {
		return err
	}
	defer l.Close()
	z, err := decoder()
	if err != nil {
		return err
	}
	defer z.Close()
	lent := make([]Lent, len(x.files))
	taken := make([][perBlock]bool, l.blocks())
	left := make([]bool, l.blocks()) // blocks with something that is not borrowed
	block := func(i int) ([]byte, error) { return l.block(z, i) }
	var last place // of the piece before
	next := int64(-1)
	err = inOrder(ctx, l.blocks(), block, func(i int, block []byte) error {
		for n := range perBlock {
			piece := block[n*pieceSize:][:pieceSize]
			if bytes.Equal(piece, zeroBlock[:pieceSize]) {
				continue
			}
			at := int64(i)*perBlock + int64(n)
			follows := place{last.file, last.piece + 1}
			p, ok := x.find(printOf(piece), follows, at == next)
			if !ok || (at+1)*pieceSize > l.size() {
				left[i] = true
				continue
			}
			runs := &lent[p.file].Runs
			if at == next && p == follows {
				(*runs)[len(*runs)-1].Count++
			} else {
				*runs = append(*runs, Run{at, p.piece, 1})
			}
			last, next, taken[i][n] = p, at+1, true
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := Borrowed{Size: l.size(), Files: []Lent{}}
	for i, f := range lent {
		if len(f.Runs) > 0 {
			b.Files = append(b.Files, Lent{x.files[i].path, f.Runs})
		}
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(list, text, 0o644); err != nil {
		return err
	}
	return writeBlocks(ctx, rest, l.size(), l.blocks(), func(i int) ([]byte, error) {
		if !left[i] {
			return nil, nil
		}
		rest, err := block(i)
		if err != nil {
			return nil, err
		}
		for n, is := range taken[i] {
			if is {
				clear(rest[n*pieceSize:][:pieceSize])
			}
		}
		return rest, nil
	})
}

// place is a piece of a file.
type place struct{ file, piece int64 }

// index knows where in the tree each piece is.
type index struct {
	files []indexed
	first map[print]place // the first one with that print
}

type indexed struct {
	path   string
	pieces []print
}

// read reads the files' pieces.
func (x *index) read(ctx context.Context, tree string, paths []string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	x.files = make([]indexed, len(paths))
	err = parallel(ctx, 0, len(paths), func(i int) error {
		x.files[i].path = paths[i]
		f, err := openIn(root, paths[i])
		if err != nil {
			return err
		}
		defer f.Close()
		buf := make([]byte, blockSize)
		for {
			n, err := io.ReadFull(f, buf)
			if n > 0 {
				clear(buf[n:])
				for at := 0; at < n; at += pieceSize {
					x.files[i].pieces = append(x.files[i].pieces, printOf(buf[at:at+pieceSize]))
				}
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", paths[i], err)
			}
		}
	})
	if err != nil {
		return err
	}
	for i, f := range x.files {
		for n, p := range f.pieces {
			if _, ok := x.first[p]; !ok {
				x.first[p] = place{int64(i), int64(n)}
			}
		}
	}
	return nil
}

// find finds a piece: the one that follows, if it may be that, or any other.
func (x *index) find(piece print, follows place, may bool) (place, bool) {
	if may {
		if all := x.files[follows.file].pieces; follows.piece < int64(len(all)) && all[follows.piece] == piece {
			return follows, true
		}
	}
	p, ok := x.first[piece]
	return p, ok
}

// openIn opens a regular file of a tree.
func openIn(root *os.Root, path string) (*os.File, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would keep us waiting
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s: is no regular file", path), f.Close())
	}
	return f, nil
}

// Return makes the image again of what Borrow wrote and the tree, in a new file. It
// does not tell a changed tree from the one that was: who calls it compares that.
func Return(ctx context.Context, to, tree, list, rest string) (err error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var b Borrowed
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	left, err := OpenLayers(rest)
	if err != nil {
		return err
	}
	defer left.Close()
	if b.Size != left.size() {
		return fmt.Errorf("%s: is of an image of %d bytes, %s of %d", list, b.Size, rest, left.size())
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := errors.Join(f.Truncate(b.Size), left.Unpack(ctx, f, 0)); err != nil {
		return err
	}
	return parallel(ctx, 0, len(b.Files), func(i int) error {
		if err := b.Files[i].copy(f, root, b.Size); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(tree, b.Files[i].Path), err)
		}
		return nil
	})
}

// copy copies what is borrowed from a file to an image of that size.
func (l Lent) copy(to *os.File, root *os.Root, size int64) error {
	f, err := openIn(root, l.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pieces := (info.Size() + pieceSize - 1) / pieceSize
	for _, r := range l.Runs {
		if r.Image < 0 || r.File < 0 || r.Count < 1 || r.Count > pieces-r.File || r.Count > size/pieceSize-r.Image {
			return fmt.Errorf("run %+v is not within its %d bytes or the image's %d", r, info.Size(), size)
		}
		from := io.NewSectionReader(f, r.File*pieceSize, r.Count*pieceSize)
		if _, err := io.Copy(io.NewOffsetWriter(to, r.Image*pieceSize), from); err != nil {
			return err
		}
	}
	return nil
}
