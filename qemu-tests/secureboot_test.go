package qemutests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/secureboot"
	"ward/builder/vm"
	"ward/initramfs/loader"
)

// signedProfile is hipaa under a name of its own.
const signedProfile = `name: signed
extends: hipaa
`

// bakeSigned bakes an image whose boot loader and UKI are signed with new keys.
func bakeSigned(t *testing.T, profile string) (i *proof.Image, keys string) {
	t.Helper()
	keys = filepath.Join(t.TempDir(), "keys")
	if err := secureboot.NewKeys(keys); err != nil {
		t.Fatal(err)
	}
	return bakeWith(t, profile, "--secure-boot-key", filepath.Join(keys, secureboot.KeyFile), "--secure-boot-cert", filepath.Join(keys, secureboot.CertFile)), keys
}

// efiVariable prints the value of a UEFI variable of one byte.
const efiVariable = "od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/"

// TestSecureBoot starts a signed image in a firmware that has the keys and starts
// nothing else: every safeguard holds, a kernel that could not start is refused, and
// an image with one byte changed, or without a signature, does not start.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	image(t)
	i, keys := bakeSigned(t, signedProfile)
	t.Run("Signed", func(t *testing.T) {
		b := &bootBench{f: fixture(t)}
		b.c = b.f.VM(i)
		b.c.SecureBoot = keys
		b.up(t)
		for name, want := range map[string]string{"SecureBoot": "1", "SetupMode": "0"} {
			if got := strings.TrimSpace(run(t, b.m, b.root, efiVariable+name+"-8be4df61-93ca-11d2-aa0d-00e098032b8c")); got != want {
				t.Errorf("the firmware's %s is %q, want %s", name, got, want)
			}
		}
		// The kernel's own opinion (Debian's patch locks down what could change it).
		if out := run(t, b.m, b.root, "journalctl -b -k -o cat --no-pager | grep -i 'secure boot'; cat /sys/kernel/security/lockdown"); !strings.Contains(out, "Secure boot enabled") || !strings.Contains(out, "[integrity]") {
			t.Errorf("the kernel says:\n%s", out)
		}
		refusesKernel(t, b)
		b.reboot(t)
		b.up(t)
		b.down(t)
	})
	t.Run("ChangedByte", func(t *testing.T) {
		refusedByFirmware(t, vm.Config{Image: changedUKI(t, i), SecureBoot: keys})
	})
	t.Run("Unsigned", func(t *testing.T) {
		refusedByFirmware(t, vm.Config{Image: image(t).Disk(), SecureBoot: keys})
	})
}

// refusesKernel: the key is not on the machine, so a new kernel is refused before
// its package is unpacked, and what boots stays.
func refusesKernel(t *testing.T, b *bootBench) {
	t.Helper()
	const refusal = "Secure Boot is on and the key that signs kernel images is not on the machine"
	before := b.ukis(t)
	for _, command := range []string{
		"wardctl initramfs $(uname -r)",
		// As the maintainer script of a kernel's package calls it.
		"run-parts --report --exit-on-error --arg=6.1.0-999-cloud-amd64 --arg=/boot/vmlinuz-6.1.0-999-cloud-amd64 /etc/kernel/preinst.d",
	} {
		out, code, err := b.root.Run(within(t, b.m, time.Minute), command+" 2>&1")
		if err != nil {
			t.Fatal(err)
		}
		if code == 0 || !strings.Contains(out, refusal) || !strings.Contains(out, "hint: bake a new image") {
			t.Errorf("%s: exit code %d, want that it is refused with %q: %s", command, code, refusal, out)
		}
	}
	if now := b.ukis(t); now != before {
		t.Errorf("the ESP has\n%swant what it had\n%s", now, before)
	}
	if out := run(t, b.m, b.root, "apt-mark showhold"); !strings.HasPrefix(out, "linux-image-") {
		t.Errorf("held packages are %q, want the kernel's", out)
	}
}

// refusedByFirmware starts a machine whose firmware must not run the image.
func refusedByFirmware(t *testing.T, c vm.Config) {
	t.Helper()
	m := start(t, c)
	// EFI_ACCESS_DENIED or EFI_SECURITY_VIOLATION, as edk2 and systemd-boot print them.
	expect(t, m, 3*time.Minute, `(?i)access denied|security violation`)
	expect(t, m, 3*time.Minute, `No bootable option or device was found|UEFI Interactive Shell`)
	for _, started := range []string{"Linux version", "ward-init:"} {
		if strings.Contains(m.ConsoleText(), started) {
			t.Errorf("the console shows %q", started)
		}
	}
}

// changedUKI is the image's disk with one bit in the middle of its UKI changed.
func changedUKI(t *testing.T, i *proof.Image) string {
	t.Helper()
	dir := t.TempDir()
	disk, uki := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "uki.efi")
	tool(t, "qemu-img", "convert", "-O", "raw", i.Disk(), disk)
	esp := disk + "@@1048576" // the first partition, aligned to 1 MiB
	name := "::" + loader.UKI{Version: i.Manifest.Kernel}.Path()
	mtools := func(argv ...string) {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	mtools("mcopy", "-n", "-i", esp, name, uki)
	data, err := os.ReadFile(uki)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(data)
	data[len(data)/2] ^= 1
	if bytes.Equal(was, data) {
		t.Fatal("nothing is changed")
	}
	if err := os.WriteFile(uki, data, 0o600); err != nil {
		t.Fatal(err)
	}
	mtools("mcopy", "-o", "-i", esp, uki, name)
	return disk
}
