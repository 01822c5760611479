package lock

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"ward/builder/rootfs"
)

// ResolveRPM looks up, in the repositories that a tree was made from, each of the
// packages that are installed in it.
func ResolveRPM(ctx context.Context, log *slog.Logger, l *Lock, s rootfs.Spec, installed []Installed) error {
	at := map[Installed]int{}
	for _, i := range installed {
		at[i] = -1
	}
	found, repositories, err := rootfs.Find(ctx, log, s, func(r rootfs.RPM) bool {
		_, ok := at[Installed{r.Name, r.EVR, r.Arch}]
		return ok
	})
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	l.Format = RPM
	for _, r := range repositories {
		l.Indexes = append(l.Indexes, Index{r.URL, r.SHA256})
	}
	// Of a package that two repositories have, the first one's, whose mirrors stand first.
	for i, r := range slices.Backward(found) {
		at[Installed{r.Name, r.EVR, r.Arch}] = i
	}
	for key, i := range at {
		if i < 0 {
			return fmt.Errorf("lock: no repository has %s %s %s\nhint: the mirror may have a newer version by now; ward build IMAGE --update, then lock again", key.Name, key.Version, key.Arch)
		}
		r := found[i]
		l.Packages = append(l.Packages, Package{Name: r.Name, Version: r.EVR, Arch: r.Arch, URL: r.URL, Size: r.Size, SHA256: r.SHA256})
	}
	slices.SortFunc(l.Packages, func(a, b Package) int { return strings.Compare(a.Name+":"+a.Arch, b.Name+":"+b.Arch) })
	return l.validate()
}

// Files lays the lock's packages out of the store into an empty folder and returns
// their paths. Each was compared with the lock; dnf checks its signature as well.
func Files(l *Lock, s *Store, dir string) ([]string, error) {
	var files []string
	for _, p := range l.Packages {
		name := filepath.Join(dir, l.File(p))
		if err := s.Link(p, name); err != nil {
			return nil, err
		}
		files = append(files, name)
	}
	return files, nil
}
