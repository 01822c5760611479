package drill

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/firstboot/backup"
	"ward/profiles/machine"
)

// TestVolumes drills two folders with the real restic, each on itself, and finds
// what differs in the second.
func TestVolumes(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	b, err := backup.Open(backup.Config{
		Repository: &machine.Backup{Repository: filepath.Join(dir, "repository"), Password: "not a real one"},
		Host:       "clinic", Tag: "hipaa-backup", CheckParts: 1, StateFile: filepath.Join(dir, "state.json"), Runtime: dir, Cache: filepath.Join(dir, "cache"),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	live := []string{filepath.Join(dir, "phi"), filepath.Join(dir, "phi-old")}
	for i, at := range live {
		if err := errors.Join(os.Mkdir(at, 0o750), os.WriteFile(filepath.Join(at, "file"), []byte(strings.Repeat("x", 1000*(i+1))), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Run(t.Context(), live...); err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(dir, "drill.json")
	r, err := Run(t.Context(), b, report, live...)
	if err != nil || !r.OK || r.Bytes != 3000 || r.LiveBytes != 3000 || !slices.Equal(r.Mounts, live) || r.Snapshot == "" {
		t.Errorf("Run() = %+v, %v, want both folders with 3000 bytes", r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "phi*", ".ward-*")); len(left) != 0 {
		t.Errorf("the drill left %v", left)
	}

	// Other bytes under the time that the file had: nobody wrote it, and it differs.
	file := filepath.Join(live[1], "file")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(file, []byte(strings.Repeat("y", 2000)), 0o640), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if r, err := Run(t.Context(), b, report, live...); err == nil || r.OK || len(r.Differences) != 1 || !strings.HasPrefix(r.Differences[0], file+": restored bytes differ") {
		t.Errorf("Run() = %+v, %v, want the difference in %s", r, err, file)
	}
	if r, err := Run(t.Context(), b, report, live[0], filepath.Join(dir, "new")); err == nil || !strings.Contains(err.Error(), "no snapshot of "+filepath.Join(dir, "new")) {
		t.Errorf("Run() = %+v, %v, want an error that a folder was never copied", r, err)
	}
}
