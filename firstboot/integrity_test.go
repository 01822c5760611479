package firstboot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// Apply takes over into the integrity database only when it may have changed
// something: on every other boot a changed file has to stay found.
func TestChangesFiles(t *testing.T) {
	for name, c := range map[string]struct {
		database, stamped bool
		state             handoff.State
		want              bool
	}{
		"first boot, no database yet":     {false, false, handoff.StateBlank, false},
		"nothing to do":                   {true, true, handoff.StateOpened, false},
		"locked":                          {true, true, handoff.StateLocked, false},
		"a step for a new config":         {true, false, handoff.StateOpened, true},
		"a volume that is formatted late": {true, true, handoff.StateBlank, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			put := func(name string, b []byte) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			report, err := json.Marshal(handoff.Report{Version: handoff.Version, Volumes: []handoff.VolumeReport{{Name: "phi-data", State: c.state}}})
			if err != nil {
				t.Fatal(err)
			}
			put(handoff.ReportPath, report)
			if c.database {
				put(control.IntegrityDB, nil)
			}
			steps := []Step{{Name: "one"}, {Name: "two", Always: true}}
			st := &stamper{root: root, inputs: "x", now: time.Now}
			if c.stamped {
				if err := st.mark("one"); err != nil {
					t.Fatal(err)
				}
			}
			got, err := (&Machine{root: root}).changesFiles(steps, st)
			if err != nil || got != c.want {
				t.Errorf("changesFiles() = %v, %v, want %v", got, err, c.want)
			}
		})
	}
}
