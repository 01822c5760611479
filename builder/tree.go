package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"ward/builder/command"
)

// UnpackSpec says which tar to unpack and where.
type UnpackSpec struct {
	Base   string `json:"base"`
	Output string `json:"output"` // gets treeDir and treeFile
	Epoch  int64  `json:"epoch"`  // every time in the tree is at most this one, seconds
}

const (
	treeDir  = "tree"
	treeFile = "tree.json"
)

// treeFacts is what treeFile says.
type treeFacts struct {
	Digest string `json:"digest"` // see survey.digest and treeDigest
	// Suspects are files whose text holds what looks like a secret. The gate reads
	// these again in each image that has them, and of the others only what is new.
	Suspects []string `json:"suspects"`
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
	base, err := openBase(s.Base)
	if err != nil {
		return err
	}
	defer base.Close()
	err = command.Start(ctx, log, command.Spec{Stdin: base, Argv: []string{
		"tar", "--extract", "--directory", tree, "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*",
	}})
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
	if err := cutTimes(ctx, log, tree, s.Epoch); err != nil {
		return err
	}
	note("read")
	found, err := surveyTree(ctx, tree, true, nil)
	if err != nil {
		return err
	}
	facts := treeFacts{Suspects: []string{}}
	for _, e := range found {
		if len(e.found) > 0 {
			facts.Suspects = append(facts.Suspects, e.path)
		}
	}
	facts.Digest = treeDigest(found, facts.Suspects)
	return writeJSON(filepath.Join(s.Output, treeFile), facts)
}

// treeDigest is the SHA-256 of the names, modes, owners and contents of a tree and
// of the names of its suspects. It is compared before an image is made from a
// cached tree, which anybody with the user's rights may have changed since.
func treeDigest(s survey, suspects []string) string {
	sum := sha256.Sum256([]byte(s.digest() + "\n" + strings.Join(suspects, "\n")))
	return hex.EncodeToString(sum[:])
}
