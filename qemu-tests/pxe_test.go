package qemutests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/pxe"
	"ward/builder/vm"
	"ward/initramfs/netimage"
)

// pxeMAC is by which the manifest knows the machine.
const pxeMAC = "52:54:00:77:61:72"

// netSet is an export of the image under test, made once, for machines of the
// address pxeMAC with the config of its fixture.
var netSet struct {
	once      sync.Once
	dir, keys string
	fixture   *proof.Fixture
	scratch   string // removed when all tests have run
	err       error
}

// exported makes the set that the tests install from.
func exported(t *testing.T) (dir, keys string) {
	t.Helper()
	i := image(t)
	netSet.once.Do(func() {
		netSet.err = func() error {
			base, err := os.MkdirTemp("", "ward-pxe-")
			if err != nil {
				return err
			}
			netSet.scratch = base
			init := filepath.Join(base, "ward-netboot")
			build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", init, "ward/initramfs/cmd/netboot")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("build the init: %w: %s", err, out)
			}
			netSet.keys = filepath.Join(base, "keys")
			if err := pxe.NewKeys(netSet.keys, []string{vm.HostAddr, "127.0.0.1"}); err != nil {
				return err
			}
			// It outlives the test that is first: the others' machines use its lab too.
			if netSet.fixture, err = proof.NewFixture(context.WithoutCancel(t.Context()), base, i, slog.New(slog.DiscardHandler)); err != nil {
				return err
			}
			netSet.dir = filepath.Join(base, "set")
			return pxe.Export(context.WithoutCancel(t.Context()), pxe.Options{
				Image: i.Dir, Output: netSet.dir, Init: init,
				Secret: filepath.Join(netSet.keys, pxe.SecretFile), CA: filepath.Join(netSet.keys, pxe.CAFile),
				Machines: []string{pxeMAC + "=" + netSet.fixture.Ignition}, Log: slog.New(slog.DiscardHandler),
			})
		}()
	})
	if netSet.err != nil {
		t.Fatal(netSet.err)
	}
	return netSet.dir, netSet.keys
}

// logText is a log that a test reads.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve serves a set until the test ends.
func serve(t *testing.T, s pxe.Service) (*pxe.Server, *logText) {
	t.Helper()
	log := &logText{}
	s.Address, s.Public, s.TFTP, s.DHCP = "127.0.0.1", vm.HostAddr, -1, -1
	s.Log = slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil))
	srv, err := pxe.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return srv, log
}

// blankDisk makes an empty disk.
func blankDisk(t *testing.T, name, size string) vm.Disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file, size).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	return vm.Disk{File: file, Format: "qcow2", Serial: name}
}

// direct is a machine that starts the installing initramfs without firmware.
func direct(set, url, more string, disks ...vm.Disk) vm.Config {
	return vm.Config{
		Firmware: "direct", Kernel: filepath.Join(set, pxe.KernelFile), Initrd: filepath.Join(set, pxe.InitrdFile),
		Append: "console=ttyS0 loglevel=7 panic=-1 ward.url=" + url + " " + more,
		Disks:  disks, MAC: pxeMAC, MemoryMB: 1024, NoReboot: true,
	}
}

func httpsURL(s *pxe.Server) string {
	_, port, _ := net.SplitHostPort(s.HTTPSAddr)
	return "https://" + net.JoinHostPort(vm.HostAddr, port) + "/"
}

func expect(t *testing.T, m *vm.VM, d time.Duration, re string) {
	t.Helper()
	if _, err := m.Expect(within(t, m, d), re); err != nil {
		t.Fatal(err)
	}
}

// TestPXEInstall: a machine with an empty disk boots from the network by its
// firmware and iPXE, is installed, reboots from the disk, and every safeguard holds.
func TestPXEInstall(t *testing.T) {
	set, keys := exported(t)
	srv, log := serve(t, pxe.Service{Dir: set, Cert: filepath.Join(keys, pxe.CertFile), Key: filepath.Join(keys, pxe.KeyFile)})
	_, port, err := net.SplitHostPort(srv.HTTPAddr)
	if err != nil {
		t.Fatal(err)
	}
	disk := blankDisk(t, "target", "6G")
	m := start(t, vm.Config{
		NetBoot: "http://" + net.JoinHostPort(vm.HostAddr, port) + "/" + pxe.ScriptFile, MAC: pxeMAC,
		Disks: []vm.Disk{disk}, Key: netSet.fixture.Key,
	})
	expect(t, m, 2*time.Minute, `ward-init: netboot: |ward-init: network is up`)
	expect(t, m, 2*time.Minute, `the manifest is signed by the pinned key`)
	expect(t, m, 5*time.Minute, `installed; the machine reboots`)
	r := verdict(t, m, "")
	allPass(t, r)
	if r.Digest != image(t).Manifest.Digest {
		t.Errorf("the machine runs image %s, want %s", r.Digest, image(t).Manifest.Digest)
	}
	if want := "installed debian-12 on vd"; !strings.Contains(log.String(), want) {
		t.Errorf("the server's log has no %q", want)
	}
	powerDown(t, m)
	m.Close()
	tableOf(t, disk.File, 6<<30)
}

