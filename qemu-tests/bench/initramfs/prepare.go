package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"ward/builder/command"
	"ward/initramfs"
	"ward/initramfs/handoff"
)

const (
	rootUUID = "0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d01"
	phiUUID  = "7c1d9a52-52a1-4a6f-9f0e-8d5b7a3c6e02"
	luksUUID = "3f0e9a52-52a1-4a6f-9f0e-8d5b7a3c6e03"
)

// busybox is a static program of the host that starts in a few milliseconds; what
// the real init takes to start is no merit and no fault of an initramfs.
const busybox = "/bin/busybox"

// realInit says in the kernel log that it runs, and whether the volume is open.
// The memory is measured while it sleeps, from outside.
const realInit = `#!/bin/busybox sh
state="not open"
[ -e /dev/mapper/phi-data ] && state=open
echo "<4>bench: the real init runs, phi-data is $state" > /dev/kmsg
exec /bin/busybox sh -c "/bin/busybox sleep 3; /bin/busybox poweroff -f"
`

type bench struct {
	dir, suite string
	log        *slog.Logger
	version    string // of the kernel
	accel      string
	candidates []candidate
}

// peer is one of Debian's two.
type peer struct {
	name     string
	packages string
	files    map[string]string // path in the chroot -> text; "" is the key file
	build    string            // command in the chroot; $v is the kernel's version
	image    string            // what it makes
	append   string
}

var peers = []peer{
	{
		name: "initramfs-tools", packages: "initramfs-tools,cryptsetup-initramfs,cryptsetup-bin,zstd",
		files: map[string]string{
			"etc/crypttab":                           "phi-data PARTUUID=" + phiUUID + " /etc/keys/phi-data.key luks,initramfs\n",
			"etc/cryptsetup-initramfs/conf-hook":     "KEYFILE_PATTERN=\"/etc/keys/*.key\"\n",
			"etc/initramfs-tools/conf.d/umask":       "UMASK=0077\n",
			"etc/initramfs-tools/conf.d/compression": "COMPRESS=zstd\n",
		},
		build: "update-initramfs -u -k $v", image: "boot/initrd.img-$v",
	},
	{
		name: "dracut", packages: "dracut,systemd,systemd-sysv,udev,dmsetup,cryptsetup-bin,zstd",
		files: map[string]string{
			"etc/dracut.conf.d/ward.conf": "hostonly=\"no\"\nadd_dracutmodules+=\" crypt \"\ninstall_items+=\" /etc/keys/phi-data.key \"\ncompress=\"zstd\"\n",
		},
		build: "dracut --force /boot/initrd.img-$v $v", image: "boot/initrd.img-$v",
		append: "rd.luks.name=" + luksUUID + "=phi-data rd.luks.key=" + luksUUID + "=/etc/keys/phi-data.key",
	},
}

func (b *bench) prepare(ctx context.Context) error {
	if err := b.keyFile(); err != nil {
		return err
	}
	for _, p := range peers {
		if err := b.buildPeer(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.candidates = append(b.candidates, candidate{name: p.name, initrd: b.path(p.name, "initrd"), append: p.append, opens: true})
	}
	if err := b.disks(ctx); err != nil {
		return err
	}
	return b.buildWard(ctx)
}

func (b *bench) keyFile() error {
	_, err := os.Stat(b.path("phi-data.key"))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 64)
	rand.Read(key)
	return os.WriteFile(b.path("phi-data.key"), key, 0o600)
}

// buildPeer installs a peer's packages with a kernel, lets it make its initramfs,
// and keeps that; and of the first peer the kernel and its modules.
func (b *bench) buildPeer(ctx context.Context, p peer) error {
	dir := b.path(p.name)
	if _, err := os.Stat(filepath.Join(dir, "initrd")); err == nil {
		b.log.Info("used again", "initramfs", p.name)
		return b.findKernel()
	}
	tmp := dir + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	files := filepath.Join(tmp, "files")
	for path, text := range p.files {
		if err := put(filepath.Join(files, path), []byte(text)); err != nil {
			return err
		}
	}
	key, err := os.ReadFile(b.path("phi-data.key"))
	if err != nil {
		return err
	}
	if err := put(filepath.Join(files, "etc/keys/phi-data.key"), key); err != nil {
		return err
	}
	// The hooks run outside of the chroot, with its path as their $1.
	script := `set -eu
v=$(ls "$1/usr/lib/modules")
chroot "$1" sh -c '` + "v=$0; " + p.build + `' "$v"
cat "$1/` + p.image + `" > "$OUT/initrd"
cat "$1/boot/vmlinuz-$v" > "$OUT/vmlinuz"
mkdir -p "$OUT/modules"
tar -C "$1/usr/lib/modules" -c "$v" | tar -C "$OUT/modules" --no-same-owner -x
`
	hook := filepath.Join(tmp, "hook")
	if err := put(hook, []byte("#!/bin/sh\nOUT="+tmp+"\n"+script)); err != nil {
		return err
	}
	if err := os.Chmod(hook, 0o755); err != nil {
		return err
	}
	// In a user namespace the hook is another user than the one that owns the folder.
	if err := command.Run(ctx, b.log, "mmdebstrap", "--mode=auto", "--variant=minbase", "--format=null",
		"--include=linux-image-cloud-amd64,"+p.packages,
		"--customize-hook=copy-in "+filepath.Join(files, "etc")+" /", "--customize-hook="+hook, b.suite, "/dev/null"); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return b.findKernel()
}

