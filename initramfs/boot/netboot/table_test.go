package netboot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/initramfs/handoff"
)

// TestTable installs the table of images with one PHI volume, with three and with a
// verified root on a larger disk: what the machine writes to is found wherever it is, the last volume gets the space, and
// nothing else changes its place. sgdisk makes the table and looks at the result.
func TestTable(t *testing.T) {
	const esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	type part struct {
		number, start, size int // start and size in MiB
		kind, name          string
	}
	one := []part{{1, 1, 40, esp, "esp"}, {2, 41, 40, handoff.RootType, "root"}, {3, 81, 40, handoff.PHIType, "phi-data"}}
	// As the builder lays them out: further volumes lie before root.
	three := []part{{1, 1, 40, esp, "esp"}, {4, 41, 32, handoff.PHIType, "archive"}, {5, 73, 33, handoff.PHIType, "scans"},
		{2, 106, 40, handoff.RootType, "root"}, {3, 146, 40, handoff.PHIType, "phi-data"}}
	verified := []part{{1, 1, 40, esp, "esp"}, {4, 41, 32, handoff.PHIType, "archive"},
		{2, 73, 40, handoff.RootType, "root"}, {5, 113, 20, handoff.StateType, handoff.StateLabel}, {3, 133, 40, handoff.PHIType, "phi-data"}}
	for name, parts := range map[string][]part{"one PHI volume": one, "three PHI volumes": three, "verified root": verified} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "disk")
			f, err := os.Create(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			last := parts[len(parts)-1]
			end := last.start + last.size
			if err := f.Truncate(int64(end+1) << 20); err != nil {
				t.Fatal(err)
			}
			argv := []string{"--clear"}
			for _, p := range parts {
				argv = append(argv, fmt.Sprintf("--new=%d:%dM:+%dM", p.number, p.start, p.size), fmt.Sprintf("--typecode=%d:%s", p.number, p.kind), fmt.Sprintf("--change-name=%d:%s", p.number, p.name))
			}
			if out, err := exec.Command("sgdisk", append(argv, image)...).CombinedOutput(); err != nil {
				t.Fatalf("sgdisk: %v: %s", err, out)
			}
			first := make([]byte, 1<<20)
			if _, err := f.ReadAt(first, 0); err != nil {
				t.Fatal(err)
			}
			table, err := readTable(first, 512)
			if err != nil {
				t.Fatal(err)
			}
			if got := table.end(); got != int64(end)<<20 {
				t.Errorf("end() = %d MiB, want %d", got>>20, end)
			}
			writes, wantDir := parts[len(parts)-2], "var"
			if writes.name == handoff.StateLabel {
				wantDir = "var/upper"
			}
			if p, dir, err := table.written(); err != nil || p.start != int64(writes.start)<<20 || p.length != int64(writes.size)<<20 || int(p.number) != writes.number || dir != wantDir {
				t.Errorf("written() = %+v, %q, %v, want partition %d at %d MiB with %d, and %q", p, dir, err, writes.number, writes.start, writes.size, wantDir)
			}
			const size = 1 << 30
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			if err := table.grow(size); err != nil {
				t.Fatal(err)
			}
			if err := table.write(f, size); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("sgdisk", "--verify", "--print", image).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "No problems found") {
				t.Errorf("sgdisk: %v: %s", err, out)
			}
			for _, p := range parts {
				stop := (p.start+p.size)*2048 - 1
				if p.name == "phi-data" {
					stop = 1023*2048 - 1
				}
				if want := fmt.Sprintf("%d %d %d", p.number, p.start*2048, stop); !strings.Contains(fields(string(out)), want) {
					t.Errorf("sgdisk prints\n%s\nwant partition %s at %s", out, p.name, want)
				}
			}
		})
	}
}

// fields is a text with one blank between its words.
func fields(s string) string { return strings.Join(strings.Fields(s), " ") }
