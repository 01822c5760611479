package firstboot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/initramfs/handoff"
	"ward/profiles"
)

// TestOneOfTwoVolumesIsLocked: the other is made and ready all the same, each with
// what became of it; a profile that says halt stops for either.
func TestOneOfTwoVolumesIsLocked(t *testing.T) {
	b := newBench(t)
	b.facts.Profile.Controls.PHI.Volumes = []profiles.Volume{{Name: "archive", Mount: "/var/data/archive"}}
	report := handoff.Report{Version: handoff.Version, Volumes: []handoff.VolumeReport{
		b.report,
		{Name: "archive", PartUUID: "0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d02", State: handoff.StateLocked, Reason: "the key opens none of the 1 slots that were tried"},
	}}
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "run/ward/handoff.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.prepareVolumes(t.Context()); err != nil {
		t.Fatalf("prepareVolumes() = %v, want the boot to go on", err)
	}
	states, err := b.Volumes()
	if err != nil || len(states) != 2 {
		t.Fatalf("Volumes() = %+v, %v, want two", states, err)
	}
	if s := states[0]; s.Name != "phi-data" || !s.Ready {
		t.Errorf("phi-data is %+v, want ready", s)
	}
	if s := states[1]; s.Name != "archive" || s.Ready || !strings.Contains(s.Reason, "opens none of the 1 slots") || s.Hint == "" {
		t.Errorf("archive is %+v, want absent with its reason and what to do", s)
	}
	pins, err := b.pins()
	if _, ok := pins.Find("phi-data"); err != nil || !ok || len(pins.Volumes) != 1 {
		t.Errorf("pins = %+v, %v, want that of phi-data alone", pins, err)
	}

	b.facts.Profile.Controls.PHI.OnFailure = handoff.Halt
	b.reboot()
	report.Volumes[0].State = handoff.StateOpened
	if raw, err = json.Marshal(report); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "run/ward/handoff.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.prepareVolumes(t.Context()); err == nil || !strings.Contains(err.Error(), "volume archive: locked") {
		t.Errorf("prepareVolumes() = %v, want an error that archive is locked", err)
	}
}

// TestHintsNameTheVolume: a command in a hint is about the volume in question.
func TestHintsNameTheVolume(t *testing.T) {
	b := newBench(t)
	for name, want := range map[string]string{"phi-data": "`wardctl key status` shows", "archive": "`wardctl key status --volume archive` shows"} {
		if err := writeJSON(b.root, reencryptionPath(name), reencryption{Volume: name}, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.settled(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("settled(%s) = %v, want a hint with %s", name, err, want)
		}
	}
}