// findKernel reads the version of the kernel, and wants it to be one for all.
func (b *bench) findKernel() error {
	found, err := filepath.Glob(b.path("*", "modules", "*", "modules.dep"))
	if err != nil {
		return err
	}
	for _, f := range found {
		v := filepath.Base(filepath.Dir(f))
		if b.version != "" && b.version != v {
			return fmt.Errorf("kernels %s and %s: remove the work folder, the archive has moved on in between", b.version, v)
		}
		b.version = v
	}
	if b.version == "" {
		return errors.New("no kernel was built")
	}
	return nil
}

func put(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// goBuild builds one of our static binaries.
func (b *bench) goBuild(ctx context.Context, out, pkg string) error {
	return command.Run(ctx, b.log, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", out, pkg)
}

// buildWard makes ward's initramfs, and the floor under it: the same init that
// loads the same modules, and has no volume to open.
func (b *bench) buildWard(ctx context.Context) error {
	if err := b.goBuild(ctx, b.path("init"), "ward/initramfs/cmd/init"); err != nil {
		return err
	}
	init, err := os.ReadFile(b.path("init"))
	if err != nil {
		return err
	}
	volumes := []handoff.Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}}
	if err := b.pack("ward.img", init, volumes); err != nil {
		return err
	}
	b.candidates = append(b.candidates,
		candidate{name: "ward", initrd: b.path("ward.img"), key: true, opens: true},
		candidate{name: floorName, initrd: b.path("floor.img"), key: true})
	return b.pack("floor.img", init, nil)
}

func (b *bench) pack(file string, init []byte, volumes []handoff.Volume) error {
	var image bytes.Buffer
	_, err := initramfs.Build(&image, initramfs.Spec{
		Init: init, KernelVersion: b.version, ModulesFS: os.DirFS(b.path(peers[0].name, "modules", b.version)),
		Config: handoff.Config{
			Version: handoff.Version, OnFailure: handoff.Degrade, Volumes: volumes,
			Sources: []handoff.Source{{Type: "device", Label: handoff.KeyLabel}},
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(b.path(file), image.Bytes(), 0o600)
}

// disks makes the disk that all use, and the key device.
func (b *bench) disks(ctx context.Context) error {
	tree, keys := b.path("tree"), b.path("keys")
	for _, d := range []string{tree, keys} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "usr/sbin", "usr/bin", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	shell, err := static(busybox)
	if err != nil {
		return fmt.Errorf("%w\nhint: install the package busybox-static", err)
	}
	key, err := os.ReadFile(b.path("phi-data.key"))
	if err != nil {
		return err
	}
	// systemd in dracut's initramfs takes a folder without os-release for no system.
	err = errors.Join(
		os.WriteFile(filepath.Join(tree, "usr/bin/busybox"), shell, 0o755),
		os.WriteFile(filepath.Join(tree, "usr/sbin/init"), []byte(realInit), 0o755),
		os.Symlink("usr/sbin", filepath.Join(tree, "sbin")), os.Symlink("usr/lib", filepath.Join(tree, "lib")), os.Symlink("usr/bin", filepath.Join(tree, "bin")),
		put(filepath.Join(tree, "usr/lib/os-release"), []byte("ID=bench\n")), put(filepath.Join(tree, "etc/os-release"), []byte("ID=bench\n")),
		put(filepath.Join(keys, "phi-data.key"), key),
	)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	for _, f := range []struct {
		name string
		size int64
	}{{"disk.img", 68 * mib}, {"phi.img", 32 * mib}} {
		if err := os.RemoveAll(b.path(f.name)); err != nil {
			return err
		}
		if err := os.WriteFile(b.path(f.name), nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(b.path(f.name), f.size); err != nil {
			return err
		}
	}
	_ = os.Remove(b.path("root.img"))
	_ = os.Remove(b.path("key.img"))
	for _, argv := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", "-d", tree, b.path("root.img"), "32M"},
		{"mke2fs", "-q", "-t", "ext4", "-L", handoff.KeyLabel, "-d", keys, b.path("key.img"), "1M"},
		{"cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--uuid", luksUUID,
			"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", b.path("phi-data.key"), b.path("phi.img")},
		{"sgdisk", "--clear",
			"--new=1:2048:+32M", "--typecode=1:" + handoff.RootType, "--change-name=1:root", "--partition-guid=1:" + rootUUID,
			"--new=2:69632:+32M", "--typecode=2:" + handoff.PHIType, "--change-name=2:phi-data", "--partition-guid=2:" + phiUUID, b.path("disk.img")},
		{"dd", "if=" + b.path("root.img"), "of=" + b.path("disk.img"), "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"},
		{"dd", "if=" + b.path("phi.img"), "of=" + b.path("disk.img"), "bs=1M", "seek=34", "conv=notrunc,sparse", "status=none"},
	} {
		if err := command.Run(ctx, b.log, argv...); err != nil {
			return err
		}
	}
	return nil
}

// static reads a program that needs no library.
func static(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, fmt.Errorf("%s needs shared libraries", path)
	}
	return data, nil
}
