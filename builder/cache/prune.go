package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy says that another program uses the cache.
var ErrBusy = errors.New("cache: a build uses it")

// Kept is an entry as it lies in the cache.
type Kept struct {
	Name string    // folder in the cache; of an unfinished entry it starts with a dot
	Kind string    // what step made it
	Used time.Time // when a build last took or made it
	Size int64     // bytes on disk
	Why  string    // why it is of no use: unfinished, or damaged; empty for a good one
}

// List returns what is in the cache, what was not used for the longest time first.
func (c *Cache) List() ([]Kept, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var all []Kept
	for _, d := range entries {
		name := strings.TrimPrefix(d.Name(), ".")
		lock, err := os.Stat(filepath.Join(c.dir, name+".lock"))
		if !d.IsDir() || err != nil {
			continue // no entry: the logs, the store of packages
		}
		k := Kept{Name: d.Name(), Used: lock.ModTime()}
		k.Kind, _, _ = strings.Cut(name, "-")
		if name != d.Name() {
			k.Why = "unfinished"
		} else if _, err := read(filepath.Join(c.dir, name)); err != nil {
			k.Why = "damaged: " + err.Error()
		}
		if k.Size, err = usage(filepath.Join(c.dir, d.Name())); err != nil {
			return nil, fmt.Errorf("cache: %s: %w", d.Name(), err)
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b Kept) int {
		if by := a.Used.Compare(b.Used); by != 0 {
			return by
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, nil
}

// Prune removes what is of no use, what was not used since a moment (zero: no
// limit) and then, the longest unused first, what is beyond so many bytes (0: no
// limit). It returns what it removed, and ErrBusy while a build uses the cache.
func (c *Cache) Prune(ctx context.Context, since time.Time, most int64) ([]Kept, error) {
	if err := unix.Flock(int(c.use.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("cache: %w", err)
	}
	defer unix.Flock(int(c.use.Fd()), unix.LOCK_SH)
	all, err := c.List()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, k := range all {
		total += k.Size
	}
	var removed []Kept
	for _, k := range all {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if k.Why == "" && !k.Used.Before(since) && (most == 0 || total <= most) {
			continue
		}
		if err := c.drop(ctx, k.Name); err != nil {
			return removed, err
		}
		total -= k.Size
		removed = append(removed, k)
	}
	return removed, nil
}

// Supersede removes the entries of a kind that the one of a key replaces, as old
// tells from their folders. While another build uses the cache it removes nothing:
// the next one will.
func (c *Cache) Supersede(ctx context.Context, kind, key string, old func(dir string) bool) error {
	if err := unix.Flock(int(c.use.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("cache: %w", err)
	}
	defer unix.Flock(int(c.use.Fd()), unix.LOCK_SH)
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	for _, d := range entries {
		name := d.Name()
		if !d.IsDir() || !strings.HasPrefix(name, kind+"-") || name == entryName(kind, key) || !old(filepath.Join(c.dir, name)) {
			continue
		}
		if err := c.drop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// drop removes an entry; its lock's file is kept for whoever has it open. First it
// loses its name, so that a half removed entry is never taken for one.
func (c *Cache) drop(ctx context.Context, name string) error {
	unfinished := filepath.Join(c.dir, "."+strings.TrimPrefix(name, "."))
	if !strings.HasPrefix(name, ".") {
		if err := c.remove(ctx, unfinished); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		if err := os.Rename(filepath.Join(c.dir, name), unfinished); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	if err := c.remove(ctx, unfinished); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// usage is what a folder takes on disk. What an ordinary user may not look into,
// because it belongs to a subordinate id, is not counted.
func usage(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512 // stat(2)
		}
		return nil
	})
	return n, err
}
