package firstboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/coreos/ignition/v2/config/v3_5/types"

	"ward/profiles/machine"
)

// ownedPath lists the files that ward has made from configs. Only those, and
// files for which the config says overwrite, may be replaced.
const ownedPath = StateDir + "/owned.json"

// storage makes the directories, files and links of a config.
type storage struct {
	root    *os.Root
	fetch   *fetcher
	owned   map[string]bool
	lookups lookups
}

// lookups find owners by name; a test has none of the machine's accounts.
type lookups struct {
	user  func(string) (int, error)
	group func(string) (int, error)
}

func hostLookups() lookups {
	return lookups{
		user: func(name string) (int, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(u.Uid)
		},
		group: func(name string) (int, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(g.Gid)
		},
	}
}

func newStorage(root *os.Root, c types.Config, l lookups) (*storage, error) {
	f, err := newFetcher(c)
	if err != nil {
		return nil, err
	}
	s := &storage{root: root, fetch: f, owned: map[string]bool{}, lookups: l}
	b, err := root.ReadFile(ownedPath)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		var names []string
		if err = json.Unmarshal(b, &names); err == nil {
			for _, n := range names {
				s.owned[n] = true
			}
		}
	}
	return s, err
}

// claim writes down, before a file is touched, that it will be ward's.
func (s *storage) claim(name string) error {
	if s.owned[name] {
		return nil
	}
	s.owned[name] = true
	names := make([]string, 0, len(s.owned))
	for n := range s.owned {
		names = append(names, n)
	}
	slices.Sort(names)
	return writeJSON(s.root, ownedPath, names, 0o600)
}

// owner returns the ids of a node's owner; 0 where the config says nothing.
func (s *storage) owner(n types.Node) (uid, gid int, err error) {
	if n.User.ID != nil {
		uid = *n.User.ID
	} else if n.User.Name != nil && *n.User.Name != "" {
		if uid, err = s.lookups.user(*n.User.Name); err != nil {
			return 0, 0, fmt.Errorf("%s: owner: %w", n.Path, err)
		}
	}
	if n.Group.ID != nil {
		gid = *n.Group.ID
	} else if n.Group.Name != nil && *n.Group.Name != "" {
		if gid, err = s.lookups.group(*n.Group.Name); err != nil {
			return 0, 0, fmt.Errorf("%s: group: %w", n.Path, err)
		}
	}
	return uid, gid, nil
}

// inConfig tells whether a node belongs to an account that the config itself
// creates, which exists only after the accounts are applied.
func inConfig(c *Config, n types.Node) bool {
	u, g := n.User.Name, n.Group.Name
	if u != nil && slices.ContainsFunc(c.Machine.People, func(p machine.Person) bool { return p.Name == *u }) {
		return true
	}
	if g == nil {
		return false
	}
	return slices.ContainsFunc(c.ign.Passwd.Groups, func(x types.PasswdGroup) bool { return x.Name == *g }) ||
		slices.ContainsFunc(c.Machine.People, func(p machine.Person) bool { return p.Name == *g || slices.Contains(p.Groups, *g) })
}

// apply makes every node for which want is true. Directories come first, the
// shallow before the deep, as the config lists them after Ignition's sorting.
func (s *storage) apply(ctx context.Context, c *Config, want func(types.Node) bool) error {
	for _, d := range c.ign.Storage.Directories {
		if want(d.Node) {
			if err := s.directory(d); err != nil {
				return err
			}
		}
	}
	for _, f := range c.ign.Storage.Files {
		if want(f.Node) && f.Path != machine.Path {
			if err := s.file(ctx, f); err != nil {
				return err
			}
		}
	}
	for _, l := range c.ign.Storage.Links {
		if want(l.Node) {
			if err := s.link(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *storage) directory(d types.Directory) error {
	name := clean(d.Path)
	uid, gid, err := s.owner(d.Node)
	if err != nil {
		return err
	}
	if st, err := s.root.Lstat(name); err == nil && !st.IsDir() {
		return fmt.Errorf("%s: exists and is not a directory", d.Path)
	}
	if err := s.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	_, err = setNode(s.root, name, modeOf(d.Mode, 0o755), uid, gid)
	return err
}

func (s *storage) file(ctx context.Context, f types.File) error {
	name := clean(f.Path)
	uid, gid, err := s.owner(f.Node)
	if err != nil {
		return err
	}
	mode := modeOf(f.Mode, 0o644)
	st, statErr := s.root.Lstat(name)
	if f.Contents.Source == nil && statErr == nil { // the config wants only mode and owner
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s: exists and is not a file", f.Path)
		}
		_, err := setNode(s.root, name, mode, uid, gid)
		return err
	}
	b, err := s.fetch.resource(ctx, f.Contents)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if statErr == nil && !isTrue(f.Overwrite) && !s.owned[f.Path] {
		old, err := s.root.ReadFile(name)
		if err != nil || !bytes.Equal(old, b) {
			return errHint(fmt.Errorf("%s: exists already with other contents", f.Path),
				"say overwrite: true in the config if it shall be replaced")
		}
	}
	if err := s.claim(f.Path); err != nil {
		return err
	}
	_, err = writeFile(s.root, name, b, mode, uid, gid)
	return err
}

func (s *storage) link(l types.Link) error {
	name, target := clean(l.Path), ""
	if l.Target != nil {
		target = *l.Target
	}
	if isTrue(l.Hard) {
		a, errA := s.root.Stat(clean(target))
		b, errB := s.root.Lstat(name)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return nil
		}
	} else if old, err := s.root.Readlink(name); err == nil && old == target {
		return nil
	}
	if st, err := s.root.Lstat(name); err == nil && !isTrue(l.Overwrite) && !s.owned[l.Path] {
		return errHint(fmt.Errorf("%s: exists already (%s)", l.Path, st.Mode()), "say overwrite: true in the config if it shall be replaced")
	}
	if err := s.claim(l.Path); err != nil {
		return err
	}
	if !isTrue(l.Hard) {
		_, err := symlink(s.root, target, name)
		return err
	}
	temp, err := tempName(s.root, name)
	if err != nil {
		return err
	}
	if err := s.root.Link(clean(target), temp); err != nil {
		return err
	}
	return s.root.Rename(temp, name)
}

// modeOf turns Ignition's mode, whose bits are those of chmod(2), into Go's.
func modeOf(mode *int, otherwise fs.FileMode) fs.FileMode {
	if mode == nil {
		return otherwise
	}
	m := fs.FileMode(*mode & 0o777)
	for bit, flag := range map[int]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if *mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
