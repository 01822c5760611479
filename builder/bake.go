package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ward/builder/command"
	"ward/builder/disk"
	"ward/builder/secrets"
	"ward/firstboot"
	"ward/images/distro"
	"ward/initramfs"
	"ward/initramfs/handoff"
	"ward/initramfs/uki"
	"ward/profiles"
	"ward/profiles/control"
)

// BakeSpec is what the inner half of a build is told. It travels as JSON on
// standard input to this same program, started again in a namespace.
type BakeSpec struct {
	Unpacked string               `json:"unpacked"` // what unpack left
	Output   string               `json:"output"`   // folder for the results
	Facts    firstboot.ImageFacts `json:"facts"`
	Config   handoff.Config       `json:"config"` // of init
	Profile  *profiles.Profile    `json:"profile"`
	Modules  []string             `json:"modules"` // of the initramfs: names or sets
	Cmdline  string               `json:"cmdline"`
	Wardctl  string               `json:"wardctl"`             // path of the binary
	Init     string               `json:"init"`                // path of the binary
	EmbedKey string               `json:"embed_key,omitempty"` // path of the key file; empty: none
	RootSize int64                `json:"root_size"`           // bytes
	RootUUID string               `json:"root_uuid"`           // of the file system
	Sources  string               `json:"sources"`             // sources.list(5) to write; empty: what is there is right
	Fstab    string               `json:"fstab"`
	Epoch    int64                `json:"epoch"` // SOURCE_DATE_EPOCH, seconds
	Tar      bool                 `json:"tar"`   // the tree as a tar as well
}

// What Bake leaves in BakeSpec.Output.
const (
	rootFile     = "root.ext4"
	kernelFile   = "vmlinuz"
	initrdFile   = "initramfs.img"
	ukiFile      = "ward.efi"
	loaderFile   = "loader.efi"
	packagesFile = "packages.json"
	bakedFile    = "baked.json"
	tarFile      = "root.tar.gz"
)

// Package is one installed package, as the distribution's database says.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Source  string `json:"source"` // name of the source package
}

// Baked is what Bake found out.
type Baked struct {
	Kernel  string   `json:"kernel"`  // release: "6.1.0-56-cloud-amd64"
	Modules []string `json:"modules"` // in the initramfs
}

