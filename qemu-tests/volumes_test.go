package qemutests

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/images"
	"ward/initramfs/handoff"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// archive is a PHI volume beside phi-data; systemd has to escape its mount's name.
const (
	archive     = "archive"
	archiveAt   = "/var/data/old-archive"
	twoVolumes  = "name: two-volumes\nextends: hipaa\ncontrols:\n  phi:\n    volumes: [{name: " + archive + ", mount: " + archiveAt + "}]\n"
	archiveSize = 64 * images.MiB
)

// bakeTwo bakes the image under test with a partition for the further volume.
func bakeTwo(t *testing.T) *proof.Image {
	t.Helper()
	img, err := images.Load(image(t).Manifest.Image)
	if err != nil {
		t.Fatal(err)
	}
	img.Disk.Volumes = map[string]images.Size{archive: archiveSize}
	text, err := json.MarshalIndent(img, "", "  ") // JSON is YAML too
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return bake(t, file, twoVolumes)
}

// changedKeys copies a key device and has debugfs change the copy.
func changedKeys(t *testing.T, from string, commands ...string) string {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.img")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program(t, "debugfs"), "-w", "-f", "-", file)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	return file
}

// TestManyPHIVolumes makes two PHI volumes on the first boot, finds what was written
// to both after a reboot, and then takes the key of one of them away, and of the
// other: each time only that one is absent, and verify says so of it alone.
func TestManyPHIVolumes(t *testing.T) {
	t.Parallel()
	image(t)
	program(t, "debugfs")
	i := bakeTwo(t)
	f, err := proof.NewFixture(t.Context(), t.TempDir(), i, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	mounts := map[string]string{}
	for _, v := range i.Volumes() {
		mounts[v.Name] = v.Mount
	}
	if len(mounts) != 2 || mounts[archive] != archiveAt {
		t.Fatalf("the image has the volumes %v, want phi-data and %s", mounts, archive)
	}
	c := f.VM(i)
	c.State = filepath.Join(t.TempDir(), "machine")
	m := start(t, c)
	r := verdict(t, m, "")
	allPass(t, r)
	states(t, r, handoff.StateBlank, handoff.StateBlank)
	// What is asked of one is asked of the other.
	own, further := split(r, "phi")
	if len(own) == 0 || len(own) != len(further) {
		t.Errorf("verify has %d findings about phi-data and %d about %s", len(own), len(further), archive)
	}
	if _, further := split(r, "audit"); len(further) != 1 {
		t.Errorf("audit has %d findings about %s, want that a read of it is found", len(further), archive)
	}

	root := rootShell(t, m, f)
	marks := map[string]string{}
	for name, mount := range mounts {
		marks[name] = secret(t)
		run(t, m, root, fmt.Sprintf("set -e; umask 077; printf %%s %s >%s/MARK; sync", marks[name], mount))
	}
	uuids := run(t, m, root, "for p in phi-data archive; do cryptsetup luksUUID $(blkid -t PARTLABEL=$p -o device); done | sort -u | wc -l")
	if strings.TrimSpace(uuids) != "2" {
		t.Errorf("the two partitions have %s LUKS UUIDs", strings.TrimSpace(uuids))
	}
	// By place: ESP, archive, root, phi-data.
	if order := run(t, m, root, "lsblk -nro PARTLABEL,START,TYPE $(findmnt -no SOURCE / | sed 's/p\\?[0-9]*$//') | grep part | sort -k2n | cut -d' ' -f1 | xargs"); strings.TrimSpace(order) != "esp archive root phi-data" {
		t.Errorf("the partitions lie in the order %q", strings.TrimSpace(order))
	}
	if out := run(t, m, root, "wardctl key status --volume "+archive); !strings.Contains(out, "volume archive (") || !strings.Contains(out, "key file found: device") {
		t.Errorf("key status printed %q", out)
	}
	runFor(t, m, root, 5*time.Minute, "wardctl backup run && wardctl drill")
	var drilled struct {
		OK     bool
		Mounts []string
	}
	if err := json.Unmarshal([]byte(run(t, m, root, "cat /var/lib/ward/drill.json")), &drilled); err != nil || !drilled.OK || len(drilled.Mounts) != 2 {
		t.Errorf("the drill was %+v, %v, want both volumes", drilled, err)
	}

	if err := proof.Reboot(t.Context(), m, f); err != nil {
		t.Fatal(err)
	}
	r = verdict(t, m, r.BootID)
	allPass(t, r)
	states(t, r, handoff.StateOpened, handoff.StateOpened)
	root = rootShell(t, m, f)
	for name, mount := range mounts {
		if got := run(t, m, root, "cat "+mount+"/MARK"); got != marks[name] {
			t.Errorf("%s has the mark %q after the reboot, want %q", name, got, marks[name])
		}
	}
	powerDown(t, m)
	m.Close()

	t.Run("NoKeyOfOne", func(t *testing.T) {
		c.Key = changedKeys(t, f.Key, "rm archive.key")
		m := start(t, c)
		r := verdict(t, m, r.BootID)
		states(t, r, handoff.StateOpened, handoff.StateLocked)
		if reason := r.Init.Volumes[1].Reason; !strings.Contains(reason, "no source has the key") {
			t.Errorf("init says of %s: %q, want that no source has its key", archive, reason)
		}
		if r.Applied != "done" {
			t.Errorf("apply: %s", r.Applied)
		}
		// Red are the findings about the one, all of them, and no other.
		seen := 0
		for _, x := range r.Findings {
			about := strings.HasPrefix(x.Setting, archive+": ")
			if about {
				seen++
			}
			if pass := x.Status == control.Pass; pass == about {
				t.Errorf("with %s locked: %s", archive, proof.Line(x))
			}
		}
		if seen == 0 {
			t.Errorf("verify says nothing of %s", archive)
		}
		absent(t, r, archive+": ", "/dev/mapper/archive", archiveAt)
		root := rootShell(t, m, f)
		if got := run(t, m, root, "cat "+phi+"/MARK"); got != marks["phi-data"] {
			t.Errorf("phi-data has the mark %q, want %q", got, marks["phi-data"])
		}
		if out := run(t, m, root, "touch "+archiveAt+"/x 2>&1 || true; ls -A "+archiveAt); !strings.Contains(out, "Operation not permitted") || strings.Contains(out, "\nx") {
			t.Errorf("the bare mount point takes files: %q", out)
		}
		// The one that is there is copied, and the run says what is missing.
		out, code, err := root.Run(within(t, m, 5*time.Minute), "wardctl backup run 2>&1")
		if err != nil || code == 0 || !strings.Contains(out, archiveAt+" is not mounted") {
			t.Errorf("backup run: exit code %d, %v: %q, want a failure that names %s", code, err, out, archiveAt)
		}
		if out := run(t, m, root, "cat /var/lib/ward/backup.json"); !strings.Contains(out, `"kind": "absent"`) {
			t.Errorf("the state of the backup is %s, want the kind absent", out)
		}
		powerDown(t, m)
		m.Close()
	})
	t.Run("WrongKeyOfTheOther", func(t *testing.T) {
		wrong := make([]byte, 64)
		rand.Read(wrong)
		file := filepath.Join(t.TempDir(), "wrong")
		if err := os.WriteFile(file, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		c.Key = changedKeys(t, f.Key, "rm phi-data.key", "write "+file+" phi-data.key", "sif phi-data.key mode 0100400")
		m := start(t, c)
		r := verdict(t, m, r.BootID)
		states(t, r, handoff.StateLocked, handoff.StateOpened)
		if reason := r.Init.Volumes[0].Reason; !strings.Contains(reason, "the key opens none of") {
			t.Errorf("init says of phi-data: %q, want that the key does not fit", reason)
		}
		own, further := split(r, "phi")
		for _, x := range own {
			if x.Status == control.Pass {
				t.Errorf("with phi-data locked: %s", proof.Line(x))
			}
		}
		for _, x := range further {
			if x.Status != control.Pass {
				t.Errorf("with phi-data locked: %s", proof.Line(x))
			}
		}
		absent(t, r, "", "/dev/mapper/phi-data", phi)
		powerDown(t, m)
		m.Close()
	})
	t.Run("BothKeysAgain", func(t *testing.T) {
		c.Key = f.Key
		m := start(t, c)
		r := verdict(t, m, r.BootID)
		states(t, r, handoff.StateOpened, handoff.StateOpened)
		for _, id := range []string{"phi", "fscrypt"} {
			for _, x := range findings(r, id) {
				if x.Status != control.Pass {
					t.Error(proof.Line(x))
				}
			}
		}
		root := rootShell(t, m, f)
		for name, mount := range mounts {
			if got := run(t, m, root, "cat "+mount+"/MARK"); got != marks[name] {
				t.Errorf("%s has the mark %q at the end, want %q", name, got, marks[name])
			}
		}
		powerDown(t, m)
	})
}

// states expects what init did with phi-data and with the further volume.
func states(t *testing.T, r *evidence.Report, data, further handoff.State) {
	t.Helper()
	if r.Init == nil || len(r.Init.Volumes) != 2 {
		t.Fatalf("init left no word of two volumes: %+v", r.Init)
	}
	for i, want := range []handoff.VolumeReport{{Name: "phi-data", State: data}, {Name: archive, State: further}} {
		if got := r.Init.Volumes[i]; got.Name != want.Name || got.State != want.State {
			t.Errorf("init reports %+v, want %s %s", got, want.Name, want.State)
		}
	}
}

// split is the findings of a control about phi-data and what has no volume's name,
// and those about the further volume.
func split(r *evidence.Report, id string) (own, further []control.Finding) {
	for _, f := range findings(r, id) {
		if strings.HasPrefix(f.Setting, archive+": ") {
			further = append(further, f)
		} else {
			own = append(own, f)
		}
	}
	return own, further
}

// absent expects the reason in the findings of a volume that is not there.
func absent(t *testing.T, r *evidence.Report, prefix, device, mount string) {
	t.Helper()
	for setting, want := range map[string]string{
		"mapping": "absent: " + device + " is not mapped", "pin": "absent: " + device + " is not mapped",
		"mount": mount + " is not mounted", "strangers": mount + " is not mounted",
	} {
		seen := false
		for _, f := range findings(r, "phi") {
			if f.Setting == prefix+setting {
				seen = true
				if f.Got != want {
					t.Errorf("%s: got %q, want %q", f.Setting, f.Got, want)
				}
			}
		}
		if !seen {
			t.Errorf("there is no finding %q", prefix+setting)
		}
	}
}
