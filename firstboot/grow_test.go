package firstboot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"ward/initramfs/handoff"
)

// tableOn makes a disk as the builder lays it out, of 128 MiB or as much as its
// partitions of 40 MiB need, on one of that size.
func tableOn(t *testing.T, size int64, kinds ...string) (*os.File, *gpt.Table) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(max(128, 8+40*int64(len(kinds))) << 20); err != nil {
		t.Fatal(err)
	}
	argv := []string{"--clear"}
	for i, kind := range kinds {
		argv = append(argv, fmt.Sprintf("--new=%d:%dM:+40M", i+1, 1+40*i), fmt.Sprintf("--typecode=%d:%s", i+1, kind))
	}
	if out, err := exec.Command("sgdisk", append(argv, name)...).CombinedOutput(); err != nil {
		t.Fatalf("sgdisk: %v: %s", err, out)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	return f, table
}

const espKind = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

func TestGrowth(t *testing.T) {
	disk := []string{espKind, handoff.RootType, handoff.PHIType}
	further := []string{espKind, handoff.PHIType, handoff.PHIType, handoff.RootType, handoff.PHIType}
	verified := []string{espKind, handoff.PHIType, handoff.PHIType, handoff.RootType, handoff.StateType, handoff.PHIType}
	for _, tt := range []struct {
		name  string
		size  int64 // MiB
		kinds []string
		blank bool
		want  string
	}{
		{"FirstBoot", 1024, disk, true, "2 at 41 +265 was 40 false, 3 at 306 +717 was 40 true"},
		{"PHIHasData", 1024, disk, false, "3 at 81 +942 was 40 false"},
		{"RootAlone", 1024, disk[:2], true, "2 at 41 +982 was 40 false"},
		// Further PHI volumes are before root and stay as they are.
		{"FurtherVolumes", 1024, further, true, "4 at 121 +245 was 40 false, 5 at 366 +657 was 40 true"},
		{"FurtherVolumesWithData", 1024, further, false, "5 at 161 +862 was 40 false"},
		// Of a verified root the state partition behind it gets the share.
		{"VerifiedRoot", 1024, []string{espKind, handoff.RootType, handoff.StateType, handoff.PHIType}, true, "3 at 81 +255 was 40 false, 4 at 336 +687 was 40 true"},
		{"VerifiedRootFurtherVolumes", 1024, verified, true, "5 at 161 +235 was 40 false, 6 at 396 +627 was 40 true"},
		{"VerifiedRootFurtherVolumesWithData", 1024, verified, false, "6 at 201 +822 was 40 false"},
		{"SameSize", 128, disk, true, ""},
		{"HardlyLarger", 136, disk, true, ""},
		{"LastIsAnothers", 1024, []string{handoff.RootType, handoff.PHIType, espKind}, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, table := tableOn(t, tt.size<<20, tt.kinds...)
			var got []string
			for _, c := range growth(table, tt.size<<20, 25, func(string) bool { return tt.blank }) {
				got = append(got, fmt.Sprintf("%d at %d +%d was %d %v", c.number, c.start>>20, c.length>>20, c.before>>20, c.moves))
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Fatalf("growth() = %s, want %s", s, tt.want)
			}
			if tt.want == "" {
				return
			}
			if err := table.Write(f, tt.size<<20); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("sgdisk", "--verify", "--print", f.Name()).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "No problems found") {
				t.Errorf("sgdisk: %v: %s", err, out)
			}
		})
	}
}

func TestExt4Size(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fs")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", name, "32M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	out, err := exec.Command("dumpe2fs", "-h", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ext4Size(string(out)); err != nil || got != 32<<20 {
		t.Errorf("ext4Size() = %d, %v, want 32 MiB", got, err)
	}
	for _, bad := range []string{"", "Block count: 5\n", "Block count: x\nBlock size: 1\n"} {
		if got, err := ext4Size(bad); err == nil {
			t.Errorf("ext4Size(%q) = %d, want an error", bad, got)
		}
	}
}
