package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ward/images/arch"
	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/loader"
	"ward/initramfs/uki"
)

// Where the boot loader looks, and what a machine needs to make its own UKI.
const (
	espMount    = "efi"
	initBinary  = LibDir + "/init"
	cmdlinePath = LibDir + "/cmdline"
)

// kernelVersion is what may be part of a path on the ESP.
var kernelVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9._+~-]{0,100}$`)

// UpdateKernel makes the initramfs and the UKI of an installed kernel and puts
// the UKI where the boot loader finds it. It gets a few tries: a kernel that does
// not finish a boot gives way to the one before. The UKI of the running kernel
// stays, also where this one has the same version.
func (m *Machine) UpdateKernel(ctx context.Context, version string) error {
	if err := m.CheckKernel(version); err != nil {
		return err
	}
	parts, err := m.kernelParts(version)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", version, err)
	}
	var image bytes.Buffer
	if err := uki.Write(&image, parts); err != nil {
		return fmt.Errorf("kernel %s: %w", version, err)
	}
	return m.withESP(ctx, func(esp *os.Root) error {
		_, err := esp.Stat(loader.SyslinuxConfig)
		bios := err == nil
		need := int64(image.Len())
		if bios {
			need += int64(len(parts.Linux) + len(parts.Initrd))
		}
		if err := m.makeRoom(esp, version, need); err != nil {
			return err
		}
		if err := esp.MkdirAll(loader.UKIDir, 0o755); err != nil {
			return err
		}
		name, err := installUKI(esp, version, image.Bytes())
		if err == nil && bios {
			err = m.installBIOS(esp, version, parts)
		}
		if err != nil {
			return fmt.Errorf("kernel %s: %w", version, err)
		}
		m.log.Info("kernel is bootable", "version", version, "uki", "/"+espMount+"/"+name, "bios", bios, "bytes", need)
		return nil
	})
}

// installUKI writes a UKI that was not started yet. A proved one of the same
// version is kept under another name, after which the loader tries it.
func installUKI(esp *os.Root, version string, image []byte) (string, error) {
	all, err := ukis(esp)
	if err != nil {
		return "", err
	}
	fresh := loader.New(version)
	proved := loader.UKI{Version: version}
	if slices.Contains(all, proved) {
		old, err := esp.ReadFile(proved.Path())
		if err != nil {
			return "", err
		}
		if bytes.Equal(old, image) { // as it would be: nothing has to prove itself
			return proved.Path(), removeUKIs(esp, all, func(u loader.UKI) bool { return u.Version == version && u.Counted })
		}
		if err := esp.Rename(proved.Path(), loader.UKI{Version: version, Old: true}.Path()); err != nil {
			return "", err
		}
	}
	if err := writeESP(esp, fresh.Path(), image); err != nil {
		return "", err
	}
	return fresh.Path(), removeUKIs(esp, all, func(u loader.UKI) bool {
		return u.Version == version && u.Counted && u != fresh
	})
}

func removeUKIs(esp *os.Root, all []loader.UKI, which func(loader.UKI) bool) error {
	var errs []error
	for _, u := range all {
		if which(u) {
			errs = append(errs, esp.Remove(u.Path()))
		}
	}
	return errors.Join(errs...)
}

// installBIOS writes the kernel and its initramfs for syslinux, which reads no
// UKI. The new kernel is the first; a BIOS has nothing to count boots with, so the
// others are to be chosen by hand.
func (m *Machine) installBIOS(esp *os.Root, version string, parts uki.Parts) error {
	for name, data := range map[string][]byte{loader.BIOSKernel(version): parts.Linux, loader.BIOSInitrd(version): parts.Initrd} {
		if err := writeESP(esp, name, data); err != nil {
			return err
		}
	}
	return writeSyslinux(esp, version, parts.Cmdline)
}

// writeSyslinux lists the kernels that syslinux can start, first the named one.
func writeSyslinux(esp *os.Root, first, cmdline string) error {
	names, err := fs.Glob(esp.FS(), loader.BIOSKernel("*"))
	if err != nil {
		return err
	}
	versions := []string{first}
	for _, n := range slices.Backward(names) {
		if v := strings.TrimPrefix(n, loader.BIOSKernel("")); v != first {
			versions = append(versions, v)
		}
	}
	return writeESP(esp, loader.SyslinuxConfig, []byte(loader.Syslinux(versions, cmdline)))
}

// RemoveKernel takes the UKI of a kernel away whose package is removed. The
// last one is never taken away.
func (m *Machine) RemoveKernel(ctx context.Context, version string) error {
	if !kernelVersion.MatchString(version) {
		return fmt.Errorf("kernel version %q: not one", version)
	}
	return m.withESP(ctx, func(esp *os.Root) error {
		all, err := ukis(esp)
		if err != nil {
			return err
		}
		var rest []string
		for _, u := range all {
			if u.Version != version {
				rest = append(rest, u.Version)
			}
		}
		if len(rest) == len(all) {
			return nil
		}
		if len(rest) == 0 {
			return errHint(fmt.Errorf("kernel %s is the only one that the machine can start", version), "install another kernel first")
		}
		return m.removeKernel(esp, all, version, slices.Max(rest))
	})
}

// removeKernel removes what starts a version; next is what a BIOS starts then.
func (m *Machine) removeKernel(esp *os.Root, all []loader.UKI, version, next string) error {
	if err := removeUKIs(esp, all, func(u loader.UKI) bool { return u.Version == version }); err != nil {
		return err
	}
	if _, err := esp.Stat(loader.BIOSKernel(version)); err != nil {
		return nil
	}
	cmdline, err := m.root.ReadFile(cmdlinePath)
	if err != nil {
		return err
	}
	if err := errors.Join(esp.Remove(loader.BIOSKernel(version)), esp.Remove(loader.BIOSInitrd(version))); err != nil {
		return err
	}
	return writeSyslinux(esp, next, strings.TrimSpace(string(cmdline)))
}

// kernelParts are kernel, initramfs, kernel line and stub.
func (m *Machine) kernelParts(version string) (uki.Parts, error) {
	var errs []error
	read := func(name string) []byte {
		b, err := m.root.ReadFile(name)
		errs = append(errs, err)
		return b
	}
	processor, err := arch.Find(runtime.GOARCH) // wardctl runs on no other
	errs = append(errs, err)
	init, cmdline := read(initBinary), read(cmdlinePath)
	parts := uki.Parts{
		Stub: read(processor.File(m.facts.Release.Stub)), Linux: read(m.facts.Release.KernelPath(version)),
		OSRelease: string(read("usr/lib/os-release")), Cmdline: strings.TrimSpace(string(cmdline)), Uname: version,
	}
	modules, err := m.root.OpenRoot("usr/lib/modules/" + version)
	if err := errors.Join(append(errs, err)...); err != nil {
		return parts, err
	}
	defer modules.Close()
	keys, err := m.embeddedKeys()
	if err != nil {
		return parts, err
	}
	var initrd bytes.Buffer
	_, err = initramfs.Build(&initrd, initramfs.Spec{
		Init: init, KernelVersion: version, ModulesFS: modules.FS(),
		Modules: m.facts.Image.Modules, Config: m.facts.Image.Init, Keys: keys,
	})
	parts.Initrd = initrd.Bytes()
	return parts, err
}

// embeddedKeys are the key files that a laboratory's image has in its initramfs.
func (m *Machine) embeddedKeys() (map[string][]byte, error) {
	keys := map[string][]byte{}
	for _, s := range m.facts.Image.Init.Sources {
		if s.Type != "embedded" {
			continue
		}
		for _, v := range m.facts.Image.Init.Volumes {
			data, err := m.root.ReadFile(path.Join(handoff.KeysDir[1:], v.KeyFile))
			if err != nil {
				return nil, err
			}
			keys[v.KeyFile] = data
		}
	}
	return keys, nil
}

// withESP mounts the EFI system partition for as long as f runs.
func (m *Machine) withESP(ctx context.Context, f func(*os.Root) error) (err error) {
	if err := m.root.MkdirAll(espMount, 0o700); err != nil {
		return err
	}
	dir := path.Join(m.root.Name(), espMount)
	on, err := m.mounted(ctx, dir)
	if err != nil {
		return err
	}
	if !on {
		if _, err := m.run(ctx, nil, "mount", dir); err != nil {
			return errHint(err, "the EFI system partition must be in /etc/fstab for /%s", espMount)
		}
		defer func() {
			if _, e := m.run(context.WithoutCancel(ctx), nil, "umount", dir); e != nil {
				err = errors.Join(err, e)
			}
		}()
	}
	esp, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer esp.Close()
	return f(esp)
}

// ukis lists what the boot loader finds of ours.
func ukis(esp *os.Root) ([]loader.UKI, error) {
	names, err := fs.Glob(esp.FS(), path.Join(loader.UKIDir, "*"))
	if err != nil {
		return nil, err
	}
	var all []loader.UKI
	for _, n := range names {
		if u, ok := loader.Parse(n); ok {
			all = append(all, u)
		}
	}
	return all, nil
}

// makeRoom removes UKIs whose kernels are gone until the new one fits; never
// the running kernel's.
func (m *Machine) makeRoom(esp *os.Root, version string, need int64) error {
	d, err := esp.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	free := func() (int64, error) {
		var st unix.Statfs_t
		err := unix.Fstatfs(int(d.Fd()), &st)
		return int64(st.Bavail) * st.Bsize, err
	}
	all, err := ukis(esp)
	if err != nil {
		return err
	}
	running := m.line("proc/sys/kernel/osrelease")
	for _, old := range all {
		have, err := free()
		if err != nil {
			return err
		}
		if have >= need+1<<20 {
			return nil
		}
		if old.Version == running || old.Version == version {
			continue
		}
		if _, err := m.root.Stat(m.facts.Release.KernelPath(old.Version)); err == nil {
			continue
		}
		m.log.Info("kernel is gone", "version", old.Version)
		if err := m.removeKernel(esp, all, old.Version, running); err != nil {
			return err
		}
		if all, err = ukis(esp); err != nil {
			return err
		}
	}
	have, err := free()
	if err == nil && have < need+1<<20 {
		err = errHint(fmt.Errorf("/%s has %d MiB left, the new kernel needs %d", espMount, have>>20, need>>20+1),
			"remove a kernel that is not used with the package manager, then run `wardctl initramfs %s`; the running kernel stays bootable", version)
	}
	return err
}

// writeESP writes a file on a FAT file system, which has no owners, by rename.
func writeESP(esp *os.Root, name string, b []byte) error {
	temp := name + ".new"
	f, err := esp.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, esp.Remove(temp))
	}
	if err := esp.Rename(temp, name); err != nil {
		return err
	}
	return syncDir(esp, path.Dir(name))
}

// kernelHooks are where a format's packages announce kernels.
// deb: linux-image's maintainer scripts run /etc/kernel/postinst.d/* VERSION IMAGE,
// https://kernel-team.pages.debian.net/kernel-handbook/ch-update-hooks.html;
// rpm: kernel-install(8) runs its plugins with add|remove VERSION.
var kernelHooks = map[string]map[string]string{
	"deb": {
		"etc/kernel/preinst.d/zz-ward":  "#!/bin/sh\n# Refuses a kernel that the machine could not start, before its package is unpacked.\nexec /usr/sbin/wardctl initramfs --check \"$1\" >&2\n",
		"etc/kernel/postinst.d/zz-ward": "#!/bin/sh\n# Makes the kernel that was just installed bootable.\nexec /usr/sbin/wardctl initramfs \"$1\" >&2\n",
		"etc/kernel/postrm.d/zz-ward":   "#!/bin/sh\n# Takes away what starts a kernel that was just removed.\nexec /usr/sbin/wardctl initramfs --remove \"$1\" >&2\n",
	},
	"rpm": {
		"etc/kernel/install.d/95-ward.install": "#!/bin/sh\n# Makes an installed kernel bootable, and takes a removed one away.\n" +
			"case \"$1\" in\nadd) exec /usr/sbin/wardctl initramfs \"$2\" ;;\nremove) exec /usr/sbin/wardctl initramfs --remove \"$2\" ;;\nesac\n",
	},
}
