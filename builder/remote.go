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
// them once: the tar and when it was made, which is part of what an
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
	if _, err := time.Parse(time.RFC3339, notes[madeNote]); err != nil {
		b.Log.Warn("the shared cache has an entry without its time, packages are installed here", "entry", ref)
		return false, nil
	}
	if err := os.Rename(filepath.Join(temp, baseFile), filepath.Join(dir, baseFile)); err != nil {
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
	if err := b.base.Verify(baseFile); err != nil {
		return err
	}
	made := b.base.Made.UTC().Format(time.RFC3339)
	ref := b.remoteRef(b.base.Key)
	if err := registry.Push(ctx, ref, registry.Entry, b.base.Path(""), []string{baseFile}, made, map[string]string{madeNote: made}, nil); err != nil {
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
