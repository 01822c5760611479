package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"ward/builder/cache"
	"ward/builder/disk"
	"ward/initramfs/handoff"
)

// baseKind are the cache's entries with the file system of a tree of packages: what
// it borrows from the tree, and the rest.
const baseKind = "root"

// lentFile is disk.Borrowed, of a tree of packages.
const lentFile = "root.json"

// rawRoot is the root file system that is worked on, in bake.work.
const rawRoot = "root.ext4"

// base is the file system of the tree of packages, which every image of these packages
// and this size of root differs from. It lies in rawRoot, and its blocks in
// BakeSpec.Base.
type base struct {
	key    string
	prints disk.Prints
}

// rootBytes is the size of the file system, without the hash tree behind it.
func (b *bake) rootBytes() int64 {
	if b.Verity != "" {
		return disk.VerityData(b.RootSize)
	}
	return b.RootSize
}

// beginBase begins with the file system of the tree of packages. What the cache keeps
// of it may take longer than the system itself needs.
func (b *bake) beginBase(ctx context.Context, tree string) {
	made := make(chan base, 1)
	b.kept = begin(func() (struct{}, error) {
		defer close(made)
		return struct{}{}, b.keepBase(ctx, tree, made)
	})
	b.based = begin(func() (base, error) {
		x, ok := <-made
		if ok {
			return x, nil
		}
		_, err := b.kept.wait()
		return x, err
	})
}

// keepBase makes the file system of the tree of packages, or takes it from the cache,
// and gives it to made. It ends when the cache has it.
func (b *bake) keepBase(ctx context.Context, tree string, made chan<- base) error {
	key, err := cache.Key([]any{b.Code, b.facts.Digest, b.rootBytes(), b.Epoch, b.Mke2fs})
	if err != nil {
		return err
	}
	c, err := cache.Open(b.Cache, b.log, removeTree(b.log))
	if err != nil {
		return err
	}
	defer c.Close()
	err = b.cachedBase(ctx, c, key, tree, false, made)
	if errors.Is(err, errDamaged) {
		err = b.cachedBase(ctx, c, key, tree, true, made)
	}
	if errors.Is(err, disk.ErrTooSmall) {
		err = b.tooSmall()
	}
	return err
}

func (b *bake) tooSmall() error {
	return fmt.Errorf("%w into %d MiB\nhint: raise disk.root in the image file", disk.ErrTooSmall, b.RootSize>>20)
}

// cachedBase takes the file system from the cache, or from a new entry.
func (b *bake) cachedBase(ctx context.Context, c *cache.Cache, key, tree string, fresh bool, made chan<- base) error {
	raw := filepath.Join(b.work, rawRoot)
	blocks := func() error {
		prints, err := disk.WriteBlocks(ctx, b.Base, raw, nil) // while others work on the tree
		if err == nil {
			made <- base{key, prints} // from here on raw is another's
		}
		return err
	}
	e, hit, err := c.Get(ctx, baseKind, key, fresh, func(ctx context.Context, dir string) error {
		if err := os.Remove(raw); err != nil && !errors.Is(err, os.ErrNotExist) { // what a damaged entry gave
			return err
		}
		// Equal trees have one name, so that they give equal bytes; an image gets its own.
		id := uuid.NewSHA1(uuid.MustParse(handoff.RootType), []byte(b.facts.Digest))
		if err := disk.WriteExt4(ctx, b.log, raw, disk.Ext4{Tree: tree, UUID: id.String(), Size: b.rootBytes(), Epoch: b.Epoch}); err != nil {
			return err
		}
		if err := blocks(); err != nil {
			return err
		}
		// What is made from a damaged tree must not be found by the next build.
		lower, err := b.lower.wait()
		if err != nil {
			return err
		}
		return disk.Borrow(ctx, b.Base, tree, lower.files(), filepath.Join(dir, lentFile), filepath.Join(dir, rootFile))
	})
	if err != nil || !hit {
		return err
	}
	err = e.Verify(rootFile, lentFile)
	if err == nil {
		err = disk.Return(ctx, raw, tree, e.Path(lentFile), e.Path(rootFile))
	}
	if _, changed := b.lower.wait(); changed != nil { // which is the reason, then
		return changed
	}
	if err != nil {
		b.log.Warn("the cached root file system is damaged and is made again", "why", err)
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return blocks()
}

// files are the regular files with something in them, as paths in the tree.
func (s survey) files() []string {
	var all []string
	for _, e := range s {
		if e.info.Mode().IsRegular() && e.info.Size() > 0 {
			all = append(all, e.path[1:])
		}
	}
	return all
}

// filesystem makes the root file system: that of the tree of packages with what is
// another in the finished one, and with its hash tree where it is verified. A build
// with an empty cache goes the same way, and so gets the same bytes.
func (b *bake) filesystem(ctx context.Context) error {
	below, err := b.based.wait()
	if err != nil {
		return err
	}
	lower, err := b.lower.wait()
	if err != nil {
		return err
	}
	patch, err := changes(filepath.Join(b.Installed, treeDir), lower, b.tree, b.last, b.untouched)
	if err != nil {
		return err
	}
	patch.UUID, patch.Epoch = b.RootUUID, b.Epoch
	raw := filepath.Join(b.work, rawRoot)
	err = disk.PatchExt4(ctx, b.log, raw, b.work, patch)
	if errors.Is(err, disk.ErrTooSmall) {
		return b.tooSmall()
	}
	if err != nil {
		return err
	}
	if b.Verity != "" {
		// The hash tree lies behind the data, which nobody writes to from here on.
		v, err := disk.AppendVerity(ctx, b.log, raw, b.rootBytes(), b.Verity)
		if err != nil {
			return err
		}
		b.baked.Verity = v.String()
	}
	b.baked.Base = below.key
	if _, err = disk.WriteBlocks(ctx, filepath.Join(b.Output, rootFile), raw, below.prints); err != nil {
		return err
	}
	return os.Remove(raw)
}

// BaseSpec says what the blocks of a file system below are made of again.
type BaseSpec struct {
	Installed string `json:"installed"` // see BakeSpec
	Entry     string `json:"entry"`     // of the cache, with the file system
	Output    string `json:"output"`    // gets the blocks
}

// restoreBase makes the blocks of a file system in the cache.
func restoreBase(ctx context.Context, s BaseSpec) error {
	if err := checkTree(ctx, CheckSpec{Dir: s.Installed}); err != nil {
		return err
	}
	raw := s.Output + ".raw"
	defer os.Remove(raw)
	if err := disk.Return(ctx, raw, filepath.Join(s.Installed, treeDir), filepath.Join(s.Entry, lentFile), filepath.Join(s.Entry, rootFile)); err != nil {
		return err
	}
	_, err := disk.WriteBlocks(ctx, s.Output, raw, nil)
	return err
}