// TestPXEPowerAndServerCut: the power goes while the disk is written, and that disk
// does not start; the installation begins anew on it, the server dies in the middle
// and comes back, and the machine passes.
func TestPXEPowerAndServerCut(t *testing.T) {
	set, keys := exported(t)
	service := pxe.Service{Dir: set, Cert: filepath.Join(keys, pxe.CertFile), Key: filepath.Join(keys, pxe.KeyFile)}
	srv, _ := serve(t, service)
	disk := blankDisk(t, "target", "6G")

	m := start(t, direct(set, httpsURL(srv), "", disk))
	expect(t, m, 5*time.Minute, `the image is as the manifest says`)
	expect(t, m, 5*time.Minute, `transfer percent=30`)
	m.Kill()
	m.Close()
	m = start(t, vm.Config{Disks: []vm.Disk{disk}})
	if err := m.Wait(within(t, m, time.Minute)); err == nil || !nothingToStart.MatchString(err.Error()) {
		t.Fatalf("the half-written disk: %v, want that the firmware finds nothing to start", err)
	}
	m.Close()

	m = start(t, direct(set, httpsURL(srv), "", disk))
	expect(t, m, 5*time.Minute, `the image is as the manifest says`)
	// What comes after the first quarter of this disk is empty, and soon all received.
	expect(t, m, 5*time.Minute, `transfer percent=10`)
	_, port, _ := net.SplitHostPort(srv.HTTPSAddr)
	if err := srv.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	expect(t, m, 5*time.Minute, `will be tried again file=disk.zst`)
	service.HTTPS, _ = strconv.Atoi(port)
	_, log := serve(t, service)
	expect(t, m, 5*time.Minute, `the transfer goes on chunk=\d+`)
	expect(t, m, 5*time.Minute, `installed; the machine reboots`)
	select {
	case <-m.Done(): // NoReboot: the reset ends QEMU
	case <-within(t, m, time.Minute).Done():
		t.Fatal("the machine does not reboot")
	}
	m.Close()
	if !strings.Contains(log.String(), `range="bytes=`) {
		t.Error("the server saw no request for a range")
	}
	tableOf(t, disk.File, 6<<30)

	m = start(t, vm.Config{Disks: []vm.Disk{disk}, Key: netSet.fixture.Key})
	allPass(t, verdict(t, m, ""))
	powerDown(t, m)
}

// nothingToStart is what OVMF says without a shell, and with one that starts instead.
var nothingToStart = regexp.MustCompile("No bootable option or device was found|UEFI Interactive Shell v")

// tableOf has sgdisk judge the table of an installed disk: no fault, the backup at
// the end of the disk, and PHI up to it.
func tableOf(t *testing.T, disk string, size int64) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "installed.raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", disk, raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	defer os.Remove(raw)
	out, err := exec.Command("sgdisk", "-v", "-p", raw).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk: %v: %s", err, out)
	}
	want := fmt.Sprintf(" %d ", size/512-2048-1)
	if !strings.Contains(string(out), want) {
		t.Errorf("no partition ends at sector %s:\n%s", want, out)
	}
}

// smallSet makes a set with a tiny image, signed by the key of the exported one.
func smallSet(t *testing.T, change func(*netimage.Manifest)) string {
	t.Helper()
	_, keys := exported(t)
	dir := t.TempDir()
	plain := make([]byte, 9<<20)
	for i := range plain {
		plain[i] = byte(i >> 12)
	}
	var packed bytes.Buffer
	d, err := netimage.Pack(&packed, bytes.NewReader(plain), int64(len(plain)))
	if err != nil {
		t.Fatal(err)
	}
	m := netimage.Manifest{Version: netimage.Version, Image: "small", Digest: "0", Made: time.Now(), Disk: d, Target: "blank"}
	if change != nil {
		change(&m)
	}
	secret, err := os.ReadFile(filepath.Join(keys, pxe.SecretFile))
	if err != nil {
		t.Fatal(err)
	}
	writeSet(t, dir, &m, secret, packed.Bytes())
	return dir
}

