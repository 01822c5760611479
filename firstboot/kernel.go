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
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/uki"
)

// Where the boot loader looks, and what a machine needs to make its own UKI.
const (
	espMount    = "efi"
	ukiDir      = "EFI/Linux" // Boot Loader Specification, type 2
	ukiPrefix   = "ward-"
	initBinary  = LibDir + "/init"
	cmdlinePath = LibDir + "/cmdline"
)

// kernelVersion is what may be part of a path on the ESP.
var kernelVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9._+~-]{0,100}$`)

// UpdateKernel makes the initramfs and the UKI of an installed kernel and puts
// the UKI where the boot loader finds it. The UKI of the running kernel stays,
// so that the machine can always start the kernel that works.
func (m *Machine) UpdateKernel(ctx context.Context, version string) error {
	if !kernelVersion.MatchString(version) {
		return fmt.Errorf("kernel version %q: not one", version)
	}
	image, err := m.buildUKI(version)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", version, err)
	}
	return m.withESP(ctx, func(esp *os.Root) error {
		if err := m.makeRoom(esp, version, int64(len(image))); err != nil {
			return err
		}
		name := path.Join(ukiDir, ukiPrefix+version+".efi")
		if err := esp.MkdirAll(ukiDir, 0o755); err != nil {
			return err
		}
		if err := writeESP(esp, name, image); err != nil {
			return fmt.Errorf("kernel %s: %w", version, err)
		}
		m.log.Info("kernel is bootable", "version", version, "uki", "/"+espMount+"/"+name, "bytes", len(image))
		return nil
	})
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
		if !slices.Contains(all, version) {
			return nil
		}
		if len(all) == 1 {
			return errHint(fmt.Errorf("kernel %s is the only one that the machine can start", version), "install another kernel first")
		}
		return esp.Remove(path.Join(ukiDir, ukiPrefix+version+".efi"))
	})
}

// buildUKI joins kernel, initramfs, kernel line and stub.
func (m *Machine) buildUKI(version string) ([]byte, error) {
	var errs []error
	read := func(name string) []byte {
		b, err := m.root.ReadFile(name)
		errs = append(errs, err)
		return b
	}
	init, cmdline := read(initBinary), read(cmdlinePath)
	parts := uki.Parts{
		Stub: read(m.facts.Release.Stub), Linux: read("boot/vmlinuz-" + version),
		OSRelease: string(read("usr/lib/os-release")), Cmdline: strings.TrimSpace(string(cmdline)), Uname: version,
	}
	modules, err := m.root.OpenRoot("usr/lib/modules/" + version)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	defer modules.Close()
	keys, err := m.embeddedKeys()
	if err != nil {
		return nil, err
	}
	var initrd bytes.Buffer
	if _, err := initramfs.Build(&initrd, initramfs.Spec{
		Init: init, KernelVersion: version, ModulesFS: modules.FS(),
		Modules: m.facts.Image.Modules, Config: m.facts.Image.Init, Keys: keys,
	}); err != nil {
		return nil, err
	}
	parts.Initrd = initrd.Bytes()
	var out bytes.Buffer
	if err := uki.Write(&out, parts); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
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

// ukis lists the kernels that the boot loader finds.
func ukis(esp *os.Root) ([]string, error) {
	names, err := fs.Glob(esp.FS(), path.Join(ukiDir, ukiPrefix+"*.efi"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, n := range names {
		all = append(all, strings.TrimSuffix(strings.TrimPrefix(path.Base(n), ukiPrefix), ".efi"))
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
		if old == running || old == version {
			continue
		}
		if _, err := m.root.Stat("boot/vmlinuz-" + old); err == nil {
			continue
		}
		m.log.Info("kernel is gone", "version", old)
		if err := esp.Remove(path.Join(ukiDir, ukiPrefix+old+".efi")); err != nil {
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
		"etc/kernel/postinst.d/zz-ward": "#!/bin/sh\n# Makes the kernel that was just installed bootable.\nexec /usr/sbin/wardctl initramfs \"$1\" >&2\n",
		"etc/kernel/postrm.d/zz-ward":   "#!/bin/sh\n# Takes away what starts a kernel that was just removed.\nexec /usr/sbin/wardctl initramfs --remove \"$1\" >&2\n",
	},
	"rpm": {
		"etc/kernel/install.d/95-ward.install": "#!/bin/sh\n# Makes an installed kernel bootable, and takes a removed one away.\n" +
			"case \"$1\" in\nadd) exec /usr/sbin/wardctl initramfs \"$2\" ;;\nremove) exec /usr/sbin/wardctl initramfs --remove \"$2\" ;;\nesac\n",
	},
}
