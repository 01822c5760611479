package backup

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/profiles"
	"ward/profiles/machine"
)

// TestVolumes copies two folders with the real restic, then one of them alone, as
// when a volume is absent, and brings each back from the last snapshot that has it.
func TestVolumes(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	b, err := Open(Config{
		Repository: &machine.Backup{Repository: filepath.Join(dir, "repository"), Password: "not a real one"},
		Host:       "clinic", Tag: "hipaa-backup", CheckParts: 1, StateFile: filepath.Join(dir, "state.json"), Runtime: dir, Cache: filepath.Join(dir, "cache"),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// One name begins like the other: what is left out must not be more than is meant.
	phi, old := filepath.Join(dir, "phi"), filepath.Join(dir, "phi-old")
	put := func(name, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o750), os.WriteFile(name, []byte(content), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	put(phi+"/a", "first")
	put(old+"/sub/b", "scan")
	if _, err := b.Run(t.Context(), phi, old); err != nil {
		t.Fatal(err)
	}
	put(phi+"/a", "second")
	state, err := b.RunWithout(t.Context(), errors.New(old+" is not mounted"), phi)
	if err == nil || state.Kind != Absent || !strings.Contains(state.Error, old+" is not mounted") {
		t.Errorf("RunWithout() = %+v, %v, want the kind absent and which is", state, err)
	}
	none, err := b.RunWithout(t.Context(), errors.New("nothing is mounted"))
	if err == nil || none.Kind != Absent || none.Snapshot != state.Snapshot || !none.Success.Equal(state.Success) {
		t.Errorf("RunWithout() of nothing = %+v, %v, want the kind absent and the copies that were", none, err)
	}

	both, err := b.Latest(t.Context(), old)
	if err != nil || both == nil {
		t.Fatalf("Latest(%s) = %v, %v", old, both, err)
	}
	last, err := b.Latest(t.Context(), phi)
	if err != nil || last == nil || last.ID == both.ID || !slices.Equal(last.Paths, []string{phi}) || !slices.Equal(both.Others(old), []string{phi}) {
		t.Fatalf("Latest(%s) = %+v, %v, want the second snapshot; the first is %+v", phi, last, err, both)
	}
	if s, err := b.Latest(t.Context(), filepath.Join(dir, "other")); err != nil || s != nil {
		t.Errorf("Latest() of what was never copied = %+v, %v, want none", s, err)
	}

	target := t.TempDir()
	for path, s := range map[string]*Snapshot{phi: last, old: both} {
		if err := b.Restore(t.Context(), s, target, s.Others(path)...); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{phi + "/a": "second", old + "/sub/b": "scan"} {
		if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(got) != want {
			t.Errorf("%s is back as %q, %v, want %q", name, got, err, want)
		}
	}
	alone := t.TempDir()
	if err := b.Restore(t.Context(), both, alone, both.Others(old)...); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(alone, phi)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other volume came back too: %v", err)
	}
}

func TestChosen(t *testing.T) {
	all := []profiles.Volume{{Name: "phi-data", Mount: "/var/data/phi"}, {Name: "archive", Mount: "/srv/archive"}}
	if got, err := chosen(all, ""); err != nil || len(got) != 2 {
		t.Errorf("chosen(all) = %v, %v", got, err)
	}
	if got, err := chosen(all, "archive"); err != nil || len(got) != 1 || got[0] != all[1] {
		t.Errorf("chosen(archive) = %v, %v", got, err)
	}
	if got, err := chosen(all, "archiv"); err == nil || !strings.Contains(err.Error(), `volume "archiv": there is none`) || !strings.Contains(err.Error(), "there are: phi-data, archive") {
		t.Errorf("chosen(archiv) = %v, %v, want an error that names those that are there", got, err)
	}
}

// TestMounted: a folder that is no mount point is named as absent.
func TestMounted(t *testing.T) {
	dir := t.TempDir()
	there, absent := mounted([]profiles.Volume{{Name: "phi-data", Mount: "/proc"}, {Name: "archive", Mount: dir}})
	if !slices.Equal(there, []string{"/proc"}) || absent == nil || !strings.Contains(absent.Error(), dir+" is not mounted") {
		t.Errorf("mounted() = %v, %v, want /proc, and %s absent", there, absent, dir)
	}
}
