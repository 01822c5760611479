package firstboot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// keepOwner leaves the owner or group of a file as it is.
const keepOwner = -1

// writeFile makes name hold exactly b with that mode and owner, so that after
// a power cut it has either the old content or the new. It reports whether
// anything had to change.
func writeFile(root *os.Root, name string, b []byte, mode fs.FileMode, uid, gid int) (changed bool, err error) {
	name = clean(name)
	if st, err := root.Lstat(name); err == nil && st.Mode().IsRegular() && st.Size() == int64(len(b)) {
		if old, err := root.ReadFile(name); err == nil && bytes.Equal(old, b) {
			return setNode(root, name, mode, uid, gid)
		}
	} else if err == nil && st.IsDir() {
		return false, fmt.Errorf("/%s: is a directory", name)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return false, err
	}
	temp, err := tempName(root, name)
	if err != nil {
		return false, err
	}
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	defer root.Remove(temp) // after the rename there is nothing to remove
	_, err = f.Write(b)
	if uid != keepOwner || gid != keepOwner {
		err = errors.Join(err, f.Chown(uid, gid))
	}
	// chmod after chown, which clears set-user-ID bits
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return false, fmt.Errorf("/%s: %w", name, err)
	}
	if err := root.Rename(temp, name); err != nil {
		return false, err
	}
	return true, syncDir(root, path.Dir(name))
}

// setNode gives an existing file or directory its mode and owner.
func setNode(root *os.Root, name string, mode fs.FileMode, uid, gid int) (changed bool, err error) {
	st, err := root.Lstat(name)
	if err != nil {
		return false, err
	}
	owner := st.Sys().(*syscall.Stat_t)
	if uid != keepOwner && uint32(uid) != owner.Uid || gid != keepOwner && uint32(gid) != owner.Gid {
		if err := root.Lchown(name, uid, gid); err != nil {
			return false, err
		}
		changed = true
	}
	const bits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if changed || st.Mode()&bits != mode&bits {
		if err := root.Chmod(name, mode); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// writeJSON writes v, indented, as writeFile does.
func writeJSON(root *os.Root, name string, v any, mode fs.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	_, err = writeFile(root, name, append(b, '\n'), mode, keepOwner, keepOwner)
	return err
}

// symlink makes name a link to target; one that is there already and is right is left.
func symlink(root *os.Root, target, name string) (changed bool, err error) {
	name = clean(name)
	if old, err := root.Readlink(name); err == nil && old == target {
		return false, nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return false, err
	}
	temp, err := tempName(root, name)
	if err != nil {
		return false, err
	}
	if err := root.Symlink(target, temp); err != nil {
		return false, err
	}
	defer root.Remove(temp)
	if err := root.Rename(temp, name); err != nil {
		return false, err
	}
	return true, syncDir(root, path.Dir(name))
}

// tempName returns the name beside name that is renamed to it. It is always the
// same one, so that what a power cut left is replaced by the next run.
func tempName(root *os.Root, name string) (string, error) {
	temp := path.Join(path.Dir(name), "."+path.Base(name)+"-ward-new")
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return temp, nil
}

// syncDir makes a rename in dir last.
func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncAll makes everything written so far to the root file system last,
// also what programs wrote that do not sync.
func syncAll(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs /: %w", err)
	}
	return nil
}

// clean makes a path of a config relative to the root.
func clean(name string) string {
	name = path.Clean("/" + name)[1:]
	if name == "" {
		return "."
	}
	return name
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
