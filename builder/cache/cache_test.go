package cache

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func open(t *testing.T) *Cache {
	t.Helper()
	c, err := Open(t.TempDir(), slog.New(slog.DiscardHandler), func(_ context.Context, dir string) error { return os.RemoveAll(dir) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func key(t *testing.T, v any) string {
	t.Helper()
	k, err := Key(v)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fill(text string) func(context.Context, string) error {
	return func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o600)
	}
}

func TestGetBuildsOnce(t *testing.T) {
	c := open(t)
	for i, want := range []bool{false, true} {
		e, hit, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one"))
		if err != nil || hit != want {
			t.Errorf("call %d: hit = %v, %v, want %v", i, hit, err, want)
		}
		if err := e.Verify("a"); err != nil {
			t.Error(err)
		}
	}
	if _, hit, err := c.Get(t.Context(), "x", key(t, 1), true, fill("two")); hit || err != nil {
		t.Errorf("fresh: hit = %v, %v, want a new entry", hit, err)
	}
	if _, hit, err := c.Get(t.Context(), "x", key(t, 2), false, fill("one")); hit || err != nil {
		t.Errorf("other inputs: hit = %v, %v, want a new entry", hit, err)
	}
}

// What somebody holds is not made anew under them, and is found by others.
func TestHold(t *testing.T) {
	c := open(t)
	if _, _, err := c.Hold(t.Context(), "x", key(t, 1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Hold() of nothing = %v, want that there is none", err)
	}
	if _, _, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one")); err != nil {
		t.Fatal(err)
	}
	e, release, err := c.Hold(t.Context(), "x", key(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, hit, err := c.Get(t.Context(), "x", key(t, 1), false, fill("two")); !hit || err != nil {
		t.Errorf("Get() of what is held: hit = %v, %v, want it", hit, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := c.Get(ctx, "x", key(t, 1), true, fill("two")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get(fresh) of what is held = %v, want that it waits", err)
	}
	if err := e.Verify("a"); err != nil {
		t.Errorf("what is held was changed: %v", err)
	}
	release()
	if _, hit, err := c.Get(t.Context(), "x", key(t, 1), true, fill("two")); hit || err != nil {
		t.Errorf("Get(fresh) of what was released: hit = %v, %v, want a new one", hit, err)
	}
}

func TestConcurrentGetsShareOneBuild(t *testing.T) {
	c := open(t)
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, _, err := c.Get(t.Context(), "x", key(t, 1), false, func(ctx context.Context, dir string) error {
				builds.Add(1)
				return fill("one")(ctx, dir)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c := open(t)
	boom := errors.New("boom")
	_, _, err := c.Get(t.Context(), "x", key(t, 1), false, func(ctx context.Context, dir string) error {
		return errors.Join(fill("half")(ctx, dir), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Get() = %v, want %v", err, boom)
	}
	names, _ := os.ReadDir(c.dir)
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), ".lock") {
			t.Errorf("%s is left", n.Name())
		}
	}
}

func TestDamagedEntryIsBuiltAgain(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"file gone":     func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
		"file cut":      func(dir string) error { return os.Truncate(filepath.Join(dir, "a"), 1) },
		"entry cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, entryFile), 5) },
		"entry emptied": func(dir string) error { return os.WriteFile(filepath.Join(dir, entryFile), []byte("{}"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			e, _, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one"))
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(e.Dir); err != nil {
				t.Fatal(err)
			}
			e, hit, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one"))
			if hit || err != nil {
				t.Errorf("hit = %v, %v, want it built again", hit, err)
			}
			if err := e.Verify("a"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVerifyFindsAChangedByte(t *testing.T) {
	c := open(t)
	e, _, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.Path("a"), []byte("onE"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Verify("a"); err == nil || !strings.Contains(err.Error(), "was written as") {
		t.Errorf("Verify() = %v, want an error with both digests", err)
	}
}

func TestDigestDoesNotDependOnHoles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int64, at int64, data []byte) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		sum, err := digest(path)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	const size = 5*block + 100
	full := make([]byte, size)
	full[3*block+7] = 'x'
	dense := write("dense", size, 0, full)
	if sparse := write("sparse", size, 3*block+7, []byte("x")); sparse != dense {
		t.Error("a hole and zeros have two digests")
	}
	if longer := write("longer", size+1, 0, full); longer == dense {
		t.Error("a longer file has the same digest")
	}
	if moved := write("moved", size, 3*block+8, []byte("x")); moved == dense {
		t.Error("a moved byte has the same digest")
	}
	if block2 := write("block2", size, 2*block+7, []byte("x")); block2 == dense {
		t.Error("a byte in another block has the same digest")
	}
}

func TestNextBuildRemovesWhatKilledOnesLeft(t *testing.T) {
	c := open(t)
	left, busy := filepath.Join(c.dir, ".x-left"), filepath.Join(c.dir, ".x-busy")
	for _, dir := range []string{left, busy} {
		if err := errors.Join(os.Mkdir(dir, 0o700), fill("half")(t.Context(), dir)); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := c.tryLock("x-busy")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, _, err := c.Get(t.Context(), "x", key(t, 1), false, fill("one")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v), want it removed", left, err)
	}
	if _, err := os.Stat(busy); err != nil {
		t.Errorf("%v, want it kept: its lock is held", err)
	}
}
