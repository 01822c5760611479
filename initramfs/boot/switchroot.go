package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// enterRoot makes sysroot the root and becomes the real init. It returns only on
// failure.
func (m *machine) enterRoot() error {
	defer m.timing("switch root")()
	fail := func(err error) error {
		err = fmt.Errorf("switch root: %w", err)
		m.log.Error(err.Error())
		return err
	}
	init, err := m.findInit()
	if err != nil {
		return fail(err)
	}
	for _, b := range basics {
		target := filepath.Join(sysroot, b.target)
		if err := unix.Mount(b.target, target, "", unix.MS_MOVE, ""); err != nil {
			return fail(fmt.Errorf("move %s: %w", b.target, err))
		}
	}
	if err := os.Chdir(sysroot); err != nil {
		return fail(err)
	}
	// The initramfs is memory that nobody can give back later.
	if err := removeInitramfs("/"); err != nil {
		return fail(err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fail(fmt.Errorf("move root: %w", err))
	}
	if err := unix.Chroot("."); err != nil {
		return fail(fmt.Errorf("chroot: %w", err))
	}
	if err := os.Chdir("/"); err != nil {
		return fail(err)
	}
	if err := reopenConsole(); err != nil {
		m.log.Warn("console: " + err.Error())
	}
	m.log.Info("switching root", "init", init, "ms", m.elapsed())
	fat()
	// syscall.Exec puts the limit on open files back that Go has raised.
	return fail(fmt.Errorf("%s: %w", init, syscall.Exec(init, append([]string{init}, os.Args[1:]...), os.Environ())))
}

// reopenConsole replaces the console that the kernel has opened in the initramfs,
// which is deleted by now, by the one of the new root.
func reopenConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, std := range []int{0, 1, 2} {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return err
		}
	}
	return nil
}

// findInit returns the path of the real init below sysroot.
func (m *machine) findInit() (string, error) {
	candidates := []string{"/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}
	if v, ok := m.line.Get("init"); ok {
		candidates = []string{v}
	}
	for _, c := range candidates {
		// Lstat: /sbin/init is a link, often an absolute one, which only makes
		// sense after the switch.
		if _, err := os.Lstat(filepath.Join(sysroot, c)); err == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("root has no %v", candidates)
}

// removeInitramfs deletes what is on the file system of dir, and nothing that is
// mounted on it.
func removeInitramfs(dir string) error {
	var st, fs unix.Stat_t
	if err := unix.Lstat(dir, &fs); err != nil {
		return err
	}
	// A root that is a disk would be a terrible thing to delete.
	var kind unix.Statfs_t
	if err := unix.Statfs(dir, &kind); err != nil {
		return err
	}
	if kind.Type != unix.RAMFS_MAGIC && kind.Type != unix.TMPFS_MAGIC {
		return errors.New("the initramfs is not in memory")
	}
	var walk func(string) error
	walk = func(d string) error {
		entries, err := os.ReadDir(d)
		if err != nil {
			return err
		}
		for _, e := range entries {
			p := filepath.Join(d, e.Name())
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			if st.Dev != fs.Dev {
				continue
			}
			if e.IsDir() {
				if err := walk(p); err != nil {
					return err
				}
			}
			// A folder that something is mounted below stays.
			if err := os.Remove(p); err != nil && !e.IsDir() {
				return err
			}
		}
		return nil
	}
	return walk(dir)
}
