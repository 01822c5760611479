package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ward/builder/cache"
	"ward/builder/registry"
)

// The packages of an image in a registry, so that a fleet of machines installs
// them once: a tar of the tree and when it was made, which is part of what an
// image becomes. Whoever may write there decides what is in the images.
const (
	madeFile = "made"      // in a cache entry that came from a registry, RFC 3339
	madeNote = "ward.made" // in the registry
)

// remoteRef is where an entry of a key lies.
func (b *build) remoteRef(key string) string { return b.Remote + ":packages-" + key[:32] }

// fromRegistry fetches the packages of a key into a new cache entry. It tells
// whether they were there; a registry that does not answer has none.
func (b *build) fromRegistry(ctx context.Context, key, dir string) (bool, error) {
	if b.Remote == "" {
		return false, nil
	}
	ref := b.remoteRef(key)
	b.note("ask " + ref)
	temp := filepath.Join(dir, ".pull")
	if err := os.Mkdir(temp, 0o700); err != nil {
		return false, err
	}
	defer os.RemoveAll(temp)
	notes, err := registry.Pull(ctx, ref, registry.Entry, temp, nil)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, registry.ErrNotFound):
		return false, nil
	case err != nil:
		b.Log.Warn("the shared cache does not serve, packages are installed here", "why", err)
		return false, nil
	}
	made, err := time.Parse(time.RFC3339, notes[madeNote])
	if err != nil {
		b.Log.Warn("the shared cache has an entry without its time, packages are installed here", "entry", ref)
		return false, nil
	}
	settle := SettleSpec{Dir: dir, Tar: filepath.Join(temp, baseFile), Epoch: made.Unix(), Code: b.inputs.Binaries["ward"]}
	if err := b.inside(ctx, Inside{Settle: &settle}); err != nil {
		return false, fmt.Errorf("%s: %w", ref, err)
	}
	return true, os.WriteFile(filepath.Join(dir, madeFile), []byte(notes[madeNote]+"\n"), 0o600)
}

// madeOf is when an entry's packages were installed, on whatever machine.
func madeOf(e *cache.Entry) time.Time {
	data, err := os.ReadFile(e.Path(madeFile))
	if err != nil {
		return e.Made
	}
	made, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		return e.Made
	}
	return made.UTC()
}

// share pushes packages that were installed here. A registry that does not take
// them is no reason to fail a build.
func (b *build) share(ctx context.Context) error {
	if !b.installed {
		b.event.Text = "nothing new"
		return nil
	}
	temp, err := os.MkdirTemp("", "ward-share-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	b.note("pack")
	if err := b.inside(ctx, Inside{Pack: &PackSpec{Dir: b.base.Dir, Tar: filepath.Join(temp, baseFile)}}); err != nil {
		return err
	}
	made := b.base.Made.UTC().Format(time.RFC3339)
	ref := b.remoteRef(b.base.Key)
	if err := registry.Push(ctx, ref, registry.Entry, temp, []string{baseFile}, made, map[string]string{madeNote: made}, nil); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.Log.Warn("the shared cache does not take the packages", "why", err)
		b.event.Text = "not taken"
		return nil
	}
	b.event.Text = ref
	return nil
}
