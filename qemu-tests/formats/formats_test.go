// Package formats builds one image in every format and boots its disks.
package formats

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder"
	"ward/builder/proof"
	"ward/builder/vm"
)

// The cloud kernel has the drivers of Hyper-V; what it lacks of VMware's is left
// out, and these disks hang on virtio here.
const imageFile = `name: all-formats
distro: debian
release: "12"
arch: amd64
disk: {esp: 256MiB, root: 2GiB, phi: 512MiB}
formats: [raw, qcow2, vmdk, vhd, vhdx, ova, tar]
modules: [virtio, hyperv, vmware]
kernel_args: [no_timer_check]
`

// files are what that image's folder must have, beside the boot files.
var files = []string{"disk.raw", "disk.qcow2", "disk.vmdk", "disk.vhd", "disk.vhdx", "all-formats.ova", "root.tar.gz"}

func cannot(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("QEMU_TESTS") == "require" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// build builds the image with the command that make build left.
func build(t *testing.T) string {
	t.Helper()
	ward, err := filepath.Abs("../../.bin/ward")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ward); err != nil {
		cannot(t, fmt.Errorf("%w: make build first", err))
	}
	if err := vm.Missing(); err != nil {
		cannot(t, err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "all-formats.yaml")
	if err := os.WriteFile(file, []byte(imageFile), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	t.Log(run(t, ward, "build", file, "-o", out))
	return out
}

// TestBootFormats: every format holds the same disk, and those that no other
// test boots do so here.
func TestBootFormats(t *testing.T) {
	dir := build(t)
	m, err := builder.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if m.Files[name].Size == 0 {
			t.Errorf("the manifest has no %s", name)
		}
	}
	raw := filepath.Join(dir, "disk.raw")
	run(t, "tar", "-xf", filepath.Join(dir, "all-formats.ova"), "-C", dir, "--transform=s/^/ova-/")

	t.Run("Tar", func(t *testing.T) {
		// Owners are those of the image: shadow belongs to the group of that name, 42 in Debian.
		out := run(t, "tar", "--numeric-owner", "-tvzf", filepath.Join(dir, "root.tar.gz"), "./usr/lib/os-release", "./etc/shadow")
		if !strings.Contains(out, "-rw-r----- 0/42 ") || strings.Count(out, "\n") != 2 {
			t.Errorf("tar -tv: %s", out)
		}
	})

	const uefi = "BdsDxe: starting Boot" // edk2, MdeModulePkg/Universal/BdsDxe
	for _, c := range []struct {
		file, format string
		firmware     string // what starts it; "" is that TestEndToEnd, or the same disk in the OVA, does
	}{
		{"disk.qcow2", "qcow2", ""},
		{"disk.vmdk", "vmdk", ""},
		{"ova-disk.vmdk", "vmdk", "uefi"},
		{"disk.vhd", "vpc", "uefi"},
		{"disk.vhdx", "vhdx", "uefi"},
		{"disk.raw", "raw", "direct"},
	} {
		t.Run(c.file, func(t *testing.T) {
			file := filepath.Join(dir, c.file)
			if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", c.format, raw, file); !strings.Contains(out, "Images are identical") {
				t.Fatalf("qemu-img compare: %s", out)
			}
			machine := vm.Config{Image: file, Format: c.format, Firmware: c.firmware}
			switch c.firmware {
			case "uefi":
				boots(t, machine, uefi)
			case "direct":
				machine.Kernel, machine.Initrd, machine.Append = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initramfs.img"), m.Cmdline
				boots(t, machine, "")
			}
		})
	}
}

// boots starts a machine and waits for the system on its root partition.
func boots(t *testing.T, c vm.Config, starts string) {
	t.Helper()
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), m.Timeout(proof.BootTime))
	defer cancel()
	if starts != "" {
		if _, err := m.Expect(ctx, starts); err != nil {
			t.Fatal(err)
		}
	}
	// init has looked at the PHI partition; then systemd runs from the root partition.
	for _, line := range []string{`ward-init: phi-data is not open \(blank\)`, `Welcome to .*Debian GNU/Linux 12`} {
		if _, err := m.Expect(ctx, line); err != nil {
			t.Fatal(err)
		}
	}
}