// Bake applies every control to the unpacked packages and makes the initramfs,
// the UKI and the root file system from them. It must be root in its user and
// mount namespace.
func Bake(ctx context.Context, log *slog.Logger, s BakeSpec, note func(string)) (err error) {
	release, err := distro.Find(s.Facts.Distro, s.Facts.Release)
	if err != nil {
		return err
	}
	b := &bake{BakeSpec: s, log: log, release: release, work: filepath.Join(s.Output, ".work")}
	b.tree = filepath.Join(b.work, "tree")
	steps := []Step{
		{"layer", b.layer},
		{"system", b.system},
		{"controls", b.controls},
		{"wardctl", b.wardctl},
		{"packages", b.packages},
		{"initramfs", b.initramfs},
		{"boot", b.boot},
		{"secret gate", b.gate},
		{"times", b.times},
		{"listing", b.list},
		{"file system", b.filesystem},
		{"tar", b.tar},
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, step := range steps {
		note(step.Name)
		if err := step.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	return nil
}

// treeChanged is said of an unpacked tree that is no longer what it was.
const treeChanged = "was changed since it was unpacked"

// bake is one run of Bake.
type bake struct {
	BakeSpec
	log      *slog.Logger
	release  distro.Release
	work     string // for the tree; removed at the end
	tree     string
	root     *os.Root
	layered  bool       // the tree is an overlay mount
	mounts   []string   // inside the tree
	verified chan error // how the comparison of the unpacked tree ended
	baked    Baked
}

// layer puts a layer of our own over the unpacked tree, which stays as it is: it
// is shared with every other image of these packages. While the layer is worked
// on, the tree below is compared with its digest.
func (b *bake) layer(ctx context.Context) error {
	var want treeFacts
	if err := readJSON(filepath.Join(b.Unpacked, treeFile), &want); err != nil {
		return err
	}
	lower := filepath.Join(b.Unpacked, treeDir)
	b.verified = make(chan error, 1)
	go func() {
		got, err := treeDigest(ctx, lower)
		if err == nil && got != want.Digest {
			err = fmt.Errorf("%s %s\nhint: remove %s, the next build unpacks it again", lower, treeChanged, b.Unpacked)
		}
		b.verified <- err
	}()
	dirs := []string{filepath.Join(b.work, "upper"), filepath.Join(b.work, "work"), b.tree}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + lower + ",upperdir=" + dirs[0] + ",workdir=" + dirs[1]
	if !initialNamespace() {
		options += ",userxattr" // elsewhere overlayfs may not set trusted.* (overlayfs.rst)
	}
	if err := command.Run(ctx, b.log, "mount", "-t", "overlay", "-o", options, "overlay", b.tree); err == nil {
		b.layered = true
	} else {
		// A cache that is itself on overlayfs, as in a container, takes no layer: a copy does as well.
		b.log.Warn("no overlay mount, the tree is copied", "why", err)
		if err := command.Run(ctx, b.log, "cp", "--archive", "--reflink=auto", lower+"/.", b.tree); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(b.tree)
	b.root = root
	return err
}

// run executes a program in the tree. The tree's /proc and /dev are there from
// the first call on: programs of packages expect them.
func (b *bake) run(ctx context.Context, argv ...string) (string, error) {
	if len(b.mounts) == 0 {
		for _, m := range [][]string{{"--rbind", "/dev", "dev"}, {"-t", "proc", "proc", "proc"}} {
			at := filepath.Join(b.tree, m[len(m)-1])
			argv := append([]string{"mount"}, m[:len(m)-1]...)
			if err := command.Run(ctx, b.log, append(argv, at)...); err != nil {
				return "", err
			}
			b.mounts = append(b.mounts, at)
		}
	}
	var out bytes.Buffer
	err := command.Start(ctx, b.log, command.Spec{
		Argv: append([]string{"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
			"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.Epoch, 10)}, argv...),
		Chroot: b.tree, Stdout: &out,
	})
	return out.String(), err
}

// unmount takes /proc and /dev out of the tree again. The mount namespace is
// ours alone, so a lazy unmount reaches nothing of the host. It takes what is
// mounted below along; asking for that one by one (umount --recursive) fails for
// an ordinary user, whose namespace holds the host's mounts together as one
// (mount_namespaces(7), "Restrictions on mount namespaces").
func (b *bake) unmount() error {
	var faults []error
	for len(b.mounts) > 0 {
		at := b.mounts[len(b.mounts)-1]
		b.mounts = b.mounts[:len(b.mounts)-1]
		if err := command.Run(context.Background(), b.log, "umount", "--lazy", at); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (b *bake) close() error {
	if err := b.unmount(); err != nil {
		return err // never remove a tree that still has the host's /dev in it
	}
	if b.root != nil {
		b.root.Close()
	}
	if b.layered {
		if err := command.Run(context.Background(), b.log, "umount", "--lazy", b.tree); err != nil {
			return err
		}
	}
	return os.RemoveAll(b.work)
}

// initialNamespace tells whether we are in the kernel's first user namespace,
// where user ids are what they seem (user_namespaces(7)).
func initialNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// controls applies every control, in the catalogue's order.
func (b *bake) controls(ctx context.Context) error {
	target := &control.Target{
		Phase: control.Bake, Root: b.root, Release: b.release, Profile: b.Profile, Log: b.log, Run: b.run,
	}
	for _, c := range control.Catalogue(b.Profile, b.release) {
		if err := control.Apply(ctx, c, target); err != nil {
			return err
		}
	}
	return nil
}

func (b *bake) wardctl(context.Context) error {
	binary, err := os.ReadFile(b.Wardctl)
	if err != nil {
		return err
	}
	facts := b.Facts
	facts.Init, facts.Modules = b.Config, b.Modules
	return firstboot.Install(b.root, binary, b.Profile, facts)
}

// packages writes down what the distribution's database has.
func (b *bake) packages(ctx context.Context) error {
	out, err := b.run(ctx, "dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\t${source:Package}\n")
	if err != nil {
		return err
	}
	var all []Package
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 4 {
			return fmt.Errorf("dpkg-query: cannot read %q", line)
		}
		all = append(all, Package{f[0], f[1], f[2], f[3]})
	}
	if len(all) == 0 {
		return errors.New("dpkg-query: no package is installed")
	}
	return writeJSON(filepath.Join(b.Output, packagesFile), all)
}

// initramfs takes the kernel out of the tree and makes its initramfs.
func (b *bake) initramfs(context.Context) error {
	kernels, err := filepath.Glob(filepath.Join(b.tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the tree has %d kernels in /boot, want one (%q)", len(kernels), kernels)
	}
	b.baked.Kernel = strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := copyFile(filepath.Join(b.Output, kernelFile), kernels[0]); err != nil {
		return err
	}
	init, err := os.ReadFile(b.Init)
	if err != nil {
		return err
	}
	keys, err := b.keys()
	if err != nil {
		return err
	}
	var image bytes.Buffer
	result, err := initramfs.Build(&image, initramfs.Spec{
		Init: init, KernelVersion: b.baked.Kernel, Modules: b.Modules, Config: b.Config, Keys: keys,
		ModulesFS: os.DirFS(filepath.Join(b.tree, "usr/lib/modules", b.baked.Kernel)),
	})
	if err != nil {
		return err
	}
	b.baked.Modules = result.Modules
	// The machine makes its own initramfs from this one when its kernel is updated.
	if err := installFile(b.root, "usr/lib/ward/init", init, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.Output, initrdFile), image.Bytes(), 0o644); err != nil {
		return err
	}
	return writeJSON(filepath.Join(b.Output, bakedFile), b.baked)
}

// keys are the key files to embed. The machine gets them as well: it formats the
// volume with them, and packs them again when its kernel is updated. Verify finds
// them there and turns red.
func (b *bake) keys() (map[string][]byte, error) {
	if b.EmbedKey == "" {
		return nil, nil
	}
	data, err := os.ReadFile(b.EmbedKey)
	if err != nil {
		return nil, err
	}
	keys := map[string][]byte{}
	for _, v := range b.Config.Volumes {
		keys[v.KeyFile] = data
		if err := installFile(b.root, path.Join(handoff.KeysDir[1:], v.KeyFile), data, 0o400); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// boot makes the UKI and takes the boot loader out of the tree.
func (b *bake) boot(context.Context) error {
	var parts uki.Parts
	for _, f := range []struct {
		to   *[]byte
		from string
	}{
		{&parts.Stub, filepath.Join(b.tree, b.release.Stub)},
		{&parts.Linux, filepath.Join(b.Output, kernelFile)},
		{&parts.Initrd, filepath.Join(b.Output, initrdFile)},
	} {
		data, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		*f.to = data
	}
	osRelease, err := b.root.ReadFile("usr/lib/os-release")
	if err != nil {
		return err
	}
	parts.Cmdline, parts.OSRelease, parts.Uname = b.Cmdline, string(osRelease), b.baked.Kernel
	var image bytes.Buffer
	if err := uki.Write(&image, parts); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.Output, ukiFile), image.Bytes(), 0o644); err != nil {
		return err
	}
	// What wardctl needs to make the next UKI.
	if err := installFile(b.root, "usr/lib/ward/cmdline", []byte(b.Cmdline+"\n"), 0o644); err != nil {
		return err
	}
	return copyFile(filepath.Join(b.Output, loaderFile), filepath.Join(b.tree, b.release.Loader))
}

// gate refuses a tree with a secret in it.
func (b *bake) gate(context.Context) error {
	if err := b.unmount(); err != nil { // the host's /proc and /dev are none of it
		return err
	}
	found, err := secrets.Scan(b.root.FS())
	if err != nil {
		return err
	}
	return secrets.Refuse(found)
}

// times sets every time that is later than the epoch to the epoch, so that the
// moment of the build leaves no trace.
func (b *bake) times(ctx context.Context) error {
	at := "@" + strconv.FormatInt(b.Epoch, 10)
	return command.Run(ctx, b.log, "find", b.tree, "-newermt", at, "-exec", "touch", "--no-dereference", "--date="+at, "{}", "+")
}

// filesystem makes the root file system from the tree.
func (b *bake) filesystem(ctx context.Context) error {
	if err := <-b.verified; err != nil {
		return err
	}
	err := disk.WriteExt4(ctx, b.log, filepath.Join(b.Output, rootFile), disk.Ext4{
		Tree: b.tree, UUID: b.RootUUID, Size: b.RootSize, Epoch: b.Epoch,
	})
	if errors.Is(err, disk.ErrTooSmall) {
		return fmt.Errorf("%w into %d MiB\nhint: raise disk.root in the image file", disk.ErrTooSmall, b.RootSize>>20)
	}
	return err
}

// tar packs the tree for a container in which suites of tests run. The names are
// sorted and the times of access left out, so that equal trees give equal bytes;
// file capabilities are extended attributes.
func (b *bake) tar(ctx context.Context) error {
	if !b.Tar {
		return nil
	}
	return command.Run(ctx, b.log, "tar", "--create", "--file="+filepath.Join(b.Output, tarFile), "--use-compress-program=gzip -n -1",
		"--directory="+b.tree, "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
		"--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*", ".")
}
