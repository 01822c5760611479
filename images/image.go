// Package images says what a machine is: which release of which distribution,
// from which mirrors, with which extra packages, on which disk, in which
// formats. Images are strict YAML; those that ship with ward are embedded.
//
//	img, err := images.Load("debian-12")    // an embedded one, or
//	img, err := images.Load("./clinic.yaml") // a file
//
// What must hold on the machine is no part of it: that is a profile.
package images

import (
	"slices"
	"strings"

	"ward/images/arch"
	"ward/images/distro"
)

// Image is one image definition.
type Image struct {
	// The image's name; the folder of its build is called so.
	Name string `yaml:"name" json:"name" jsonschema:"pattern=^[a-z0-9][a-z0-9.-]*$,example=debian-12"`
	// The distribution, ID of os-release(5).
	Distro string `yaml:"distro" json:"distro" jsonschema:"minLength=1,example=debian"`
	// The release, VERSION_ID of os-release(5), in quotes.
	Release string `yaml:"release" json:"release" jsonschema:"minLength=1,example=\"12\""`
	// The processor.
	Arch string `yaml:"arch" json:"arch" jsonschema:"enum=amd64,enum=arm64"`
	// Where packages come from, tried in this order: URLs, to which ward adds the
	// release's components and pockets, or whole lines "deb ..." of sources.list(5).
	// None: the mirrors of the distribution itself.
	Mirrors []string `yaml:"mirrors,omitempty" json:"mirrors,omitempty" jsonschema:"example=[https://mirror.example.org/debian]"`
	// Where security updates come from when mirrors are named by URL; none: beside
	// the first of them, where the distribution's own archives have them.
	SecurityMirror string `yaml:"security_mirror,omitempty" json:"security_mirror,omitempty" jsonschema:"example=https://mirror.example.org/debian-security"`
	// The archive as it was at this time (UTC), from mirrors that keep the past and
	// serve it below URL/TIME. The machine keeps it, and gets no updates.
	Snapshot string `yaml:"snapshot,omitempty" json:"snapshot,omitempty" jsonschema:"pattern=^[0-9]{8}T[0-9]{6}Z$,example=20260101T000000Z"`
	// Further signed repositories, of which the machine gets updates too.
	Repositories []Repository `yaml:"repositories,omitempty" json:"repositories,omitempty"`
	// The file on this host with the keys that the mirrors' index is signed with;
	// none: that of the distribution's keyring package.
	Keyring string `yaml:"keyring,omitempty" json:"keyring,omitempty" jsonschema:"example=/usr/share/keyrings/debian-archive-keyring.gpg"`
	// A root file system that somebody else has made, which the machine's starts from:
	// tar:FILE (also .gz, .xz, .zst) or oci-dir:FOLDER, absolute. None: nothing.
	Base string `yaml:"base,omitempty" json:"base,omitempty" jsonschema:"pattern=^(tar|oci-dir):/,example=oci-dir:/srv/vendor/debian-12"`
	// Packages beside those that the profile's controls need.
	Packages []string `yaml:"packages,omitempty" json:"packages,omitempty" jsonschema:"pattern=^[A-Za-z0-9][A-Za-z0-9+._-]+$,example=[postgresql-client]"`
	// The kernel's package; none: the one that the release's row names.
	Kernel string `yaml:"kernel,omitempty" json:"kernel,omitempty" jsonschema:"pattern=^[A-Za-z0-9][A-Za-z0-9+._-]+$,example=linux-image-amd64"`
	// The sizes of the disk's partitions.
	Disk Disk `yaml:"disk" json:"disk"`
	// What to write: the disk in these formats, ova for an appliance, tar for the
	// tree of files alone. ward test and ward run boot qcow2.
	Formats []string `yaml:"formats" json:"formats" jsonschema:"minItems=1,enum=qcow2,enum=raw,enum=vmdk,enum=vhd,enum=vhdx,enum=ova,enum=tar,example=[qcow2]"`
	// Which kernel modules are in the initramfs: names of sets (virtio, nvme, scsi,
	// hyperv, vmware, xen, usb, mmc, tpm, net, or generic for all of them) and of modules.
	Modules Modules `yaml:"modules" json:"modules" jsonschema:"minItems=1,pattern=^[a-z0-9][a-z0-9_-]*$,example=virtio"`
	// What starts the machine: uefi always, and bios beside it where it is named; one
	// disk then starts under both. None: uefi.
	Firmware []string `yaml:"firmware,omitempty" json:"firmware,omitempty" jsonschema:"enum=uefi,enum=bios,example=[uefi]"`
	// Words added to the kernel line.
	KernelArgs []string `yaml:"kernel_args,omitempty" json:"kernel_args,omitempty" jsonschema:"example=[quiet]"`
}

// Disk are the sizes of the partitions, such as 512MiB or 2GiB.
type Disk struct {
	// The EFI system partition, FAT32; it holds two kernels.
	ESP Size `yaml:"esp" json:"esp" jsonschema:"example=256MiB"`
	// The root file system, ext4.
	Root Size `yaml:"root" json:"root" jsonschema:"example=2GiB"`
	// The partition with what a machine writes whose root is verified (integrity.root:
	// verity in the profile): /etc, /var, /home, /root. 1GiB when absent.
	State Size `yaml:"state,omitempty" json:"state,omitempty" jsonschema:"example=1GiB"`
	// The PHI partition, the last one; blank until the first boot.
	PHI Size `yaml:"phi" json:"phi" jsonschema:"example=512MiB"`
	// The partitions of the profile's further PHI volumes (controls.phi.volumes), by
	// the volume's name; blank until the first boot.
	Volumes map[string]Size `yaml:"volumes,omitempty" json:"volumes,omitempty" jsonschema:"example={archive: 64MiB}"`
	// What root gets of the space that a machine's disk has beyond these sizes, in
	// percent, on the first boot; PHI gets the rest, and all that comes later.
	RootShare int `yaml:"root_share,omitempty" json:"root_share,omitempty" jsonschema:"minimum=0,maximum=90"`
}

// DefaultState is the size of the state partition of an image that names none.
const DefaultState = GiB

// Modules names sets of kernel modules and single ones. In YAML it may be one word.
type Modules []string

// UnmarshalText reads one word.
func (m *Modules) UnmarshalText(text []byte) error {
	*m = Modules{string(text)}
	return nil
}

// Row returns what is known of the image's release.
func (i *Image) Row() (distro.Release, error) { return distro.Find(i.Distro, i.Release) }

// BIOS tells whether the disk starts under a BIOS as well.
func (i *Image) BIOS() bool { return slices.Contains(i.Firmware, "bios") }

// StartsFrom is what Base names: its kind, tar or oci-dir, and its path on this host.
func (i *Image) StartsFrom() (kind, file string) {
	kind, file, _ = strings.Cut(i.Base, ":")
	return kind, file
}

// KernelPackage is the package that the kernel comes from.
func (i *Image) KernelPackage() (string, error) {
	row, err := i.Row()
	if i.Kernel != "" {
		return i.Kernel, err
	}
	if err != nil {
		return "", err
	}
	return row.KernelOn(i.Arch)
}

// Processor returns what is known of the image's architecture.
func (i *Image) Processor() (arch.Arch, error) { return arch.Find(i.Arch) }
