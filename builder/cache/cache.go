// Package cache keeps the results of build steps under the hash of their
// inputs. An entry is a folder of files; it appears under its name only when it
// is whole, two builds that want the same one make it once, and a file whose
// bytes are no longer those that were written makes the entry be built again.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entryFile describes an entry; it is written last.
const entryFile = "entry.json"

// Cache is a folder of entries.
type Cache struct {
	dir    string
	log    *slog.Logger
	remove func(context.Context, string) error
	use    *os.File // held shared as long as the program runs, so that nobody prunes
}

// Entry is a finished result.
type Entry struct {
	Dir  string `json:"-"`
	Kind string `json:"kind"`
	Key  string `json:"key"`
	// Made is when the entry was made, which for packages is how old they may be.
	Made  time.Time       `json:"made"`
	Files map[string]File `json:"files"`
}

// File is what an entry knows of one of its files.
type File struct {
	Size   int64  `json:"size"`   // bytes
	Digest string `json:"digest"` // see digest
}

// Path is the path of a file of the entry.
func (e *Entry) Path(name string) string { return filepath.Join(e.Dir, name) }

// Size is how many bytes the entry's files have together.
func (e *Entry) Size() int64 {
	var n int64
	for _, f := range e.Files {
		n += f.Size
	}
	return n
}

// Open opens the cache in a folder, which is made if need be. Folders in it are
// removed with remove: those of an ordinary user may have files of other owners.
func Open(dir string, log *slog.Logger, remove func(ctx context.Context, dir string) error) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	use, err := os.OpenFile(filepath.Join(dir, "use.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := unix.Flock(int(use.Fd()), unix.LOCK_SH); err != nil {
		use.Close()
		return nil, fmt.Errorf("cache: lock %s: %w", use.Name(), err)
	}
	return &Cache{dir: dir, log: log, remove: remove, use: use}, nil
}

// Close lets others prune again.
func (c *Cache) Close() error { return c.use.Close() }