// TestPXERefuses: whatever is wrong is refused before the disk is touched, with the
// reason on the console and in the server's log.
func TestPXERefuses(t *testing.T) {
	set, keys := exported(t)
	otherKeys := filepath.Join(t.TempDir(), "other")
	if err := pxe.NewKeys(otherKeys, []string{vm.HostAddr}); err != nil {
		t.Fatal(err)
	}
	edit := func(name string, f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			file := filepath.Join(dir, name)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(b []byte) []byte { b[len(b)-5] ^= 1; return b }
	one := func(t *testing.T) []vm.Disk { return []vm.Disk{blankDisk(t, "one", "64M")} }
	full := func(t *testing.T) vm.Disk {
		file := filepath.Join(t.TempDir(), "full.raw")
		if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", file, "64M").CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v: %s", err, out)
		}
		return vm.Disk{File: file, Format: "raw", Serial: "full"}
	}
	for _, tt := range []struct {
		name   string
		tamper func(*testing.T, string)
		keys   string // of the server; "" are the right ones
		disks  func(*testing.T) []vm.Disk
		more   string // of the kernel line
		reason string
		log    string // what the server says, where it is not the reason
	}{
		{name: "ManifestChanged", disks: one, tamper: edit(netimage.ManifestFile, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"small"`), []byte(`"smell"`), 1)
		}), reason: "the manifest's signature is not of the pinned key: manifest or signature was changed"},
		{name: "SignatureOfAnother", disks: one, tamper: func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, netimage.ManifestFile))
			if err != nil {
				t.Fatal(err)
			}
			secret, err := os.ReadFile(filepath.Join(otherKeys, pxe.SecretFile))
			if err != nil {
				t.Fatal(err)
			}
			sig, err := netimage.Sign(secret, text, "x")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, netimage.SignatureFile), sig, 0o600); err != nil {
				t.Fatal(err)
			}
		}, reason: "the manifest's signature is not of the pinned key: it is of key"},
		{name: "SignatureCut", disks: one, tamper: edit(netimage.SignatureFile, func(b []byte) []byte { return b[:40] }),
			reason: "the manifest's signature is not of the pinned key"},
		{name: "ImageChanged", disks: one, tamper: edit(netimage.DiskFile, flip), reason: "the image was changed: chunk 2 has sha256"},
		{name: "WrongAuthority", disks: one, keys: otherKeys, reason: "the server is not of the pinned authority", log: "remote error: tls: bad certificate"},
		{name: "NoDisk", disks: func(*testing.T) []vm.Disk { return nil }, reason: "no disk: the machine has none that can be written"},
		{name: "TwoDisks", disks: func(t *testing.T) []vm.Disk { return append(one(t), blankDisk(t, "two", "64M")) },
			reason: "2 disks are blank: vd"},
		{name: "TooSmall", disks: func(t *testing.T) []vm.Disk { return []vm.Disk{blankDisk(t, "tiny", "8M")} },
			reason: "(serial tiny) is too small: it has 8388608 bytes, the image needs 9437184"},
		{name: "DiskWithData", disks: func(t *testing.T) []vm.Disk { return []vm.Disk{full(t)} },
			reason: "no disk is blank: vda (serial full) has 67108864 bytes, wwn \"\" and holds data: file system ext4"},
		{name: "DiskWithDataBySize", more: "ward.disk=size:1MB-", disks: func(t *testing.T) []vm.Disk { return []vm.Disk{full(t)} },
			reason: "vda (serial full) holds data: file system ext4; only ward.disk=serial: has it overwritten"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := smallSet(t, nil)
			if tt.tamper != nil {
				tt.tamper(t, dir)
			}
			k := keys
			if tt.keys != "" {
				k = tt.keys
			}
			srv, log := serve(t, pxe.Service{Dir: dir, Cert: filepath.Join(k, pxe.CertFile), Key: filepath.Join(k, pxe.KeyFile)})
			disks := tt.disks(t)
			before := digests(t, disks)
			m := start(t, direct(set, httpsURL(srv), tt.more, disks...))
			if err := m.Wait(within(t, m, time.Minute)); err != nil {
				t.Fatal(err)
			}
			m.Close()
			// The console wraps nothing; the kernel log cuts at 900 bytes.
			if !strings.Contains(m.ConsoleText(), tt.reason) {
				t.Errorf("the console does not say %q; it ends with\n%s", tt.reason, strings.Join(m.Tail(6), "\n"))
			}
			want := tt.reason
			if tt.log != "" {
				want = tt.log
			}
			if got := strings.ReplaceAll(log.String(), `\"`, `"`); !strings.Contains(strings.ReplaceAll(got, `\`, ``), want) {
				t.Errorf("the server's log does not say %q:\n%s", want, log)
			}
			if after := digests(t, disks); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Error("a disk was written")
			}
		})
	}
}

// digests are of what the disks hold.
func digests(t *testing.T, disks []vm.Disk) []string {
	t.Helper()
	var out []string
	for _, d := range disks {
		raw := filepath.Join(t.TempDir(), "raw")
		if b, err := exec.Command("qemu-img", "convert", "-f", d.Format, "-O", "raw", d.File, raw).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s", err, b)
		}
		b, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		out = append(out, hex.EncodeToString(sum[:]))
	}
	return out
}
