package lock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// served makes a lock of n packages, and a server that has them.
func served(t *testing.T, n int, wrap func(http.Handler) http.Handler) *Lock {
	t.Helper()
	files := map[string][]byte{}
	server := httptest.NewServer(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(files[r.URL.Path]))
	})))
	t.Cleanup(server.Close)
	l := sample()
	l.Packages = nil
	for i := range n {
		data := bytes.Repeat([]byte{byte('a' + i)}, 100_000+i)
		sum := sha256.Sum256(data)
		path := fmt.Sprintf("/p%d.deb", i)
		files[path] = data
		l.Packages = append(l.Packages, Package{fmt.Sprintf("pkg%d", i), "1.0", "amd64", server.URL + path, int64(len(data)), hex.EncodeToString(sum[:])})
	}
	return l
}

func plain(h http.Handler) http.Handler { return h }

func store(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFetchOnceThenOffline(t *testing.T) {
	var requests atomic.Int32
	l := served(t, 6, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1); h.ServeHTTP(w, r) })
	})
	s := store(t)
	if err := s.Offline(l); err == nil || !strings.Contains(err.Error(), "lacks 6 of 6 packages: pkg0 1.0") {
		t.Errorf("Offline() = %v, want an error that counts what is missing", err)
	}
	var last, total int64
	if err := s.Fetch(t.Context(), l, func(d, all int64) { last, total = d, all }); err != nil {
		t.Fatal(err)
	}
	if last != total || total == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	if err := s.Fetch(t.Context(), l, nil); err != nil || requests.Load() != 6 {
		t.Errorf("a second Fetch() = %v after %d requests, want 6", err, requests.Load())
	}
	if err := s.Offline(l); err != nil {
		t.Error(err)
	}
}

// The connection is cut after a part: the rest is asked for, not the whole.
func TestFetchGoesOnWhereItWasCut(t *testing.T) {
	var ranges atomic.Int32
	var first atomic.Bool
	l := served(t, 1, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if first.CompareAndSwap(false, true) {
				w.Header().Set("Content-Length", "100000")
				w.Write(bytes.Repeat([]byte("a"), 40_000))
				panic(http.ErrAbortHandler)
			}
			if r.Header.Get("Range") == "bytes=40000-" {
				ranges.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	s := store(t)
	if err := s.Fetch(t.Context(), l, nil); err != nil {
		t.Fatal(err)
	}
	if ranges.Load() != 1 {
		t.Errorf("%d requests for the rest, want 1", ranges.Load())
	}
	if err := s.Link(l.Packages[0], filepath.Join(t.TempDir(), "x")); err != nil {
		t.Error(err)
	}
}

func TestFetchRefusesOtherBytes(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"same size": {func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("z"), 100_000)) }, "the lock says"},
		"too long":  {func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("a"), 200_000)) }, "100001 bytes, want 100000"},
		"gone":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone", http.StatusNotFound) }, "404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			l := served(t, 1, func(http.Handler) http.Handler { return c.handler })
			s := store(t)
			err := s.Fetch(t.Context(), l, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "pkg0 1.0") {
				t.Errorf("Fetch() = %v, want an error that names the package and says %q", err, c.want)
			}
			if len(s.Missing(l)) != 1 {
				t.Error("the store says that it has the package")
			}
		})
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	l := served(t, 1, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := store(t).Fetch(ctx, l, nil); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("Fetch() = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestLinkNoticesAChangedFile(t *testing.T) {
	l := served(t, 1, plain)
	s := store(t)
	if err := s.Fetch(t.Context(), l, nil); err != nil {
		t.Fatal(err)
	}
	p := l.Packages[0]
	if err := os.WriteFile(s.path(p.SHA256), bytes.Repeat([]byte("b"), int(p.Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Link(p, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "the lock says") {
		t.Errorf("Link() = %v, want an error with both digests", err)
	}
}

func TestExportImport(t *testing.T) {
	l := served(t, 3, plain)
	a, b := store(t), store(t)
	if err := a.Fetch(t.Context(), l, nil); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := a.Export(l, &file); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{3, 0} {
		if n, err := b.Import(bytes.NewReader(file.Bytes())); err != nil || n != want {
			t.Errorf("Import() = %d, %v, want %d", n, err, want)
		}
	}
	if err := b.Offline(l); err != nil {
		t.Error(err)
	}
	changed := bytes.Replace(file.Bytes(), []byte("aaaaaaaa"), []byte("aaaaaaab"), 1)
	if bytes.Equal(changed, file.Bytes()) {
		t.Fatal("nothing was changed")
	}
	if n, err := store(t).Import(bytes.NewReader(changed)); n != 0 || err == nil || !strings.Contains(err.Error(), "sha256 is") {
		t.Errorf("Import() of a changed file = %d, %v, want an error with both digests", n, err)
	}
	if _, err := store(t).Import(strings.NewReader("hello")); err == nil || !strings.Contains(err.Error(), "import") {
		t.Errorf("Import() of text = %v, want an error", err)
	}
}
