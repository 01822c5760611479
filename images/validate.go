package images

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ward/images/distro"
	"ward/images/strict"
)

// check holds what needs more than one value or more than a field's tag.
type check struct {
	img *Image
	d   *strict.Document
}

func (c check) all() {
	c.release()
	c.processor()
	c.disk()
	c.mirrors()
	c.kernelArgs()
	once(c.d, "formats", c.img.Formats)
	c.platforms()
	once(c.d, "packages", c.img.Packages)
	once(c.d, "firmware", c.img.Firmware)
	if len(c.img.Firmware) > 0 && !slices.Contains(c.img.Firmware, "uefi") {
		c.d.Fault("firmware", "add uefi", "has no uefi, without which there is no kernel that falls back to its predecessor")
	}
	once(c.d, "modules", c.img.Modules)
}

func (c check) release() {
	if c.d.Faulty("distro") || c.d.Faulty("release") {
		return
	}
	var ids, versions []string
	for _, r := range distro.All {
		if !slices.Contains(ids, r.ID) {
			ids = append(ids, r.ID)
		}
		if r.ID == c.img.Distro {
			versions = append(versions, r.Version)
		}
	}
	if len(versions) == 0 {
		hint := "known are " + strict.OneOf(ids)
		if near := strict.Nearest(c.img.Distro, ids); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.d.Fault("distro", hint, "is %q, which is not known", c.img.Distro)
		return
	}
	if !slices.Contains(versions, c.img.Release) {
		c.d.Fault("release", fmt.Sprintf("of %s are known: %s", c.img.Distro, strings.Join(versions, ", ")), "is %q, which is not known", c.img.Release)
	}
}

// processor compares the architecture with what the release and the firmware are
// there for.
func (c check) processor() {
	a, err := c.img.Processor()
	if err != nil || c.d.Faulty("arch") {
		return // the tag has said so
	}
	if i := slices.Index(c.img.Firmware, "bios"); i >= 0 && !a.BIOS {
		c.d.Fault(fmt.Sprintf("firmware[%d]", i), "remove it", "is bios, which no machine with arch %s has", a.Name)
	}
	row, err := c.img.Row()
	if err != nil {
		return
	}
	if _, err := row.KernelOn(a.Name); err != nil {
		c.d.Fault("arch", "", "is %s: %v", a.Name, err)
	}
}

// limits of the partitions. An ESP holds two kernel images of up to 30 MiB; a
// root below a GiB has no room for one more kernel and its modules; LUKS2 takes
// 16 MiB of PHI for its header before ext4 gets any.
var limits = []struct {
	path   string
	of     func(*Image) Size
	lo, hi Size
}{
	{"disk.esp", func(i *Image) Size { return i.Disk.ESP }, 64 * MiB, 4 * GiB},
	{"disk.root", func(i *Image) Size { return i.Disk.Root }, GiB, 16 * TiB},
	{"disk.state", func(i *Image) Size { return cmp.Or(i.Disk.State, DefaultState) }, 128 * MiB, 16 * TiB},
	{"disk.phi", func(i *Image) Size { return i.Disk.PHI }, minPHI, maxPHI},
}

const minPHI, maxPHI = 32 * MiB, 16 * TiB

func (c check) disk() {
	for _, l := range limits {
		c.size(l.path, l.of(c.img), l.lo, l.hi)
	}
	for name, size := range c.img.Disk.Volumes {
		c.size("disk.volumes."+name, size, minPHI, maxPHI)
	}
}

func (c check) size(path string, size, lo, hi Size) {
	switch {
	case size < lo || size > hi:
		c.d.Fault(path, "", "is %s, want %s to %s", size, lo, hi)
	case size%MiB != 0:
		c.d.Fault(path, "partitions are aligned to it", "is %s, want whole MiB", size)
	}
}

// platforms are the sets of modules without which a disk in that format does not
// find itself where it is meant to run: a machine that could only halt.
var platforms = []struct{ format, set, where string }{
	{"ova", "vmware", "VMware"},
	{"vmdk", "vmware", "VMware"},
	{"vhd", "hyperv", "Hyper-V and Azure"},
	{"vhdx", "hyperv", "Hyper-V"},
}

func (c check) platforms() {
	for _, p := range platforms {
		i := slices.Index(c.img.Formats, p.format)
		if i >= 0 && !slices.Contains(c.img.Modules, p.set) && !slices.Contains(c.img.Modules, "generic") {
			c.d.Fault(fmt.Sprintf("formats[%d]", i), "add "+p.set+" to modules", "is %s, for %s, whose disks the initramfs would not find", p.format, p.where)
		}
	}
}

// ownArgs are the words of the kernel line that are ward's: they carry the
// safeguards, or would go around them.
var ownArgs = []string{
	"root", "rootfstype", "init", "rdinit", "initrd", "audit", "audit_backlog_limit", "console",
	"systemd.unit", "systemd.debug_shell", "systemd.debug-shell", "systemd.gpt_auto", "systemd.mask", "systemd.wants",
	"single", "emergency", "rescue", "S", "s", "1", "apparmor", "security", "lsm", "selinux", "enforcing", "mitigations", "nokaslr", "ignition.config.url",
}

func (c check) kernelArgs() {
	for i, a := range c.img.KernelArgs {
		at := fmt.Sprintf("kernel_args[%d]", i)
		key, _, _ := strings.Cut(a, "=")
		c.platform(at, a)
		switch {
		case a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }):
			c.d.Fault(at, "one word an entry", "is %q, which is not one plain word", a)
		case slices.Contains(ownArgs, key):
			c.d.Fault(at, "remove it", "is %q, which ward sets itself or which goes around a safeguard", a)
		}
	}
}

func once(d *strict.Document, at string, list []string) {
	for i, v := range list {
		if slices.Index(list, v) < i {
			d.Fault(fmt.Sprintf("%s[%d]", at, i), "remove one", "is %q again", v)
		}
	}
}
