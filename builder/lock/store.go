package lock

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Store keeps package files under their digest.
type Store struct{ dir string }

// OpenStore opens the store in a folder, which is made if need be.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Store{dir}, nil
}

func (s *Store) path(sum string) string { return filepath.Join(s.dir, "sha256", sum[:2], sum) }

// Missing returns the lock's packages that the store does not have in full.
func (s *Store) Missing(l *Lock) []Package {
	var missing []Package
	for _, p := range l.Packages {
		if info, err := os.Stat(s.path(p.SHA256)); err != nil || info.Size() != p.Size {
			missing = append(missing, p)
		}
	}
	return missing
}

// Offline returns an error that names what is missing, or nil.
func (s *Store) Offline(l *Lock) error {
	missing := s.Missing(l)
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for _, p := range missing[:min(5, len(missing))] {
		names = append(names, p.Name+" "+p.Version)
	}
	return fmt.Errorf("store %s lacks %d of %d packages: %s ...\nhint: ward build --locked fetches them; ward store import FILE brings them over an air gap",
		s.dir, len(missing), len(l.Packages), strings.Join(names, ", "))
}

// Link makes a package of the store appear under a name, after its bytes were
// compared with its digest.
func (s *Store) Link(p Package, name string) error {
	f, err := os.Open(s.path(p.SHA256))
	if err != nil {
		return fmt.Errorf("store: %s %s: %w", p.Name, p.Version, err)
	}
	defer f.Close()
	if err := check(f, p); err != nil {
		return fmt.Errorf("store: %s: %w\nhint: remove that file, the next build fetches it again", s.path(p.SHA256), err)
	}
	if err := os.Link(s.path(p.SHA256), name); err == nil {
		return nil
	}
	// On another file system. A symbolic link would lead through folders that the
	// package manager's user may not enter.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	return errors.Join(err, to.Close())
}

func check(r io.Reader, p Package) error {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%s %s: sha256 is %s, the lock says %s", p.Name, p.Version, got, p.SHA256)
	}
	return nil
}

const (
	parallel = 4                // downloads at a time
	tries    = 3                // of each
	silence  = 30 * time.Second // after which a server that sends nothing is given up
)

// Fetch downloads what is missing. What arrived before an interruption is kept
// and the rest asked for by range; a file has its name only when its digest is
// right. Progress, in bytes, is told from several goroutines.
func (s *Store) Fetch(ctx context.Context, l *Lock, progress func(done, total int64)) error {
	missing := s.Missing(l)
	var total int64
	for _, p := range missing {
		total += p.Size
	}
	count := &counter{total: total, tell: progress}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, p := range missing {
		g.Go(func() error {
			var err error
			for range tries {
				if err = s.fetch(ctx, p, count); err == nil || ctx.Err() != nil || errors.Is(err, errDigest) {
					break
				}
			}
			if err != nil {
				return fmt.Errorf("fetch %s %s: %w", p.Name, p.Version, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// errDigest is in the error of a file whose bytes are not the lock's; asking the
// same server again would be of no use.
var errDigest = errors.New("digest differs")

func (s *Store) fetch(ctx context.Context, p Package, count *counter) error {
	final := s.path(p.SHA256)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(final+".part", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > p.Size {
		have = 0
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if have < p.Size {
		if err := download(ctx, f, p, have, count); err != nil {
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := check(f, p); err != nil {
		return errors.Join(fmt.Errorf("%w\nhint: the mirror serves another file than was locked; use a mirror with snapshots, or lock again", err), errDigest, os.Remove(final+".part"))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(final+".part", final)
}

// download appends to f what comes after the bytes that it has.
func download(ctx context.Context, f *os.File, p Package, have int64, count *counter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(silence, func() { cancel(fmt.Errorf("the server sent nothing for %s", silence)) })
	defer watch.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusPartialContent && have > 0:
	case response.StatusCode == http.StatusOK:
		have = 0
	default:
		return fmt.Errorf("%s: %s", p.URL, response.Status)
	}
	if err := f.Truncate(have); err != nil {
		return err
	}
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		return err
	}
	body := io.LimitReader(response.Body, p.Size-have+1) // one more byte, to see that there is too much
	n, err := io.Copy(f, reader(func(b []byte) (int, error) {
		n, err := body.Read(b)
		if n > 0 {
			watch.Reset(silence)
			count.add(int64(n))
		}
		return n, err
	}))
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	if have+n != p.Size {
		return fmt.Errorf("%s: %d bytes, want %d", p.URL, have+n, p.Size)
	}
	return nil
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

// Export writes the lock's packages as one tar, for a machine without network.
func (s *Store) Export(l *Lock, w io.Writer) error {
	if err := s.Offline(l); err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, p := range l.Packages {
		if err := s.export(out, p); err != nil {
			return fmt.Errorf("store: export %s: %w", p.Name, err)
		}
	}
	return out.Close()
}

func (s *Store) export(out *tar.Writer, p Package) error {
	f, err := os.Open(s.path(p.SHA256))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := out.WriteHeader(&tar.Header{Name: p.SHA256, Mode: 0o644, Size: p.Size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

// Import reads what Export wrote and returns how many files were new. A file
// whose bytes are not those of its name is refused, and nothing of it stays.
func (s *Store) Import(r io.Reader) (int, error) {
	in := tar.NewReader(r)
	for added := 0; ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return added, nil
		}
		if err != nil {
			return added, fmt.Errorf("store: import: %w", err)
		}
		if sum, err := hex.DecodeString(h.Name); err != nil || len(sum) != 32 || h.Typeflag != tar.TypeReg || h.Size > maxPackage {
			return added, fmt.Errorf("store: import: %q is not a file of a store", h.Name)
		}
		fresh, err := s.add(in, h.Name)
		if err != nil {
			return added, fmt.Errorf("store: import: %w", err)
		}
		if fresh {
			added++
		}
	}
}

func (s *Store) add(r io.Reader, sum string) (bool, error) {
	final := s.path(sum)
	if _, err := os.Stat(final); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(final), ".import-")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := check(io.TeeReader(r, f), Package{Name: "file", SHA256: sum}); err != nil {
		return false, err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), final)
}
