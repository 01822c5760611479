package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"ward/builder/command"
)

// The tree of installed packages, in a cache entry of the kind packagesKind.
const (
	packagesKind = "packages"
	treeDir      = "tree"
	treeFile     = "tree.json"
	// baseFile is the tree as a tar, in a registry.
	baseFile = "base.tar.zst"
)

// SettleSpec says what becomes a tree that images start from.
type SettleSpec struct {
	Dir   string `json:"dir"`           // has treeDir, and gets treeFile
	Tar   string `json:"tar,omitempty"` // what packTree wrote, to be unpacked to treeDir first; empty: it is there
	Epoch int64  `json:"epoch"`         // every time in the tree is at most this one, seconds
	Code  string `json:"code"`          // sha256 of ward
}

// CheckSpec says which tree is compared with its digest.
type CheckSpec struct {
	Dir string `json:"dir"` // has treeDir and treeFile
}

// PackSpec says where a tree is and where its tar goes.
type PackSpec struct {
	Dir string `json:"dir"` // has treeDir and treeFile
	Tar string `json:"tar"`
}

// treeFacts is what treeFile says.
type treeFacts struct {
	Digest string `json:"digest"` // see survey.digest and treeDigest
	// Suspects are files whose text holds what looks like a secret. The gate reads
	// these again in each image that has them, and of the others only what is new.
	Suspects []string `json:"suspects"`
	Code     string   `json:"code"` // sha256 of the ward that looked for them
}

// settleTree makes, of what a package manager left, the clean tree that every image
// of these packages starts from, and writes down what it is.
func settleTree(ctx context.Context, log *slog.Logger, s SettleSpec, note func(string)) error {
	tree := filepath.Join(s.Dir, treeDir)
	if s.Tar != "" {
		note("unpack")
		if err := unpackTree(ctx, log, s.Tar, tree); err != nil {
			return err
		}
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
	facts := treeFacts{Suspects: []string{}, Code: s.Code}
	for _, e := range found {
		if len(e.found) > 0 {
			facts.Suspects = append(facts.Suspects, e.path)
		}
	}
	facts.Digest = treeDigest(found, facts.Suspects)
	return writeJSON(filepath.Join(s.Dir, treeFile), facts)
}

// treeDigest is the SHA-256 of the names, modes, owners and contents of a tree and
// of the names of its suspects. It is compared before an image is made from a
// cached tree, which anybody with the user's rights may have changed since.
func treeDigest(s survey, suspects []string) string {
	sum := sha256.Sum256([]byte(s.digest() + "\n" + strings.Join(suspects, "\n")))
	return hex.EncodeToString(sum[:])
}

// treeChanged is said of a tree of packages that is no longer what it was.
const treeChanged = "was changed since its packages were installed"

// survey reads the tree in a folder, for secrets too if gate is set, and refuses one
// that is no longer what the facts say.
func (f treeFacts) survey(ctx context.Context, dir string, gate bool) (survey, error) {
	tree := filepath.Join(dir, treeDir)
	got, err := surveyTree(ctx, tree, gate, nil)
	if err == nil && treeDigest(got, f.Suspects) != f.Digest {
		err = fmt.Errorf("%s %s\nhint: remove %s, the next build installs them again", tree, treeChanged, dir)
	}
	return got, err
}

// readFacts reads what a tree was.
func readFacts(dir string) (f treeFacts, err error) {
	if err = readJSON(filepath.Join(dir, treeFile), &f); err != nil {
		err = fmt.Errorf("%s %s: %w", dir, treeChanged, err)
	}
	return f, err
}

// checkTree compares a settled tree with its digest.
func checkTree(ctx context.Context, s CheckSpec) error {
	facts, err := readFacts(s.Dir)
	if err != nil {
		return err
	}
	_, err = facts.survey(ctx, s.Dir, false)
	return err
}

// treeTar are tar's options for what a file is beside its content. The names are sorted
// and the times of access left out, so that equal trees give equal bytes; file
// capabilities are extended attributes.
var treeTar = []string{
	"--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*",
}

// packTree writes a settled tree, which must be what it was, as a tar.
func packTree(ctx context.Context, log *slog.Logger, s PackSpec) error {
	if err := checkTree(ctx, CheckSpec{Dir: s.Dir}); err != nil {
		return err
	}
	f, err := os.OpenFile(s.Tar, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(f)
	if err != nil {
		return err
	}
	argv := append([]string{"tar", "--create", "--directory", filepath.Join(s.Dir, treeDir)}, treeTar...)
	err = command.Start(ctx, log, command.Spec{Argv: append(argv, "."), Stdout: z})
	return errors.Join(err, z.Close(), f.Close())
}

// unpackTree unpacks what packTree wrote.
func unpackTree(ctx context.Context, log *slog.Logger, name, tree string) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer z.Close()
	return command.Start(ctx, log, command.Spec{Stdin: z, Argv: []string{
		"tar", "--extract", "--directory", tree, "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*",
	}})
}
