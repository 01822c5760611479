package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"ward/builder/command"
	"ward/builder/disk"
	"ward/builder/proof"
	"ward/builder/vm"
	"ward/images"
	"ward/initramfs/loader"
	"ward/initramfs/uki"
	"ward/profiles/control"
)

// reached is what the plain machine says on its console when it is up.
const reached = "bench: multi-user.target is reached"

// plainUnit says it. Without default dependencies, because a target waits for what it
// wants, and this waits for the target.
const plainUnit = `[Unit]
DefaultDependencies=no
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "` + reached + `" > /dev/console'

[Install]
WantedBy=multi-user.target
`

// bootLimit is how long one boot may take, without KVM too.
const bootLimit = 15 * time.Minute

// boots are the two machines that are started: ward's until its own verdict, which
// must be a pass, and a plain Debian with the same packages until multi-user.target.
// A first boot does what is done once (keys, file systems), the others do not.
func (b *bench) boots() []step {
	return []step{
		{name: wardFirst, long: true, before: b.keepImage, run: b.bootWard},
		{name: wardBoot, run: b.bootWard},
		{name: plainFirst, long: true, before: b.forgets("plain-machine"), run: b.bootPlain},
		{name: plainBoot, run: b.bootPlain},
	}
}

// keepImage copies the image that is there, because the next build replaces it and the
// machine's disk needs the one that it began with, and forgets the machine before.
func (b *bench) keepImage(ctx context.Context, _ int) error {
	if err := errors.Join(os.RemoveAll(b.path("ward-machine")), os.RemoveAll(b.path("boot-image"))); err != nil {
		return err
	}
	return command.Run(ctx, b.log, "cp", "--archive", b.path("out"), b.path("boot-image"))
}

func (b *bench) forgets(name string) func(context.Context, int) error {
	return func(context.Context, int) error { return os.RemoveAll(b.path(name)) }
}

// prepareBoots makes the fixture of ward's machine and the plain disk.
func (b *bench) prepareBoots(ctx context.Context) error {
	if err := vm.Missing(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the plain image is made as root\nhint: -parts leaves boot out")
	}
	if _, err := os.Stat(b.path("plain", "disk.qcow2")); err == nil {
		b.log.Info("used again", "disk", b.path("plain", "disk.qcow2"))
		return nil
	}
	return b.plainDisk(ctx)
}

// bootWard starts ward's machine and waits for its verdict.
func (b *bench) bootWard(ctx context.Context, _ int) (sample, error) {
	image, err := proof.OpenImage(b.path("boot-image"))
	if err != nil {
		return sample{}, err
	}
	if b.fixture == nil {
		if err := os.RemoveAll(b.path("fixture")); err != nil {
			return sample{}, err
		}
		if err := os.Mkdir(b.path("fixture"), 0o700); err != nil {
			return sample{}, err
		}
		if b.fixture, err = proof.NewFixture(ctx, b.path("fixture"), image, b.log); err != nil {
			return sample{}, err
		}
		// A machine of another fixture has another key.
		if err := os.RemoveAll(b.path("ward-machine")); err != nil {
			return sample{}, err
		}
	}
	config := b.fixture.VM(image)
	config.State = b.path("ward-machine")
	return b.started(ctx, config, func(ctx context.Context, m *vm.VM) error {
		r, err := m.Verdict(ctx)
		if err != nil {
			return err
		}
		if r.Verdict() != control.Pass {
			for _, f := range r.Findings {
				if f.Status != control.Pass {
					b.log.Warn("did not pass", "finding", proof.Line(f))
				}
			}
			return fmt.Errorf("the verdict is %s (apply: %s)", r.Verdict(), r.Applied)
		}
		return nil
	})
}

// bootPlain starts the plain machine and waits for what it says.
func (b *bench) bootPlain(ctx context.Context, _ int) (sample, error) {
	return b.started(ctx, vm.Config{Image: b.path("plain", "disk.qcow2"), State: b.path("plain-machine")}, func(ctx context.Context, m *vm.VM) error {
		_, err := m.Expect(ctx, reached)
		return err
	})
}

// started measures from the start of QEMU until up returns; then the machine is
// powered off, so that the next boot does not repair anything.
func (b *bench) started(ctx context.Context, config vm.Config, up func(context.Context, *vm.VM) error) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	config.ConsoleLog = b.path("last-console.log")
	if err := os.RemoveAll(config.ConsoleLog); err != nil {
		return sample{}, err
	}
	begun := time.Now()
	m, err := vm.Start(ctx, config)
	if err != nil {
		return sample{}, err
	}
	defer m.Close()
	b.accel = m.Accel()
	if err := up(ctx, m); err != nil {
		return sample{}, err
	}
	x := sample{took: time.Since(begun)}
	return x, m.PowerDown(ctx)
}

