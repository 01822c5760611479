package builder

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ward/builder/cache"
	"ward/builder/provenance"
	"ward/images"
	"ward/profiles"
)

// comparable is a build that gets as far as comparing its inputs, with programs and
// a keyring that are small files.
func comparable(t *testing.T, change func(*Options)) *build {
	t.Helper()
	dir := t.TempDir()
	img, err := images.Load("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	prof, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Image: img, Profile: prof, Cache: filepath.Join(dir, "cache"), Log: slog.New(slog.DiscardHandler), Version: "v1"}
	for name, to := range map[string]*string{"ward": &o.Binaries.Ward, "init": &o.Binaries.Init, "net": &o.Binaries.NetInit, "wardctl": &o.Binaries.Wardctl, "keyring": &o.Image.Keyring} {
		*to = filepath.Join(dir, name)
		if err := os.WriteFile(*to, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&o)
	}
	b, err := newBuild(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A build with nothing to do ends before it opens the cache; whatever is new, or
// was changed, or is asked for beside, makes it go on.
func TestNothingChangedWritesNothing(t *testing.T) {
	signer, _ := signers(t)
	first := comparable(t, nil)
	if err := first.compare(t.Context()); err != nil {
		t.Fatalf("without an output: %v, want a build", err)
	}
	made := time.Unix(1700000000, 0).UTC()
	if err := first.dated(made); err != nil {
		t.Fatal(err)
	}
	unsigned, m := outputOf(t, nil, first.digest)
	signed, _ := outputOf(t, signer, first.digest)
	if !m.Made.Equal(made) {
		t.Fatalf("the output was made at %s", m.Made)
	}
	for name, c := range map[string]struct {
		output   string
		change   func(*testing.T, *Options)
		before   func(t *testing.T, b *build)
		upToDate bool
	}{
		"nothing":             {unsigned, nil, nil, true},
		"all read":            {unsigned, func(_ *testing.T, o *Options) { o.Check = true }, nil, true},
		"signed, asked for":   {signed, func(_ *testing.T, o *Options) { o.Sign = signer }, nil, true},
		"signed, not asked":   {signed, nil, nil, true},
		"not signed":          {unsigned, func(_ *testing.T, o *Options) { o.Sign = signer }, nil, false},
		"another key":         {signed, func(t *testing.T, o *Options) { o.Sign = another(t) }, nil, false},
		"a parameter":         {unsigned, func(_ *testing.T, o *Options) { o.Profile.Controls.Lockout.Deny++ }, nil, false},
		"the image":           {unsigned, func(_ *testing.T, o *Options) { o.Image.KernelArgs = append(o.Image.KernelArgs, "quiet") }, nil, false},
		"a package":           {unsigned, func(_ *testing.T, o *Options) { o.Image.Packages = append(o.Image.Packages, "tree") }, nil, false},
		"a verified root":     {unsigned, func(_ *testing.T, o *Options) { o.Profile.Controls.Integrity.Root = profiles.RootVerity }, nil, false},
		"the state partition": {unsigned, func(_ *testing.T, o *Options) { o.Image.Disk.State = 2 * images.GiB }, nil, false},
		"wardctl":             {unsigned, func(t *testing.T, o *Options) { overwrite(t, o.Binaries.Wardctl) }, nil, false},
		"the keyring":         {unsigned, func(t *testing.T, o *Options) { overwrite(t, o.Image.Keyring) }, nil, false},
		"ask the mirror":      {unsigned, func(_ *testing.T, o *Options) { o.Update = true }, nil, false},
		"no output":           {filepath.Join(t.TempDir(), "none"), nil, nil, false},
		"packages of the day": {unsigned, nil, func(t *testing.T, b *build) { fetchedAt(t, b, made) }, true},
		"newer packages":      {unsigned, nil, func(t *testing.T, b *build) { fetchedAt(t, b, made.Add(time.Hour)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := comparable(t, func(o *Options) {
				// The same names, which are in the inputs.
				o.Image.Keyring, o.Binaries = first.Image.Keyring, first.Binaries
				o.Output = c.output
				if c.change != nil {
					c.change(t, o)
				}
			})
			if c.before != nil {
				c.before(t, b)
			}
			err := b.compare(t.Context())
			if c.upToDate != errors.Is(err, errUpToDate) || !c.upToDate && err != nil {
				t.Errorf("compare() = %v, want up to date: %v", err, c.upToDate)
			}
			if _, err := os.Stat(b.Cache); c.before == nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the cache was opened (%v)", err)
			}
			if _, err := os.Stat(c.output); err == nil {
				if _, _, err := VerifyOutput(t.Context(), c.output, nil); err != nil {
					t.Errorf("the output was changed: %v", err)
				}
			}
		})
	}
}

func another(t *testing.T) provenance.Signer {
	t.Helper()
	s, _ := signers(t)
	return s
}

// overwrite changes a file for as long as the test runs.
func overwrite(t *testing.T, name string) {
	t.Helper()
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(name, old, 0o600) })
	if err := os.WriteFile(name, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fetchedAt puts the packages of a build into its cache, as if installed then.
func fetchedAt(t *testing.T, b *build, at time.Time) {
	t.Helper()
	if err := b.hashInputs(t.Context()); err != nil {
		t.Fatal(err)
	}
	key, err := cache.Key(b.inputs.Packages)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(b.Cache, b.Log, func(_ context.Context, dir string) error { return os.RemoveAll(dir) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Get(t.Context(), packagesKind, key, false, func(_ context.Context, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, treeFile), []byte("{}"), 0o600),
			os.WriteFile(filepath.Join(dir, madeFile), []byte(at.Format(time.RFC3339)+"\n"), 0o600))
	}); err != nil {
		t.Fatal(err)
	}
}
