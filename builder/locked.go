package builder

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ward/builder/lock"
	"ward/builder/rootfs"
	"ward/builder/sourceslist"
)

// StoreDir is the folder of the package store in a cache.
func StoreDir(cache string) string { return filepath.Join(cache, "store") }

// fromLock points a tree's recipe at the lock's packages, fetching what the
// store lacks, and returns what removes the repository made for it.
func (b *build) fromLock(ctx context.Context, spec *rootfs.Spec) (func(), error) {
	store, err := lock.OpenStore(StoreDir(b.Cache))
	if err != nil {
		return nil, err
	}
	if b.Offline {
		err = store.Offline(b.Lock)
	} else {
		err = store.Fetch(ctx, b.Lock, func(done, total int64) {
			b.fetched(done, total)
		})
	}
	if err != nil {
		return nil, err
	}
	// In the temporary folder, not in the cache: the package manager reads it as a
	// user who may not enter the cache.
	dir, err := os.MkdirTemp("", "ward-packages-")
	if err != nil {
		return nil, err
	}
	remove := func() { os.RemoveAll(dir) }
	if b.release.Format == "rpm" {
		spec.Mirrors, spec.Sources, spec.Epoch = nil, b.Lock.Sources, b.Lock.Made.Unix()
		if spec.Packages, err = lock.Files(b.Lock, store, dir); err != nil {
			remove()
			return nil, err
		}
		return remove, nil
	}
	if err := errors.Join(os.Chmod(dir, 0o755), lock.Repository(ctx, b.Log, b.Lock, store, b.release.Codename, dir)); err != nil {
		remove()
		return nil, err
	}
	spec.Mirrors, spec.Setup, spec.Sources, spec.Epoch = []string{lock.Mirror(dir)}, nil, b.Lock.Sources, b.Lock.Made.Unix()
	// All of them by name: which ones are a base system's is said by the archive's
	// index (Priority), and a package's own control file may say otherwise.
	spec.Packages = nil
	for _, p := range b.Lock.Packages {
		spec.Packages = append(spec.Packages, p.Name)
	}
	return remove, nil
}

// fromArchive points a tree's recipe at the image's sources, and returns what
// removes the keys that were laid out for it.
func (b *build) fromArchive(spec *rootfs.Spec) (func(), error) {
	if b.apt == nil {
		spec.Mirrors = b.Image.Mirrors
		return func() {}, nil
	}
	keys, remove, err := b.keys()
	if err != nil {
		return nil, err
	}
	spec.Mirrors, spec.Keyring, spec.Setup = b.apt.Main(keys), b.apt.Keyring(keys), b.apt.Build(keys)
	return remove, nil
}

// vendor is the tree that the image starts from, or nil.
func (b *build) vendor() *rootfs.Vendor {
	if b.Image.Base == "" {
		return nil
	}
	kind, file := b.Image.StartsFrom()
	return &rootfs.Vendor{Kind: kind, Path: file, Arch: b.Image.Arch}
}

