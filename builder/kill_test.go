package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/cache"
)

// TestKillAnywhere kills, at 50 random instants, a process that fills the cache
// and publishes outputs without end. What is in the cache is whole, the output is
// the former or the next one as a whole, and the next process cleans up. Builds with
// all their programs are killed by the test of the same name in qemu-tests/rebuild.
func TestKillAnywhere(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	out := filepath.Join(dir, "out", "image")
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "WARD_KILLED="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("it ended by itself: %v", err)
		}
		cmd.Wait()
	}
	// How long a process takes for its first output, on this machine now.
	begun := time.Now()
	first := start()
	for {
		if _, err := os.Stat(out); err == nil {
			break
		}
		if time.Since(begun) > time.Minute {
			kill(first)
			t.Fatal("no output within a minute")
		}
		time.Sleep(time.Millisecond)
	}
	whole := time.Since(begun)
	kill(first)
	for range 50 {
		cmd := start()
		time.Sleep(time.Duration(r.Int64N(int64(2 * whole))))
		kill(cmd)
		if _, _, err := VerifyOutput(t.Context(), out, nil); err != nil {
			t.Fatal(err)
		}
		entries, err := filepath.Glob(filepath.Join(dir, "cache", "step-*", "entry.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := os.Stat(filepath.Join(filepath.Dir(e), "b")); err != nil {
				t.Errorf("half an entry: %v", err)
			}
		}
	}
	// The next one removes what is left.
	if err := killable(t.Context(), dir, 1); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"cache/.*", "out/.*"} {
		if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	}
}

// TestKilled is the process that TestKillAnywhere kills.
func TestKilled(t *testing.T) {
	dir := os.Getenv("WARD_KILLED")
	if dir == "" {
		return // it is started by TestKillAnywhere
	}
	t.Fatal(killable(t.Context(), dir, 1<<30))
}

// killable makes outputs, each from a new cache entry, and publishes each over the
// one before.
func killable(ctx context.Context, dir string, outputs int) error {
	c, err := cache.Open(filepath.Join(dir, "cache"), slog.New(slog.DiscardHandler), func(_ context.Context, dir string) error { return os.RemoveAll(dir) })
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range outputs {
		key, err := cache.Key([]any{os.Getpid(), i})
		if err != nil {
			return err
		}
		text := strings.Repeat(key, 1000)
		e, _, err := c.Get(ctx, "step", key, false, func(_ context.Context, dir string) error {
			for _, name := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := publishOne(ctx, filepath.Join(dir, "out", "image"), e); err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
		gone := filepath.Join(filepath.Dir(e.Dir), "."+filepath.Base(e.Dir)) // its name while it was unfinished
		if err := errors.Join(os.Rename(e.Dir, gone), os.RemoveAll(gone)); err != nil {
			return err
		}
	}
	return nil
}

// publishOne does what the last steps of a build do.
func publishOne(ctx context.Context, out string, e *cache.Entry) error {
	work, lock, err := workFolder(filepath.Dir(out), filepath.Base(out))
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, name := range []string{"a", "b"} {
		if err := copyFile(filepath.Join(work, name), e.Path(name)); err != nil {
			return err
		}
	}
	m := &Manifest{Version: ManifestVersion, Digest: e.Key, Made: e.Made, Inputs: []byte("{}")}
	if m.Files, err = describe(work); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(work, manifestFile), m); err != nil {
		return err
	}
	own, err := cache.Sum(filepath.Join(work, manifestFile))
	if err != nil {
		return err
	}
	b := &build{work: work, digest: m.Digest}
	return errors.Join(b.attest(ctx, m, own), writeSums(work, m.Files), settle(work, m.Made), publish(work, out))
}
