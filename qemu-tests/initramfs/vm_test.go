package initramfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/vm"
	"ward/initramfs/handoff"
)

// sight mirrors what the witness prints.
type sight struct {
	Mounts  string
	Cmdline string
	Report  handoff.Report
	Mapped  map[string]struct{ UUID, Link, First, Err string }
	Udev    map[string]string
	Left    []string
	Args    []string
	FDs     []string
	Klog    string
	Modules string
}

// machine is a machine to start: a kernel, an initramfs and disks.
type machine struct {
	initramfs string
	disk      string
	bus       string // of the disk: virtio (default), nvme, scsi
	key       string // image of the key device; "" is none
	keyBus    string
	append    string // more of the kernel line
	disks     []vm.Disk
	tpm       string   // folder of the TPM's state; "" is no TPM
	qemu      []string // more arguments
	wait      bool     // the witness waits instead of switching off
}

// running is a machine that runs.
type running struct {
	*vm.VM
	witness string
}

// bootLimit is how long a machine may take under TCG on a busy host, kernelLimit how
// long its kernel until it starts init, which takes it 3 seconds.
const (
	bootLimit   = 5 * time.Minute
	kernelLimit = 90 * time.Second
)

// start starts a machine. Under TCG a kernel can stop while it sets up its clocks, once
// in some hundred times, and nothing of ours has run then: it is started once more.
func start(t *testing.T, m machine) (context.Context, *running) {
	t.Helper()
	ctx, r := power(t, m)
	kernel, cancel := context.WithTimeout(ctx, kernelLimit)
	defer cancel()
	if _, err := r.Expect(kernel, "Run /init as init process"); errors.Is(err, context.DeadlineExceeded) {
		t.Logf("the kernel stopped before it started init, and is started once more: %v", err)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		return power(t, m)
	}
	return ctx, r
}

func power(t *testing.T, m machine) (context.Context, *running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	t.Cleanup(cancel)
	r := &running{witness: filepath.Join(t.TempDir(), "witness")}
	line := "root=PARTUUID=" + rootPartUUID + " ro console=ttyS0 panic=-1 no_timer_check " + m.append
	if m.wait {
		line += " witness=wait"
	}
	var err error
	r.VM, err = vm.Start(ctx, vm.Config{
		Firmware: "direct", Kernel: assets.kernel, Initrd: m.initramfs, Append: line,
		Image: m.disk, Bus: m.bus, Key: m.key, KeyBus: m.keyBus, Disks: m.disks,
		TPM: m.tpm != "", State: m.tpm, MemoryMB: 512, NoReboot: true,
		// The second serial line is the witness's.
		Extra: append([]string{"-chardev", "file,id=witness,path=" + r.witness, "-serial", "chardev:witness"}, m.qemu...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console ends with:\n%s", strings.Join(r.Tail(60), "\n"))
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, r
}

// boot starts a machine, waits until it has switched itself off, and returns what
// the witness saw and the console. If root was not reached the sight is nil.
func boot(t *testing.T, m machine) (*sight, string) {
	t.Helper()
	ctx, r := start(t, m)
	return r.finish(ctx, t)
}

// finish waits until the machine has switched itself off.
func (r *running) finish(ctx context.Context, t *testing.T) (*sight, string) {
	t.Helper()
	select {
	case <-r.Done():
	case <-ctx.Done():
		t.Fatalf("the machine did not switch itself off in %s", bootLimit)
	}
	if strings.Contains(r.ConsoleText(), "Kernel panic") {
		t.Fatal("the kernel panicked")
	}
	return r.sight(t), r.ConsoleText()
}

func (r *running) sight(t *testing.T) *sight {
	t.Helper()
	data, err := os.ReadFile(r.witness)
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	var s sight
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatalf("witness: %v in %.200q", err, data)
	}
	return &s
}

// config is the configuration that most tests use.
func config(sources ...handoff.Source) handoff.Config {
	if sources == nil {
		sources = []handoff.Source{{Type: "device", Label: handoff.KeyLabel}}
	}
	return handoff.Config{
		Version: handoff.Version, OnFailure: handoff.Degrade, Sources: sources,
		Volumes: []handoff.Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}},
	}
}

// expect fails the test unless the machine came up and its first volume is in the
// given state for the given reason.
func expect(t *testing.T, s *sight, console string, state handoff.State, reason string) handoff.VolumeReport {
	t.Helper()
	if s == nil {
		t.Fatal("root was not reached")
	}
	if len(s.Report.Volumes) == 0 {
		t.Fatal("init left no report of a volume")
	}
	v := s.Report.Volumes[0]
	if v.State != state || !strings.Contains(v.Reason, reason) {
		t.Errorf("volume is %s because %q, want %s because %q", v.State, v.Reason, state, reason)
	}
	if state == handoff.StateOpened {
		checkMapped(t, s, "phi-data")
		return v
	}
	if len(s.Mapped) != 0 {
		t.Errorf("%d volumes are mapped, want none", len(s.Mapped))
	}
	if line := fmt.Sprintf("ward-init: %s is not open (%s): ", v.Name, state); !strings.Contains(console, line) {
		t.Errorf("the console has no line %q", line)
	}
	return v
}

func checkMapped(t *testing.T, s *sight, name string) {
	t.Helper()
	got, ok := s.Mapped[name]
	if !ok {
		t.Fatalf("%s is not mapped", name)
	}
	if want := fmt.Sprintf("%x", marker); got.First != want {
		t.Errorf("%s begins with %s (%s), want %s", name, got.First, got.Err, want)
	}
	if !strings.HasPrefix(got.UUID, "CRYPT-LUKS") || !strings.HasSuffix(got.UUID, "-"+name) {
		t.Errorf("dm uuid %q, want CRYPT-LUKSn-...-%s as cryptsetup makes", got.UUID, name)
	}
	if !strings.HasPrefix(got.Link, "../dm-") {
		t.Errorf("/dev/mapper/%s -> %q, want ../dm-N", name, got.Link)
	}
	found := false
	for _, text := range s.Udev {
		found = found || strings.Contains(text, "E:DM_NAME="+name+"\n") && strings.Contains(text, "E:DM_UDEV_PRIMARY_SOURCE_FLAG=1\n")
	}
	if !found {
		t.Errorf("udev's database does not know %s: %v", name, s.Udev)
	}
}