// keys lays out the keys of the sources. They are in the temporary folder, not in
// the cache: the package manager reads them as a user who may not enter the cache.
func (b *build) keys() (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp("", "ward-keys-"); err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	if err := errors.Join(os.Chmod(dir, 0o755), b.apt.WriteKeys(dir)); err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

// machineApt are the files of the machine that say where it updates from.
func (b *build) machineApt() []sourceslist.File {
	if b.apt == nil {
		return nil
	}
	return b.apt.Machine()
}

// fetched notes how far the downloads are, at most once a percent.
func (b *build) fetched(done, total int64) {
	if percent := done * 100 / max(total, 1); percent != b.percent {
		b.percent = percent
		e := b.event
		e.Kind, e.Text, e.Have, e.Want = Note, fmt.Sprintf("fetch %d of %d MiB", done>>20, total>>20), done, total
		b.Events(e)
	}
}

// sources is the sources.list(5) of the machine when the packages came from a
// store, and empty when they came from a mirror, which is in the list already, or
// when dnf has them from the lock.
func (b *build) sources() string {
	if b.Lock == nil || b.release.Format != "deb" {
		return ""
	}
	return b.Lock.Sources
}

// MakeLock builds the packages of an image and writes down what was installed.
func MakeLock(ctx context.Context, o Options) (*lock.Lock, error) {
	b, err := newBuild(o)
	if err != nil {
		return nil, err
	}
	defer b.letGo()
	if err := b.run(ctx, []Step{{"inputs", b.hashInputs}, {"packages", b.packages}}); err != nil {
		return nil, err
	}
	if err := b.inside(ctx, Inside{Check: &CheckSpec{Dir: b.base.Dir}}); err != nil {
		if !strings.Contains(err.Error(), treeChanged) {
			return nil, err
		}
		b.damagedPackages(err)
		if err := b.refetch(ctx); err != nil {
			return nil, err
		}
	}
	in := b.inputs.Packages
	l := &lock.Lock{
		Version: lock.Version, Image: o.Image.Name, Release: b.release.Name(), Arch: in.Arch, Base: in.Base, Made: b.made, Tool: in.Tool, Wanted: in.Packages,
	}
	if b.release.Format == "rpm" {
		return l, b.lockRPM(ctx, l)
	}
	return l, b.lockDeb(ctx, l)
}

// lockDeb completes a lock with the deb packages of the tree that was made.
func (b *build) lockDeb(ctx context.Context, l *lock.Lock) error {
	installed, sources, err := readBase(b.Log, b.base.Path(treeDir))
	if err != nil {
		return err
	}
	// What the vendor's tree has as it is comes with it, and not from the archive.
	if installed, err = b.beyondVendor(installed, readTar); err != nil {
		return err
	}
	keys, remove, err := b.keys()
	if err != nil {
		return err
	}
	defer remove()
	// The machine's sources name its own keys, which this host does not have.
	lines := strings.Join(b.apt.Lines(keys), "\n") + "\n"
	l.Sources = b.apt.Sources()
	if b.apt.Default() {
		l.Sources, lines = sources, sources+lines
	}
	return lock.Resolve(ctx, b.Log, l, lines, b.apt.Keyring(keys), installed)
}

// Where a tree has its packages and their sources.
const (
	dpkgStatus = "var/lib/dpkg/status"
	aptSources = "etc/apt/sources.list"
)

// readBase reads, in a tree, what is installed and from where.
func readBase(log *slog.Logger, tree string) (installed []lock.Installed, sources string, err error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	text, err := root.ReadFile(aptSources)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", tree, err)
	}
	f, err := root.Open(dpkgStatus)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", tree, err)
	}
	defer f.Close()
	if installed, err = readStatus(f); err != nil {
		return nil, "", fmt.Errorf("%s: /%s: %w", tree, dpkgStatus, err)
	}
	if sources = string(text); len(installed) == 0 || sources == "" {
		return nil, "", fmt.Errorf("%s: has no dpkg status or no sources.list", tree)
	}
	log.Debug("read the tree's packages", "installed", len(installed))
	return installed, sources, nil
}

// readTar reads dpkg's database and sources.list(5) in a tar of a tree.
func readTar(r io.Reader) (installed []lock.Installed, sources string, err error) {
	in := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return installed, sources, nil
		}
		if err != nil {
			return nil, "", err
		}
		switch strings.TrimPrefix(h.Name, "./") {
		case aptSources:
			b, err := io.ReadAll(io.LimitReader(in, 1<<20))
			if err != nil {
				return nil, "", err
			}
			sources = string(b)
		case dpkgStatus:
			if installed, err = readStatus(in); err != nil {
				return nil, "", fmt.Errorf("dpkg status: %w", err)
			}
		}
	}
}

// beyondVendor returns what is not in the vendor's tree, of which read tells what is
// installed, in the same version.
func (b *build) beyondVendor(installed []lock.Installed, read func(io.Reader) ([]lock.Installed, string, error)) ([]lock.Installed, error) {
	v := b.vendor()
	if v == nil {
		return installed, nil
	}
	r, err := v.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	had, _, err := read(r)
	if err != nil {
		return nil, fmt.Errorf("base: %s: %w", v.Path, err)
	}
	return slices.DeleteFunc(installed, func(i lock.Installed) bool { return slices.Contains(had, i) }), nil
}

// readStatus reads dpkg's database (deb-control(5) stanzas).
func readStatus(r io.Reader) ([]lock.Installed, error) {
	var all []lock.Installed
	var p lock.Installed
	ok := false
	flush := func() {
		if ok && p.Name != "" {
			all = append(all, p)
		}
		p, ok = lock.Installed{}, false
	}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), ": ")
		switch key {
		case "":
			flush()
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Status":
			ok = value == "install ok installed"
		}
	}
	flush()
	return all, in.Err()
}
