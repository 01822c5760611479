package qemutests

import (
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/pxe"
	"ward/builder/vm"
)

// TestPXELive: a machine loads root into memory at each boot and has an empty disk
// for patients' data alone. The first boot makes the volume on it, every safeguard
// holds; the next boot is another machine with the same data. A set that somebody
// has changed, and too little memory, are refused with the reason.
func TestPXELive(t *testing.T) {
	t.Parallel()
	i, f := image(t), fixture(t)
	dir := t.TempDir()
	init := filepath.Join(dir, "ward-netboot")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", init, "ward/initramfs/cmd/netboot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the init: %v: %s", err, out)
	}
	keys, set := filepath.Join(dir, "keys"), filepath.Join(dir, "set")
	if err := pxe.NewKeys(keys, []string{vm.HostAddr, "127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if err := pxe.Export(t.Context(), pxe.Options{
		Image: i.Dir, Output: set, Init: init, Live: true, Secret: filepath.Join(keys, pxe.SecretFile), CA: filepath.Join(keys, pxe.CAFile),
		Machines: []string{pxeMAC + "=" + f.Ignition + "@blank"}, Log: slog.New(slog.DiscardHandler),
	}); err != nil {
		t.Fatal(err)
	}
	srv, log := serve(t, pxe.Service{Dir: set, Cert: filepath.Join(keys, pxe.CertFile), Key: filepath.Join(keys, pxe.KeyFile)})
	_, port, err := net.SplitHostPort(srv.HTTPAddr)
	if err != nil {
		t.Fatal(err)
	}
	disk := blankDisk(t, "patients", "1G")
	b := &bootBench{f: f, c: vm.Config{
		NetBoot: "http://" + net.JoinHostPort(vm.HostAddr, port) + "/" + pxe.ScriptFile, MAC: pxeMAC,
		Disks: []vm.Disk{disk}, Key: f.Key, MemoryMB: 3072,
	}}
	b.up(t)
	for _, want := range []string{"made a partition for patients' data on vd", "starts " + i.Manifest.Image + " from memory"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the server's log has no %q", want)
		}
	}
	if out := run(t, b.m, b.root, "findmnt -n -o SOURCE /; losetup --noheadings --output BACK-FILE /dev/loop0; findmnt -n -o SOURCE /var/data/phi"); !strings.HasPrefix(out, "/dev/loop0") || !strings.Contains(out, "/dev/mapper/phi-data") {
		t.Errorf("root and PHI are %q", out)
	}
	id := run(t, b.m, b.root, "echo 'PHI of patient 4711' > "+phiFile+"; sync; cat /etc/machine-id")
	b.down(t)

	t.Log("the next boot: another machine, the same data")
	b.up(t)
	if out := run(t, b.m, b.root, "cat "+phiFile); !strings.Contains(out, "4711") {
		t.Errorf("PHI is %q", out)
	}
	if again := run(t, b.m, b.root, "cat /etc/machine-id"); again == id || len(again) < 32 {
		t.Errorf("the machine's id is %q, and was %q", again, id)
	}
	if out, code, err := b.root.Run(within(t, b.m, time.Minute), "wardctl initramfs $(uname -r) 2>&1"); err != nil || code == 0 || !strings.Contains(out, "root is in memory") {
		t.Errorf("wardctl initramfs: exit code %d, %v, want that it is refused: %s", code, err, out)
	}
	b.down(t)

	// Refused without firmware and iPXE, which have had their turn.
	refused := func(t *testing.T, memory int, reason string) {
		t.Helper()
		c := direct(set, httpsURL(srv), "", disk) // it has its partition by now
		c.MemoryMB = memory
		m := start(t, c)
		expect(t, m, 5*time.Minute, `ward-init: the machine is switched off: root: live: .*`+reason)
		if !strings.Contains(log.String(), "refused: live: ") {
			t.Error("the server's log does not say that it is refused")
		}
	}
	t.Run("LittleMemory", func(t *testing.T) {
		refused(t, 768, `root takes up to \d+ MiB of memory and the system 512 more; \d+ are free`)
	})
	t.Run("ChangedImage", func(t *testing.T) {
		name := filepath.Join(set, "disk.zst")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, 3072, `chunk \d+`)
	})
}
