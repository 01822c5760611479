package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// A drop is a setting that is one file of ward's own, in a folder that a
// service reads, named by its control so that the file on disk names its
// reason. It is written at bake and again at first boot, where it is left
// untouched unless something changed it in between.
type drop struct {
	name    string      // the setting's name
	path    string      // relative to /
	content string      // the whole file
	mode    fs.FileMode // 0 means 0644
	// after runs when Apply has changed the file, for what must be told of it.
	after func(context.Context, *Target) error
	want  string
	check func(context.Context, *Machine) (string, error)
}

func (d drop) Name() string { return d.name }
func (d drop) Want() string { return d.want }

func (d drop) Apply(ctx context.Context, t *Target) error {
	mode := d.mode
	if mode == 0 {
		mode = 0o644
	}
	changed, err := updateFile(t.Root, d.path, d.content, mode)
	if err != nil || !changed || d.after == nil {
		return err
	}
	return d.after(ctx, t)
}

func (d drop) Check(ctx context.Context, m *Machine) (string, error) { return d.check(ctx, m) }

// A setting is made of functions, for what is neither a file nor a unit.
type setting struct {
	name  string
	apply func(context.Context, *Target) error // nil: there is nothing to apply
	want  string
	check func(context.Context, *Machine) (string, error)
}

func (s setting) Name() string { return s.name }
func (s setting) Want() string { return s.want }

func (s setting) Apply(ctx context.Context, t *Target) error {
	if s.apply == nil {
		return nil
	}
	return s.apply(ctx, t)
}

func (s setting) Check(ctx context.Context, m *Machine) (string, error) { return s.check(ctx, m) }

// writeFile makes the file name below root hold content with that mode. A file
// that already does is left untouched; another one is replaced by rename, so a
// reader, or a machine that loses power, sees the old file or the new one whole.
// Parents are made with mode 0755. A symbolic link at name is replaced, not
// followed.
func writeFile(root *os.Root, name, content string, mode fs.FileMode) error {
	_, err := updateFile(root, name, content, mode)
	return err
}

// updateFile is writeFile that tells whether it changed the file.
func updateFile(root *os.Root, name, content string, mode fs.FileMode) (changed bool, err error) {
	return put{name: name, content: content, mode: mode, uid: -1, gid: -1}.into(root)
}

// A put is one file to be written.
type put struct {
	name, content string
	mode          fs.FileMode
	uid, gid      int // -1: who writes it
	// proof looks at the new file, by its temporary name, before it gets its own.
	proof func(temp string) error
}

func (p put) into(root *os.Root) (changed bool, err error) {
	name := p.name
	if same, err := p.there(root); err != nil || same {
		return false, err
	}
	dir := path.Dir(name)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("parents of %s: %w", name, err)
	}
	// One fixed name, so that what a power cut left over is replaced by the next
	// run. It starts with a dot and has no extension: neither Include *.conf, nor
	// sudoers.d, nor run-parts reads it.
	temp := path.Join(dir, "."+path.Base(name)+"-ward-new")
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("left-over of %s: %w", name, err)
	}
	err = p.writeNew(root, temp)
	if err == nil && p.proof != nil {
		err = p.proof(temp)
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("write %s: %w", name, err), removeIfThere(root, temp))
	}
	if err := root.Rename(temp, name); err != nil {
		return false, errors.Join(fmt.Errorf("put %s in place: %w", name, err), removeIfThere(root, temp))
	}
	return true, syncDir(root, dir)
}

// there tells whether the file is regular and as it should be.
func (p put) there(root *os.Root) (bool, error) {
	name := p.name
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", name, err)
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s is a directory, and a file has to go there\nhint: move it away", name)
	}
	if info.Mode() != p.mode || info.Size() != int64(len(p.content)) {
		return false, nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && p.uid >= 0 && (int(st.Uid) != p.uid || int(st.Gid) != p.gid) {
		return false, nil
	}
	old, err := root.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return string(old) == p.content, nil
}

// writeNew changes owner and mode through the open file: in a folder of theirs
// a person could put another file under the name in between.
func (p put) writeNew(root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(p.content)
	if err == nil && p.uid >= 0 {
		err = f.Chown(p.uid, p.gid)
	}
	if err == nil {
		err = f.Chmod(p.mode) // not in OpenFile: the umask would cut it
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// removeFile removes the file name below root; one that is not there is no error.
func removeFile(root *os.Root, name string) error {
	if err := removeIfThere(root, name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func removeIfThere(root *os.Root, name string) error {
	err := root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// exitCode returns the status with which a program that Run started has ended,
// or -1 when it did not run or was killed.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit interface{ ExitCode() int } // *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// WriteFile is how every file of ward on the machine is written; see writeFile.
func WriteFile(root *os.Root, name, content string, mode fs.FileMode) error {
	return writeFile(root, name, content, mode)
}
