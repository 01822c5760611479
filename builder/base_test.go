package builder

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/builder/disk"
)

const testEpoch = 1_700_000_000

// twoTrees makes a tree of packages and what a bake may make of it.
func twoTrees(t *testing.T) (lower, finished string) {
	t.Helper()
	lower = t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for name, text := range map[string]string{
		"etc/passwd": "root\n", "etc/group": "root\n", "etc/motd": "to be removed\n", "etc/init.d/a": "a", "etc/init.d/b": "b",
		"usr/bin/big": string(big), "usr/bin/perl": "perl", "usr/lib/x/y/z": "z", "usr/mode": "mode", "usr/time": "time", "usr/owner": "owner",
		"var/becomes-a-folder": "file", "var/becomes-a-link": "file",
	} {
		put(t, lower, name, text)
	}
	if err := errors.Join(
		os.Link(filepath.Join(lower, "usr/bin/perl"), filepath.Join(lower, "usr/bin/perl5")),
		os.Symlink("usr/bin", filepath.Join(lower, "bin")), os.Symlink("a", filepath.Join(lower, "etc/link")),
	); err != nil {
		t.Fatal(err)
	}
	sameTimes(t, lower)
	finished = filepath.Join(t.TempDir(), "finished")
	tool(t, "cp", "--archive", lower, finished)
	at := func(name string) string { return filepath.Join(finished, name) }
	put(t, finished, "etc/passwd", "root\nward\n")
	put(t, finished, "usr/lib/ward/init", strings.Repeat("init", 30_000))
	put(t, finished, "usr/bin/perl", "another")
	put(t, finished, "usr/odd \"name\"", "odd")
	for _, name := range []string{"etc/motd", "etc/init.d", "usr/lib/x", "var/becomes-a-folder", "var/becomes-a-link", "etc/link"} {
		if err := os.RemoveAll(at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Mkdir(at("var/becomes-a-folder"), 0o750), os.Symlink("../etc", at("var/becomes-a-link")), os.Symlink("b", at("etc/link")),
		os.Link(at("usr/lib/ward/init"), at("usr/lib/ward/init2")),
		os.Chmod(at("usr/mode"), 0o4755), os.Chmod(at("usr/lib"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	sameTimes(t, finished)
	if err := os.Chtimes(at("usr/time"), time.Unix(1, 0), time.Unix(testEpoch-99, 0)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(at("usr/owner"), 7, 70_000); err != nil {
			t.Fatal(err)
		}
	}
	return lower, finished
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.RemoveAll(name), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// sameTimes gives every file of a tree the epoch for a time, as a bake does.
func sameTimes(t *testing.T, dir string) {
	t.Helper()
	if err := cutTimes(t.Context(), slog.New(slog.DiscardHandler), dir, testEpoch); err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// baker is a bake of two trees, at its step file system.
func baker(t *testing.T, lower, finished, cacheDir string) *bake {
	t.Helper()
	dir := t.TempDir()
	unpacked := filepath.Join(dir, "unpacked")
	b := &bake{
		BakeSpec: BakeSpec{Installed: unpacked, Output: dir, RootSize: 64 << 20, RootUUID: "99999999-2222-4333-8444-555555555555", Epoch: testEpoch, Cache: cacheDir, Code: "test", Base: filepath.Join(dir, "base.blocks")},
		log:      slog.New(slog.DiscardHandler), work: filepath.Join(dir, ".work"), tree: finished, facts: treeFacts{Digest: "digest"},
	}
	if err := errors.Join(os.MkdirAll(b.work, 0o755), os.Mkdir(unpacked, 0o755), os.Symlink(lower, filepath.Join(unpacked, treeDir))); err != nil {
		t.Fatal(err)
	}
	b.lower = begin(func() (survey, error) { return surveyTree(t.Context(), lower, false, nil) })
	b.beginBase(t.Context(), lower)
	var err error
	if b.last, err = surveyTree(t.Context(), finished, false, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// A build that finds the file system of the packages in the cache gives the bytes of
// one with an empty cache, and so does one that finds it damaged.
func TestIncrementalEqualsCold(t *testing.T) {
	lower, finished := twoTrees(t)
	warm := t.TempDir()
	var want, wantBase []byte
	for _, c := range []struct {
		name, cache string
		before      func()
	}{
		{"cold", warm, nil}, {"from the cache", warm, nil}, {"cold again", t.TempDir(), nil},
		{"damaged", warm, func() { damage(t, warm, rootFile, func(data []byte) { data[len(data)-9] ^= 1 }) }},
		// What is left of the list is a good one, of an image that borrows nothing.
		{"borrows nothing", warm, func() { damage(t, warm, lentFile, borrowNothing) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.before != nil {
				c.before()
			}
			b := baker(t, lower, finished, c.cache)
			if err := b.filesystem(t.Context()); err != nil {
				t.Fatal(err)
			}
			below, err := b.based.wait()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.kept.wait(); err != nil {
				t.Fatal(err)
			}
			blocks, err := os.ReadFile(b.Base)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(b.Output, rootFile))
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want, wantBase = got, blocks
				judgeRoot(t, b, finished)
			}
			if !bytes.Equal(got, want) || !bytes.Equal(blocks, wantBase) {
				t.Error("the root file system has other bytes")
			}
			if b.baked.Base != below.key {
				t.Errorf("baked on %q, want %q", b.baked.Base, below.key)
			}
			time.Sleep(1100 * time.Millisecond) // times in ext4 have seconds
		})
	}
}

// damage changes the one file of that name that file systems in a cache have.
func damage(t *testing.T, cacheDir, file string, change func(data []byte)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cacheDir, baseKind+"-*", file))
	if err != nil || len(names) != 1 {
		t.Fatalf("the cache has the file systems %q (%v)", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(data)
	if change(data); bytes.Equal(data, was) {
		t.Fatalf("%s was not changed", names[0])
	}
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// borrowNothing empties a list and keeps its length.
func borrowNothing(list []byte) {
	at := bytes.Index(list, []byte(`"files":[`)) + len(`"files":[`)
	for i := copy(list[at:], "]}") + at; i < len(list); i++ {
		list[i] = ' '
	}
}

// judgeRoot has e2fsck and debugfs say what is in the file system: the finished tree.
func judgeRoot(t *testing.T, b *bake, finished string) {
	t.Helper()
	layers, err := disk.OpenLayers(b.Base, filepath.Join(b.Output, rootFile))
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	image := filepath.Join(t.TempDir(), "root.ext4")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(layers[1].Size()), layers.Unpack(t.Context(), f, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	tool(t, "e2fsck", "-fn", image)
	dump := t.TempDir()
	tool(t, "debugfs", "-R", "rdump / "+dump, image)
	if err := os.Remove(filepath.Join(dump, "lost+found")); err != nil {
		t.Fatal(err)
	}
	got, err := surveyTree(t.Context(), dump, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(b.last) || len(got) == 0 {
		t.Fatalf("the file system has %d files, the tree %d", len(got), len(b.last))
	}
	for i, want := range b.last {
		if want.path == "" {
			continue
		}
		same := got[i].path == want.path && got[i].link == want.link && got[i].sum == want.sum && got[i].owner.Mode == want.owner.Mode &&
			(want.info.Mode()&fs.ModeSymlink != 0 || got[i].owner.Mtim.Sec == want.owner.Mtim.Sec) && // rdump leaves the times of links
			(os.Geteuid() != 0 || got[i].owner.Uid == want.owner.Uid && got[i].owner.Gid == want.owner.Gid)
		if !same {
			t.Errorf("the file system has %s %o %s %v, the tree %s %o %s %v", got[i].path, got[i].owner.Mode, got[i].link, got[i].owner.Mtim,
				want.path, want.owner.Mode, want.link, want.owner.Mtim)
		}
	}
	if out := tool(t, "debugfs", "-R", "stat /usr/lib/ward/init2", image); !strings.Contains(out, "Links: 2") {
		t.Errorf("two names of one file: %s", out)
	}
}

// A tree without a change needs no patch but its name; attributes are changes.
func TestChanges(t *testing.T) {
	lower, finished := twoTrees(t)
	below, err := surveyTree(t.Context(), lower, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := changes(lower, below, lower, below, func(string) bool { return false })
	if err != nil || len(p.Make)+len(p.Remove) != 0 {
		t.Errorf("changes(same) = %+v, %v, want none", p, err)
	}
	above, err := surveyTree(t.Context(), finished, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = changes(lower, below, finished, above, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Make {
		if slices.Contains([]string{"/usr/bin/big", "/etc/group", "/usr/bin/perl5", "/bin"}, m.Path) {
			t.Errorf("%s is made again", m.Path)
		}
		if m.Exists != slices.Contains([]string{"/usr/lib"}, m.Path) {
			t.Errorf("%s: there already is %v", m.Path, m.Exists)
		}
	}
	removed := map[string]bool{}
	for _, r := range p.Remove {
		removed[r.Path] = r.Folder
	}
	for path, folder := range map[string]bool{"/etc/motd": false, "/etc/init.d": true, "/usr/lib/x/y": true, "/var/becomes-a-folder": false, "/usr/mode": false} {
		if got, ok := removed[path]; !ok || got != folder {
			t.Errorf("%s: removed %v, as a folder %v", path, ok, got)
		}
	}
}

func TestBaseSaysThatTheTreeDoesNotFit(t *testing.T) {
	lower, finished := twoTrees(t)
	put(t, lower, "large", strings.Repeat("x", 70<<20))
	b := baker(t, lower, finished, t.TempDir())
	if err := b.filesystem(t.Context()); !errors.Is(err, disk.ErrTooSmall) || !strings.Contains(err.Error(), "into 64 MiB\nhint: raise disk.root") {
		t.Errorf("filesystem() = %v, want that the tree does not fit", err)
	}
}