// plainDisk makes a disk of the packages that ward installs, as the distribution
// leaves them, with its own initramfs, its boot loader and a UKI: the firmware goes
// the same way to both kernels.
func (b *bench) plainDisk(ctx context.Context) error {
	img, err := images.Load(b.image)
	if err != nil {
		return err
	}
	dir, tree := b.path("plain"), b.path("plain", "tree")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := b.plainTree(ctx, tree); err != nil {
		return err
	}
	id := func() string { return uuid.NewString() }
	root, esp := id(), id()
	for _, f := range []struct{ name, text string }{
		{"etc/fstab", "PARTUUID=" + root + " / ext4 defaults 0 1\n"},
		{"etc/hostname", "plain\n"},
		{"etc/systemd/network/80-dhcp.network", "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n"},
		{"etc/systemd/system/bench.service", plainUnit},
	} {
		if err := put(filepath.Join(tree, f.name), f.text); err != nil {
			return err
		}
	}
	if err := command.Run(ctx, b.log, "chroot", tree, "systemctl", "enable", "bench.service", "systemd-networkd.service", "systemd-resolved.service"); err != nil {
		return err
	}
	kernel, err := b.plainKernel(tree, strings.Join(append([]string{"root=PARTUUID=" + root, "ro quiet console=tty0 console=ttyS0,115200"}, img.KernelArgs...), " "))
	if err != nil {
		return err
	}
	conf := b.path("plain", "loader.conf")
	if err := put(conf, "timeout 0\n"); err != nil {
		return err
	}
	now := time.Now().Unix()
	if err := os.Setenv("SOURCE_DATE_EPOCH", fmt.Sprint(now)); err != nil { // mtools wants one
		return err
	}
	ext4, raw := b.path("plain", "root.ext4"), b.path("plain", "disk.raw")
	if err := disk.WriteExt4(ctx, b.log, ext4, disk.Ext4{Tree: tree, UUID: id(), Size: img.Disk.Root.Bytes(), Epoch: now}); err != nil {
		return err
	}
	err = disk.Write(ctx, b.log, raw, disk.Layout{
		GUID: id(),
		ESP: disk.ESP{GUID: esp, Size: img.Disk.ESP.Bytes(), Files: map[string]string{
			"/EFI/BOOT/BOOTX64.EFI":                   filepath.Join(tree, b.release.Loader),
			"/" + loader.UKI{Version: "plain"}.Path(): kernel,
			"/loader/loader.conf":                     conf,
		}},
		Root: disk.Root{GUID: root, Size: img.Disk.Root.Bytes(), File: ext4},
		PHI:  disk.PHI{GUID: id(), Name: "blank", Size: img.Disk.PHI.Bytes()},
	})
	if err != nil {
		return err
	}
	// Compressed as ward's is: reading it costs both the same.
	if err := disk.WriteQCOW2(ctx, b.path("plain", "disk.qcow2.new"), raw); err != nil {
		return err
	}
	for _, name := range []string{tree, ext4, raw} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return os.Rename(b.path("plain", "disk.qcow2.new"), b.path("plain", "disk.qcow2"))
}

// plainTree installs the packages.
func (b *bench) plainTree(ctx context.Context, tree string) error {
	argv := []string{"mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory", "--keyring=" + b.keyring, "--include=" + strings.Join(b.packages, ",")}
	argv = append(argv, excludes()...)
	return command.Run(ctx, b.log, append(append(argv, b.release.Codename, tree), b.mirrors...)...)
}

// plainKernel makes a UKI of the tree's only kernel and the initramfs that its
// package made.
func (b *bench) plainKernel(tree, cmdline string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return "", fmt.Errorf("the plain tree has the kernels %q (%v), want one", kernels, err)
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	parts := uki.Parts{Cmdline: cmdline, Uname: version}
	var release []byte
	for _, f := range []struct {
		to   *[]byte
		name string
	}{
		{&parts.Stub, b.release.Stub}, {&parts.Linux, "boot/vmlinuz-" + version}, {&parts.Initrd, "boot/initrd.img-" + version}, {&release, "usr/lib/os-release"},
	} {
		if *f.to, err = os.ReadFile(filepath.Join(tree, f.name)); err != nil {
			return "", err
		}
	}
	parts.OSRelease = string(release)
	out, err := os.Create(b.path("plain", "plain.efi"))
	if err != nil {
		return "", err
	}
	return out.Name(), errors.Join(uki.Write(out, parts), out.Close())
}
