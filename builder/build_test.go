package builder

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ward/images"
)

func TestAFullDiskHasAHint(t *testing.T) {
	b := &build{Options: Options{Image: &images.Image{Name: "clinic"}, Output: "out/clinic", Cache: "/cache"}}
	err := b.hinted(fmt.Errorf("write disk.raw: %w", syscall.ENOSPC))
	if !strings.Contains(err.Error(), "\nhint: free disk space") || !strings.Contains(err.Error(), "out/clinic") {
		t.Errorf("hinted() = %v, want where to free space", err)
	}
	for _, other := range []error{syscall.EIO, fmt.Errorf("%w\nhint: another", syscall.ENOSPC)} {
		if got := b.hinted(other); got != other {
			t.Errorf("hinted(%v) = %v, want it as it was", other, got)
		}
	}
}

// Programs for another architecture lie in a folder of its name; one that is missing is
// named with what builds it.
func TestBinariesFor(t *testing.T) {
	dir := t.TempDir()
	b := Binaries{Ward: filepath.Join(dir, "ward"), Init: filepath.Join(dir, "ward-init"), NetInit: filepath.Join(dir, "ward-init-net"), Wardctl: filepath.Join(dir, "wardctl")}
	if got, err := b.For(runtime.GOARCH); err != nil || got != b {
		t.Errorf("For(own) = %+v, %v, want the same", got, err)
	}
	if _, err := b.For("other"); err == nil || !strings.Contains(err.Error(), "make build-other") || !strings.Contains(err.Error(), filepath.Join(dir, "other", "wardctl")) {
		t.Errorf("For(other) = %v, want the missing file and what builds it", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ward-init", "ward-init-net", "wardctl"} {
		if err := os.WriteFile(filepath.Join(dir, "other", name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.For("other")
	if err != nil || got.Ward != b.Ward || got.Init != filepath.Join(dir, "other", "ward-init") {
		t.Errorf("For(other) = %+v, %v, want its folder, and our own ward", got, err)
	}
}
