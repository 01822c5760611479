package disk

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lentTree makes a tree, its file system and the paths of its files. Some files have
// equal pieces, holes or a piece that is not whole.
func lentTree(t *testing.T, size int64) (tree, image string, paths []string) {
	t.Helper()
	tree = filepath.Join(t.TempDir(), "tree")
	noise := rand.NewChaCha8([32]byte{1})
	random := func(n int) []byte {
		b := make([]byte, n)
		noise.Read(b)
		return b
	}
	one := random(300_000)
	for name, data := range map[string][]byte{
		"etc/motd": []byte("welcome\n"), "usr/bin/one": one, "usr/bin/same": one, "usr/bin/part": one[pieceSize : 5*pieceSize],
		"usr/bin/zeros": append(append(random(pieceSize), make([]byte, 3*blockSize)...), random(pieceSize+7)...),
		"usr/bin/all":   bytes.Repeat(one[:pieceSize], 20), "usr/lib/two": random(1 << 20),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755), os.WriteFile(filepath.Join(tree, name), data, 0o644)); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, name)
	}
	image = filepath.Join(t.TempDir(), "image")
	e := Ext4{Tree: tree, UUID: "11111111-2222-4333-8444-555555555555", Size: size, Epoch: 1_700_000_000}
	if err := WriteExt4(t.Context(), slog.New(slog.DiscardHandler), image, e); err != nil {
		t.Fatal(err)
	}
	return tree, image, paths
}

// borrow borrows for an image that is a file.
func borrow(t *testing.T, image, tree string, paths []string, list, rest string) error {
	t.Helper()
	blocks := filepath.Join(t.TempDir(), "blocks")
	if _, err := WriteBlocks(t.Context(), blocks, image, nil); err != nil {
		t.Fatal(err)
	}
	return Borrow(t.Context(), blocks, tree, paths, list, rest)
}

// What is borrowed is returned, and is not kept.
func TestBorrow(t *testing.T) {
	tree, image, paths := lentTree(t, 520<<20)
	dir := t.TempDir()
	list, rest, to := filepath.Join(dir, "list"), filepath.Join(dir, "rest"), filepath.Join(dir, "to")
	if err := borrow(t, image, tree, paths, list, rest); err != nil {
		t.Fatal(err)
	}
	if err := Return(t.Context(), to, tree, list, rest); err != nil {
		t.Fatal(err)
	}
	run(t, "cmp", to, image)
	run(t, "e2fsck", "-fn", to)
	// Of the 8320 blocks each has a length of four bytes.
	if n := len(read(t, rest)) - 4*8320; n > 32<<10 {
		t.Errorf("%d bytes are kept, the tree has more than 1.6 MiB that do not compress", n)
	}
	// A small file system has smaller blocks, and files begin anywhere.
	tree, image, paths = lentTree(t, 32<<20)
	if err := errors.Join(borrow(t, image, tree, paths, list, rest), Return(t.Context(), to, tree, list, rest)); err != nil {
		t.Fatal(err)
	}
	run(t, "cmp", to, image)
	// An image of any size, none of it in the tree.
	other := sparse(t, 9, 4)
	if err := os.Truncate(other, 9*blockSize-100); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(borrow(t, other, tree, paths, list, rest), Return(t.Context(), to, tree, list, rest)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, to), read(t, other)) {
		t.Error("another image is returned, of which nothing is borrowed")
	}
}

func TestReturnRefuses(t *testing.T) {
	tree, image, paths := lentTree(t, 32<<20)
	dir := t.TempDir()
	list, rest := filepath.Join(dir, "list"), filepath.Join(dir, "rest")
	if err := borrow(t, image, tree, paths, list, rest); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ list, want string }{
		"no JSON":            {"{", "unexpected end"},
		"another size":       {`{"size":1}`, "is of an image of 1 bytes"},
		"a path outside":     {`{"size":33554432,"files":[{"path":"../outside"}]}`, "path escapes"},
		"a folder":           {`{"size":33554432,"files":[{"path":"usr/bin"}]}`, "is no regular file"},
		"gone":               {`{"size":33554432,"files":[{"path":"usr/bin/gone"}]}`, "no such file"},
		"behind the file":    {`{"size":33554432,"files":[{"path":"etc/motd","runs":[{"i":0,"f":1,"n":1}]}]}`, "is not within its 8 bytes"},
		"longer than it":     {`{"size":33554432,"files":[{"path":"etc/motd","runs":[{"i":0,"f":0,"n":2}]}]}`, "is not within its 8 bytes"},
		"behind the image":   {`{"size":33554432,"files":[{"path":"etc/motd","runs":[{"i":8192,"f":0,"n":1}]}]}`, "or the image's 33554432"},
		"before the image":   {`{"size":33554432,"files":[{"path":"etc/motd","runs":[{"i":-1,"f":0,"n":1}]}]}`, "or the image's 33554432"},
		"more than a number": {`{"size":33554432,"files":[{"path":"etc/motd","runs":[{"i":9223372036854775807,"f":0,"n":9223372036854775807}]}]}`, "is not within"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "list")
			if err := os.WriteFile(bad, []byte(c.list), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := Return(t.Context(), filepath.Join(t.TempDir(), "to"), tree, bad, rest); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Return() = %v, want an error that says %q", err, c.want)
			}
		})
	}
}
