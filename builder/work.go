package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unfinished ends the names of folders in which a build works.
const unfinished = ".unfinished"

// workFolder makes the folder in which a build puts its output together, beside
// the final one, and locks it for as long as the file is open. What builds of
// the same output that were killed have left there is removed: nobody holds its
// lock any more.
func workFolder(parent, name string) (string, *os.File, error) {
	p, err := os.Open(parent)
	if err != nil {
		return "", nil, err
	}
	defer p.Close()
	// Between its making and its lock a new folder looks like a left one.
	if err := unix.Flock(int(p.Fd()), unix.LOCK_EX); err != nil {
		return "", nil, fmt.Errorf("lock %s: %w", parent, err)
	}
	if err := removeLeft(parent, name); err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(parent, "."+name+"-*"+unfinished)
	if err != nil {
		return "", nil, err
	}
	f, err := os.Open(dir)
	if err == nil {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), os.RemoveAll(dir))
	}
	return dir, f, nil
}

func removeLeft(parent, name string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "."+name+"-") || !strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		f, err := os.Open(dir)
		if err != nil {
			continue // gone, or not ours to open
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.RemoveAll(dir)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("left by a build that was killed: %w", err)
		}
	}
	return nil
}
