package rebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCacheCorrupt changes one byte of each thing that the cache keeps. The next
// build says so, makes it again, and has the same bytes as before.
func TestCacheCorrupt(t *testing.T) {
	w := newWorld(t)
	w.locked() // packages that are installed again are the same
	profile := w.profile("corrupt")
	want, _ := w.build(profile, "out")
	anew := func() {
		w.forget()
		if err := os.RemoveAll(w.path("out")); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what, pattern string
		before        func()
		said          string
	}{
		{"system", "cache/system-*/root.blocks", func() { os.RemoveAll(w.path("out")) }, "the cached system is damaged and is baked again"},
		{"root file system below a system", "cache/root-*/root.blocks", func() { os.RemoveAll(w.path("out")) }, "the cached system is damaged and is baked again"},
		{"root file system", "cache/root-*/root.blocks", anew, "the cached root file system is damaged and is made again"},
		{"what it borrows", "cache/root-*/root.json", anew, "the cached root file system is damaged and is made again"},
		{"packages", "cache/packages-*/tree/usr/bin/passwd", anew, "the cached packages are damaged and are installed again"},
		{"facts of the packages", "cache/packages-*/tree.json", anew, "the cached packages are damaged and are installed again"},
		{"initramfs", "cache/initramfs-*/initramfs.img", anew, "the cached initramfs is damaged and is made again"},
		{"entry", "cache/initramfs-*/entry.json", anew, ""},
		{"output", "out/disk.qcow2", func() {}, "the output is not what is asked for and is made again"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w.t = t
			c.before()
			flip(t, w.path(c.pattern))
			// With -v, for what the inner program says about its own entries.
			said := run(t, append(w.argv(profile, "out"), "-v")...)
			if !strings.Contains(said, c.said) {
				t.Errorf("the build does not say %q", c.said)
			}
			w.same(want, w.verified("out"))
		})
	}
	w.t = t
	w.noHalf()
}

// TestConcurrentBuilds has three builds share one cache: two make the same output,
// one another. Each ends well, and what two want is made once.
func TestConcurrentBuilds(t *testing.T) {
	w := newWorld(t)
	same, other := w.profile("same"), w.profile("other")
	for range 3 {
		a, saidA := w.start(same, "out")
		b, saidB := w.start(same, "out")
		c, saidC := w.start(other, "other")
		errA, errB, errC := a.Wait(), b.Wait(), c.Wait()
		if errA != nil || errB != nil || errC != nil {
			t.Fatalf("%v\n%s\n%v\n%s\n%v\n%s", errA, saidA, errB, saidB, errC, saidC)
		}
		one, two := w.verified("out"), w.verified("other")
		if one.Digest == two.Digest {
			t.Errorf("both have the digest %s", one.Digest)
		}
		w.noHalf()
		for kind, want := range map[string]int{"root": 1, "initramfs": 1, "system": 2} {
			entries, err := filepath.Glob(filepath.Join(w.cache, kind+"-*", "entry.json"))
			if err != nil || len(entries) != want {
				t.Errorf("%d entries of the kind %s, want %d (%v)", len(entries), kind, want, err)
			}
		}
		// The next round makes all but packages, their file system and initramfs again.
		w.forget()
		for _, out := range []string{"out", "other"} {
			if err := os.RemoveAll(w.path(out)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
