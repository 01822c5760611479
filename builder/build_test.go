package builder

import (
	"fmt"
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
