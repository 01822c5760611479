package builder

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ward/builder/lock"
	"ward/builder/rootfs"
)

// machineRepo is where the machine's repositories are.
const machineRepo = "etc/yum.repos.d/ward.repo"

// maxRPMDB is the most of a file of rpm's database, in bytes.
const maxRPMDB = 1 << 30

// lockRPM completes a lock with the rpm packages of the tree that was made.
func (b *build) lockRPM(ctx context.Context, l *lock.Lock) error {
	tree, err := os.OpenRoot(b.base.Path(treeDir))
	if err != nil {
		return err
	}
	defer tree.Close()
	sources, err := tree.ReadFile(machineRepo)
	if err != nil {
		return fmt.Errorf("%s: %w", tree.Name(), err)
	}
	installed, err := b.rpmInstalled(ctx, func(dir string) error {
		database, err := fs.Sub(tree.FS(), b.release.RPMDB)
		if err != nil {
			return err
		}
		return os.CopyFS(dir, database)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", tree.Name(), err)
	}
	l.Sources = string(sources)
	read := func(r io.Reader) ([]lock.Installed, string, error) {
		installed, err := b.rpmInstalled(ctx, func(dir string) error { return b.layRPMDB(dir, r) })
		return installed, "", err
	}
	if installed, err = b.beyondVendor(installed, read); err != nil {
		return err
	}
	spec := rootfs.Spec{Release: b.release, Mirrors: b.Image.Mirrors, Keyring: b.keyring()}
	return lock.ResolveRPM(ctx, b.Log, l, spec, installed)
}

// rpmInstalled reads rpm's database in a folder of its own, where lay lays it out:
// this host's rpm leaves files beside a database that it reads.
func (b *build) rpmInstalled(ctx context.Context, lay func(dir string) error) (installed []lock.Installed, err error) {
	dir, err := os.MkdirTemp("", "ward-rpmdb-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := lay(dir); err != nil {
		return nil, err
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("has no rpm database in /%s", b.release.RPMDB))
	}
	all, err := rootfs.Installed(ctx, b.Log, dir)
	for _, p := range all {
		installed = append(installed, lock.Installed{Name: p.Name, Version: p.EVR, Arch: p.Arch})
	}
	return installed, err
}

// layRPMDB lays out rpm's database in a tar of a tree.
func (b *build) layRPMDB(dir string, r io.Reader) error {
	in := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)[1:]
		if h.Typeflag == tar.TypeReg && path.Dir(name) == b.release.RPMDB && !strings.HasPrefix(path.Base(name), ".") {
			if err := writeLimited(filepath.Join(dir, path.Base(name)), in, maxRPMDB); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

func writeLimited(name string, r io.Reader, most int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("has more than %d bytes", most)
	}
	return errors.Join(err, f.Close())
}
