package boot

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/disks"
	"ward/initramfs/handoff"
)

func TestVerityOfTheLine(t *testing.T) {
	word := handoff.Verity{Blocks: 8, Salt: strings.Repeat("ab", 32), Digest: strings.Repeat("cd", 32)}
	for _, c := range []struct {
		line     string
		image    bool // has a verified root
		verified bool
		want     string // in the error; empty: none
	}{
		{"root=PARTUUID=x ro", false, false, ""},
		{"root=PARTUUID=x ro ward.verity=" + word.String(), true, true, ""},
		{"root=PARTUUID=x ro ward.verity=" + word.String(), false, true, ""},
		{"root=PARTUUID=x ro", true, false, "the kernel line has no ward.verity=, and this image has a verified root"},
		{"ward.verity=", true, true, "want BLOCKS:SALT:DIGEST"},
		{"ward.verity=8:zz:yy", true, true, "64 lower-case hex digits"},
	} {
		m := &machine{line: cmdline.Parse(c.line), config: handoff.Config{Verity: c.image}}
		v, verified, err := m.verity()
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want an error with %q", c.line, err, c.want)
			}
			continue
		}
		if err != nil || verified != c.verified || verified && v != word {
			t.Errorf("%q: %+v, %v, %v, want verified %v", c.line, v, verified, err, c.verified)
		}
	}
}

// TestVerityTooSmall: a partition that cannot be the root is refused before it is mapped.
func TestVerityTooSmall(t *testing.T) {
	name := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(name, make([]byte, 9*handoff.VerityBlock-1), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &machine{log: slog.New(slog.DiscardHandler)}
	_, err := m.mapVerity(disks.Block{Path: name}, handoff.Verity{Blocks: 8})
	if err == nil || !strings.Contains(err.Error(), "data and hash tree have 36864") {
		t.Errorf("mapVerity = %v, want that the partition is too small", err)
	}
	if err := notVerified(fmt.Errorf("read: %w", syscall.EIO)); !strings.Contains(err.Error(), "is not what this kernel image was made with") {
		t.Errorf("notVerified = %v", err)
	}
	if err := notVerified(syscall.ENOENT); strings.Contains(err.Error(), "kernel image") {
		t.Errorf("notVerified = %v, want it as it is", err)
	}
}

// TestLayers: the folder that is written to looks like the one below it.
func TestLayers(t *testing.T) {
	state, lower := t.TempDir(), filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(lower, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(lower, 0o750); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second boot finds them
		upper, work, err := layers(state, lower, "root")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(upper)
		if err != nil || info.Mode().Perm() != 0o750 {
			t.Errorf("upper is %v (%v), want 0750", info.Mode(), err)
		}
		if _, err := os.Stat(work); err != nil || filepath.Dir(work) != filepath.Dir(upper) {
			t.Errorf("work is %s, %v", work, err)
		}
	}
	if _, _, err := layers(state, lower+"-none", "x"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("layers = %v, want that the folder is not there", err)
	}
}
