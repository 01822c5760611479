package initramfs_test

import (
	"strings"
	"testing"
	"time"

	"ward/initramfs/handoff"
)

// TestSlowDevice plugs in the disk with PHI and the key device five seconds after
// root is there.
func TestSlowDevice(t *testing.T) {
	k := newKeys(t)
	phi := disk(t, phiPart(luks(t, k)))
	key := keyDevice(t, "ext4", map[string][]byte{"phi-data.key": k.file})
	ctx, r := start(t, machine{
		initramfs: buildInitramfs(t, config(handoff.Source{Type: "device", Label: handoff.KeyLabel, TimeoutMS: 30_000})),
		disk:      disk(t, rootPart(rootFS(t, nil))), bus: "scsi",
	})
	if _, err := r.Expect(ctx, "ward-init: root is mounted"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // the subject of the test, not a wait for something
	for _, d := range []struct{ id, file string }{{"slow-phi", phi}, {"slow-key", key}} {
		if err := r.QMP(ctx, "blockdev-add", map[string]any{"node-name": d.id, "driver": "raw", "file": map[string]any{"driver": "file", "filename": d.file}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := r.QMP(ctx, "device_add", map[string]any{"driver": "scsi-hd", "bus": "scsi.0", "drive": d.id, "id": d.id + "-dev"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, console := r.finish(ctx, t)
	v := expect(t, s, console, handoff.StateOpened, "")
	if !strings.HasPrefix(v.Device, "/dev/sd") {
		t.Errorf("PHI is on %s, want the disk that was plugged in", v.Device)
	}
	for _, tm := range s.Report.Timings {
		if tm.Phase == "phi-data" && tm.EndUS < 5_000_000 {
			t.Errorf("the volume was open after %d ms, before its disk was there", tm.EndUS/1000)
		}
	}
}

// TestSourceTimeouts has two sources that never answer before the one that does.
func TestSourceTimeouts(t *testing.T) {
	k := newKeys(t)
	c := config(
		handoff.Source{Type: "device", Label: "NO-SUCH-LABEL", TimeoutMS: 1500},
		handoff.Source{Type: "device", PartUUID: "33333333-52a1-4a6f-9f0e-8d5b7a3c6e05", TimeoutMS: 500},
		handoff.Source{Type: "fw_cfg"},
	)
	s, console := boot(t, machine{
		initramfs: buildInitramfs(t, c), disk: disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k))),
		qemu: fwCfg(t, "phi-data.key", k.file),
	})
	v := expect(t, s, console, handoff.StateOpened, "")
	if v.KeySource != "fw_cfg" {
		t.Errorf("the key came from %q, want fw_cfg", v.KeySource)
	}
	for _, tm := range s.Report.Timings {
		if took := time.Duration(tm.EndUS-tm.StartUS) * time.Microsecond; tm.Phase == "phi-data" && took < 2*time.Second {
			t.Errorf("the volume was open after %s: the time limits of two sources, 2 s, have not been waited for", took)
		}
	}
}

// TestAllSourcesFail names each source with its reason.
func TestAllSourcesFail(t *testing.T) {
	k := newKeys(t)
	c := config(
		handoff.Source{Type: "device", Label: handoff.KeyLabel, TimeoutMS: 1000},
		handoff.Source{Type: "fw_cfg"}, handoff.Source{Type: "smbios"},
	)
	s, console := boot(t, machine{initramfs: buildInitramfs(t, c), disk: disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k)))})
	v := expect(t, s, console, handoff.StateLocked, "no source has the key")
	for _, want := range []string{"device: no answer in 1s", "fw_cfg: ", "smbios: no OEM string"} {
		if !strings.Contains(v.Reason, want) {
			t.Errorf("the reason %q lacks %q", v.Reason, want)
		}
	}
}
