package builder

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
	name := b.base.Path(baseFile)
	f, err := openBase(name)
	if err != nil {
		return err
	}
	defer f.Close()
	read := func(r io.Reader) ([]lock.Installed, string, error) { return b.readRPMTree(ctx, r) }
	installed, sources, err := read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(installed) == 0 || sources == "" {
		return fmt.Errorf("%s: has no rpm database or no %s", name, machineRepo)
	}
	l.Sources = sources
	if installed, err = b.beyondVendor(installed, read); err != nil {
		return err
	}
	spec := rootfs.Spec{Release: b.release, Mirrors: b.Image.Mirrors, Keyring: b.keyring()}
	return lock.ResolveRPM(ctx, b.Log, l, spec, installed)
}

// readRPMTree reads rpm's database and the repositories in a tar of a tree. The
// database is laid out in a folder of its own, where this host's rpm reads it.
func (b *build) readRPMTree(ctx context.Context, r io.Reader) (installed []lock.Installed, sources string, err error) {
	dir, err := os.MkdirTemp("", "ward-rpmdb-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(dir)
	in := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	some := false
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		name := path.Clean("/" + h.Name)[1:]
		switch {
		case name == machineRepo:
			text, err := io.ReadAll(io.LimitReader(in, 1<<20))
			if err != nil {
				return nil, "", err
			}
			sources = string(text)
		case h.Typeflag == tar.TypeReg && path.Dir(name) == b.release.RPMDB && !strings.HasPrefix(path.Base(name), "."):
			some = true
			if err := writeLimited(filepath.Join(dir, path.Base(name)), in, maxRPMDB); err != nil {
				return nil, "", fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if !some {
		return nil, sources, nil
	}
	all, err := rootfs.Installed(ctx, b.Log, dir)
	for _, p := range all {
		installed = append(installed, lock.Installed{Name: p.Name, Version: p.EVR, Arch: p.Arch})
	}
	return installed, sources, err
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
