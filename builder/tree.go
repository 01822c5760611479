package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"ward/builder/command"
)

// UnpackSpec says which tar to unpack and where.
type UnpackSpec struct {
	Base   string `json:"base"`
	Output string `json:"output"` // gets treeDir and treeFile
}

const (
	treeDir  = "tree"
	treeFile = "tree.json"
)

// treeFacts is what treeFile says.
type treeFacts struct {
	Digest string `json:"digest"` // see treeDigest
}

// unpack makes the clean tree that every image of these packages starts from.
// Device nodes are left out: a user namespace cannot make them, and on the
// machine devtmpfs has them.
func unpack(ctx context.Context, log *slog.Logger, s UnpackSpec, note func(string)) error {
	tree := filepath.Join(s.Output, treeDir)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	note("unpack")
	err := command.Run(ctx, log, "tar", "--extract", "--file", s.Base, "--directory", tree, "--numeric-owner", "--same-permissions",
		"--xattrs", "--xattrs-include=*", "--exclude=./dev/*")
	if err != nil {
		return err
	}
	note("clean")
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := clean(root); err != nil {
		return err
	}
	digest, err := treeDigest(ctx, tree)
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(s.Output, treeFile), treeFacts{digest})
}

// treeDigest is the SHA-256 of the names, modes, owners and contents of a tree.
// It is compared before an image is made from a cached tree, which anybody with
// the user's rights may have changed since.
func treeDigest(ctx context.Context, tree string) (string, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: no owner", path)
		}
		fmt.Fprintf(h, "%q %o %d:%d %d\n", path[len(tree):], st.Mode, st.Uid, st.Gid, st.Rdev)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "-> %q\n", to)
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintf(h, "%d bytes\n", info.Size())
			if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, buf); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