// Key is the hash of a step's inputs: of their JSON.
func Key(inputs any) (string, error) {
	b, err := json.Marshal(inputs)
	if err != nil {
		return "", fmt.Errorf("cache: key: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Get returns the entry of a kind and key, and whether it was there. If it was
// not, or fresh is asked for, build fills a new folder; while it does, others
// that want the same entry wait. It waits for those who hold the former one.
func (c *Cache) Get(ctx context.Context, kind, key string, fresh bool, build func(ctx context.Context, dir string) error) (*Entry, bool, error) {
	if !fresh {
		e, release, err := c.Hold(ctx, kind, key)
		if err == nil {
			release()
			return e, true, nil
		}
		if ctx.Err() != nil {
			return nil, false, err
		}
	}
	name := entryName(kind, key)
	unlock, err := c.lock(ctx, name, unix.LOCK_EX)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	dir := filepath.Join(c.dir, name)
	if !fresh { // somebody may have built it meanwhile
		e, err := read(dir)
		switch {
		case err == nil && e.Key == key:
			return e, true, nil
		case err == nil:
			c.log.Warn("cache entry has another key and is built again", "entry", name)
		case !errors.Is(err, os.ErrNotExist):
			c.log.Warn("cache entry is damaged and is built again", "entry", name, "why", err)
		}
	}
	// One name for the unfinished entry: the lock is ours, so what lies there is
	// left over from a build that was killed.
	unfinished := filepath.Join(c.dir, "."+name)
	if err := c.remove(ctx, unfinished); err != nil {
		return nil, false, fmt.Errorf("cache: %w", err)
	}
	if err := c.removeLeft(ctx); err != nil {
		return nil, false, fmt.Errorf("cache: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return nil, false, fmt.Errorf("cache: %w", err)
	}
	if err := build(ctx, unfinished); err != nil {
		return nil, false, errors.Join(err, c.remove(context.WithoutCancel(ctx), unfinished))
	}
	e, err := describe(unfinished, kind, key)
	if err != nil {
		return nil, false, fmt.Errorf("cache: %s: %w", name, err)
	}
	if err := c.remove(ctx, dir); err != nil {
		return nil, false, fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return nil, false, fmt.Errorf("cache: %w", err)
	}
	e.Dir = dir
	return e, false, nil
}

// Hold returns a finished entry that nobody makes anew until it is released. A file of
// it may be damaged, see Verify.
func (c *Cache) Hold(ctx context.Context, kind, key string) (e *Entry, release func(), err error) {
	name := entryName(kind, key)
	release, err = c.lock(ctx, name, unix.LOCK_SH)
	if err != nil {
		return nil, nil, err
	}
	if e, err = read(filepath.Join(c.dir, name)); err == nil && e.Key != key {
		err = fmt.Errorf("cache: %s: has another key", e.Dir)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return e, release, nil
}

// Peek returns a finished entry of the cache in a folder. It writes nothing and takes no
// lock: the entry is what it was when somebody renamed it to its name.
func Peek(dir, kind, key string) (*Entry, error) {
	e, err := read(filepath.Join(dir, entryName(kind, key)))
	if err == nil && e.Key != key {
		return nil, fmt.Errorf("cache: %s: has another key", e.Dir)
	}
	return e, err
}

func entryName(kind, key string) string { return kind + "-" + key[:32] }

// removeLeft removes unfinished entries of other names that builds left which
// were killed: those whose lock nobody holds.
func (c *Cache) removeLeft(ctx context.Context) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, d := range entries {
		name, hidden := strings.CutPrefix(d.Name(), ".")
		if !hidden || !d.IsDir() {
			continue
		}
		unlock, err := c.tryLock(name)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return err
		}
		err = c.remove(ctx, filepath.Join(c.dir, d.Name()))
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// tryLock takes the lock of an entry if it is free.
func (c *Cache) tryLock(name string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// lock takes the lock of an entry, for itself or shared (flock(2)), or gives up when
// the context ends.
func (c *Cache) lock(ctx context.Context, name string, how int) (func(), error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	for said := false; ; {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			// When it was last wanted, for Prune.
			if err := os.Chtimes(f.Name(), time.Time{}, time.Now()); err != nil {
				f.Close()
				return nil, fmt.Errorf("cache: %w", err)
			}
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("cache: lock %s: %w", name, err)
		}
		if !said {
			c.log.Info("another build makes or uses the same thing, waiting for it", "entry", name)
			said = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// read returns a finished entry; the sizes of its files are compared here, their
// bytes by Verify.
func read(dir string) (*Entry, error) {
	b, err := os.ReadFile(filepath.Join(dir, entryFile))
	if err != nil {
		return nil, err
	}
	e := &Entry{Dir: dir}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("%s: %w", entryFile, err)
	}
	if len(e.Files) == 0 {
		return nil, fmt.Errorf("%s: no files", entryFile)
	}
	for name, want := range e.Files {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("%s: gone", name) // not ErrNotExist: the entry is there, and damaged
		}
		if want.Digest == "" {
			return nil, fmt.Errorf("%s: has no digest", name)
		}
		if info.Size() != want.Size {
			return nil, fmt.Errorf("%s: has %d bytes, not %d", name, info.Size(), want.Size)
		}
	}
	return e, nil
}

// Verify compares the bytes of an entry's files with their digests.
func (e *Entry) Verify(names ...string) error {
	for _, name := range names {
		got, err := digest(e.Path(name))
		if err != nil {
			return err
		}
		if got != e.Files[name].Digest {
			return fmt.Errorf("cache: %s: is %s, was written as %s", e.Path(name), got, e.Files[name].Digest)
		}
	}
	return nil
}

// describe writes the entry file of a folder that is filled.
func describe(dir, kind, key string) (*Entry, error) {
	e := &Entry{Kind: kind, Key: key, Made: time.Now().UTC().Truncate(time.Second), Files: map[string]File{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range entries {
		if d.IsDir() { // whoever puts a folder into an entry keeps a digest of it in a file
			continue
		}
		info, err := d.Info()
		if err != nil {
			return nil, err
		}
		sum, err := digest(filepath.Join(dir, d.Name()))
		if err != nil {
			return nil, err
		}
		e.Files[d.Name()] = File{Size: info.Size(), Digest: sum}
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, err
	}
	// Nothing is flushed: what a power cut takes away is found by Verify, as any other
	// damage, and made again. Waiting for the disk would cost more than that.
	return e, os.WriteFile(filepath.Join(dir, entryFile), append(b, '\n'), 0o600)
}
