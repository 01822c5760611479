package cache

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// names are the kinds of entries, which the tests give one each.
func kinds(all []Kept) []string {
	var out []string
	for _, k := range all {
		out = append(out, k.Kind)
	}
	return out
}

// filled is a cache of three good entries, used three, two and one hour ago.
func filled(t *testing.T) *Cache {
	t.Helper()
	c := open(t)
	for i, kind := range []string{"old", "middle", "new"} {
		e, _, err := c.Get(t.Context(), kind, key(t, i), false, fill(strings.Repeat("x", 64<<10)))
		if err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(time.Duration(i-3) * time.Hour)
		if err := os.Chtimes(e.Dir+".lock", used, used); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestListAndPrune(t *testing.T) {
	hours := func(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		name  string
		since time.Time
		most  int64
		gone  []string
	}{
		{"no limit", time.Time{}, 0, nil},
		{"age", hours(2).Add(-time.Minute), 0, []string{"old"}},
		{"size", time.Time{}, 150 << 10, []string{"old"}},
		{"everything by size", time.Time{}, 1, []string{"old", "middle", "new"}},
		{"both", hours(2).Add(time.Minute), 1 << 30, []string{"old", "middle"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := filled(t)
			before, err := cache.List()
			if err != nil || !slices.Equal(kinds(before), []string{"old", "middle", "new"}) {
				t.Fatalf("List() = %+v, %v, want three, the oldest first", before, err)
			}
			for _, k := range before {
				if k.Size < 64<<10 || k.Why != "" {
					t.Errorf("List() has %+v, want a good entry of 64 KiB", k)
				}
			}
			removed, err := cache.Prune(t.Context(), c.since, c.most)
			if err != nil || !slices.Equal(kinds(removed), c.gone) {
				t.Errorf("Prune() = %v, %v, want %v", kinds(removed), err, c.gone)
			}
			after, err := cache.List()
			if err != nil || len(after) != 3-len(c.gone) {
				t.Errorf("%d entries are left, %v, want %d", len(after), err, 3-len(c.gone))
			}
		})
	}
}

// What is of no use goes first, whatever its age, and only that.
func TestPruneTakesWhatIsOfNoUse(t *testing.T) {
	c := filled(t)
	all, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, all[2].Name, "a"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(c.dir, "."+all[0].Name), 0o700); err != nil {
		t.Fatal(err)
	}
	removed, err := c.Prune(t.Context(), time.Time{}, 0)
	if err != nil || len(removed) != 2 {
		t.Fatalf("Prune() = %+v, %v, want the damaged and the unfinished one", removed, err)
	}
	if removed[0].Why != "unfinished" || !strings.Contains(removed[1].Why, "has 5 bytes") {
		t.Errorf("Prune() = %+v, want why each is of no use", removed)
	}
	if left, err := c.List(); err != nil || !slices.Equal(kinds(left), []string{"old", "middle"}) {
		t.Errorf("left are %v, %v", kinds(left), err)
	}
}

// A use of an entry, without building it, makes it young.
func TestUseIsNoted(t *testing.T) {
	c := filled(t)
	if _, hit, err := c.Get(t.Context(), "old", key(t, 0), false, fill("")); !hit || err != nil {
		t.Fatalf("Get() hit = %v, %v", hit, err)
	}
	if all, err := c.List(); err != nil || !slices.Equal(kinds(all), []string{"middle", "new", "old"}) {
		t.Errorf("List() = %v, %v, want the used one last", kinds(all), err)
	}
}

func TestPruneWaitsForNoBuild(t *testing.T) {
	c := filled(t)
	other, err := Open(c.dir, c.log, c.remove)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prune(t.Context(), time.Now(), 0); !errors.Is(err, ErrBusy) {
		t.Errorf("Prune() while another uses the cache = %v, want ErrBusy", err)
	}
	other.use.Close()
	if removed, err := c.Prune(t.Context(), time.Now(), 0); err != nil || len(removed) != 3 {
		t.Errorf("Prune() = %v, %v, want all three", kinds(removed), err)
	}
}

// The entry of another key goes if it is said to be old, unless another build might
// be reading it.
func TestSupersede(t *testing.T) {
	c := open(t)
	for _, e := range []struct {
		kind string
		key  int
	}{{"x", 1}, {"x", 2}, {"x", 3}, {"y", 1}} {
		if _, _, err := c.Get(t.Context(), e.kind, key(t, e.key), false, fill("one")); err != nil {
			t.Fatal(err)
		}
	}
	there := func(kind string, k int) bool {
		_, err := Peek(c.dir, kind, key(t, k))
		return err == nil
	}
	kept := entryName("x", key(t, 3))
	old := func(dir string) bool { return filepath.Base(dir) != kept }
	other, err := Open(c.dir, c.log, c.remove)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Supersede(t.Context(), "x", key(t, 2), old); err != nil || !there("x", 1) {
		t.Errorf("while another build uses the cache: %v, entry there %v, want it kept", err, there("x", 1))
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Supersede(t.Context(), "x", key(t, 2), old); err != nil {
		t.Fatal(err)
	}
	if there("x", 1) || !there("x", 2) || !there("x", 3) || !there("y", 1) {
		t.Errorf("there are x1 %v, x2 %v, x3 %v, y1 %v, want all but x1", there("x", 1), there("x", 2), there("x", 3), there("y", 1))
	}
	if _, err := Open(c.dir, c.log, c.remove); err != nil {
		t.Errorf("the cache is still locked: %v", err)
	}
}
