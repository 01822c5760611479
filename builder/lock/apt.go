package lock

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ward/builder/command"
)

// Installed is a package of a tree, as its database says.
type Installed struct{ Name, Version, Arch string }

// Resolve asks apt where each installed package comes from. apt runs with a state
// of its own in a temporary folder: what the host has installed or configured
// plays no part. Every index is checked against the key that its line of
// sources.list(5) is bound to, or else the keyring.
func Resolve(ctx context.Context, log *slog.Logger, l *Lock, lines, keyring string, installed []Installed) error {
	dir, err := os.MkdirTemp("", "ward-lock-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lists := filepath.Join(dir, "lists")
	sources := filepath.Join(dir, "sources.list")
	for _, d := range []string{filepath.Join(lists, "partial"), filepath.Join(dir, "cache/archives/partial")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(sources, []byte(lines), 0o600); err != nil {
		return err
	}
	apt := []string{"apt-get", "-qq"}
	for _, o := range []string{
		"Dir::Etc::sourcelist=" + sources, "Dir::Etc::sourceparts=/dev/null", "Dir::Etc::main=/dev/null", "Dir::Etc::parts=/dev/null",
		"Dir::Etc::preferences=/dev/null", "Dir::Etc::preferencesparts=/dev/null", "Dir::Etc::Trusted=" + keyring, "Dir::Etc::TrustedParts=/dev/null",
		"Dir::State=" + dir, "Dir::State::lists=" + lists, "Dir::State::status=/dev/null", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"APT::Sandbox::User=root", "APT::Architecture=" + l.Arch, "Acquire::Languages=none", "APT::Update::Error-Mode=any",
	} {
		apt = append(apt, "-o", o)
	}
	if err := command.Run(ctx, log, append(apt, "update")...); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if l.Indexes, err = indexes(lists); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	argv := append(slices.Clone(apt), "--print-uris", "download")
	for _, p := range installed {
		argv = append(argv, p.Name+":"+p.Arch+"="+p.Version)
	}
	out, err := command.Output(ctx, log, argv...)
	if err != nil {
		return fmt.Errorf("lock: %w\nhint: the mirror may have a newer version by now; ward build IMAGE --update, then lock again", err)
	}
	if l.Packages, err = parseURIs(out, installed); err != nil {
		return fmt.Errorf("lock: apt-get --print-uris: %w", err)
	}
	return l.validate()
}

func indexes(lists string) ([]Index, error) {
	names, err := filepath.Glob(filepath.Join(lists, "*_InRelease"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("apt left no InRelease file (%v)", err)
	}
	var all []Index
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		all = append(all, Index{filepath.Base(name), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// parseURIs reads lines such as
//
//	'http://mirror/pool/b/bash_5.2-1_amd64.deb' bash_5.2-1_amd64.deb 1490652 SHA256:82…
//
// and finds each package's line by its file name.
func parseURIs(text string, installed []Installed) ([]Package, error) {
	byFile := map[string]Package{}
	in := bufio.NewScanner(strings.NewReader(text))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) != 4 || !strings.HasPrefix(f[0], "'") || !strings.HasPrefix(f[3], "SHA256:") {
			return nil, fmt.Errorf("cannot read %q", in.Text())
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("size in %q: %w", in.Text(), err)
		}
		file, err := url.PathUnescape(f[1])
		if err != nil {
			return nil, fmt.Errorf("file in %q: %w", in.Text(), err)
		}
		byFile[file] = Package{URL: strings.Trim(f[0], "'"), Size: size, SHA256: strings.TrimPrefix(f[3], "SHA256:")}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	var all []Package
	for _, i := range installed {
		p, ok := byFile[fmt.Sprintf("%s_%s_%s.deb", i.Name, i.Version, i.Arch)]
		if !ok {
			return nil, fmt.Errorf("no line for %s %s %s", i.Name, i.Version, i.Arch)
		}
		p.Name, p.Version, p.Arch = i.Name, i.Version, i.Arch
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name+":"+a.Arch, b.Name+":"+b.Arch) })
	return all, nil
}

// Repository makes, in an empty folder, a repository of exactly the lock's
// packages out of the store; apt is pointed at it with Mirror. It has the
// codename of the release, by which mmdebstrap finds the essential packages.
func Repository(ctx context.Context, log *slog.Logger, l *Lock, s *Store, codename, dir string) error {
	var w bytes.Buffer
	for _, p := range l.Packages {
		file := filepath.Join(dir, l.File(p))
		if err := s.Link(p, file); err != nil {
			return err
		}
		// The package's own control file is what an index is made of.
		control, err := command.Output(ctx, log, "dpkg-deb", "--field", file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&w, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", strings.TrimSpace(control), l.File(p), p.Size, p.SHA256)
	}
	release := fmt.Sprintf("Origin: ward\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\nSHA256:\n %x %d Packages\n",
		codename, codename, l.Made.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), l.Arch, sha256.Sum256(w.Bytes()), w.Len())
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "Packages"), w.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644))
}

// Mirror is the line of sources.list(5) for a folder that Repository filled. It
// is trusted because every file in it was compared with the lock.
func Mirror(dir string) string { return "deb [trusted=yes] copy://" + dir + " ./" }
