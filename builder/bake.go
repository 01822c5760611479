package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ward/builder/command"
	"ward/builder/secrets"
	"ward/builder/sourceslist"
	"ward/firstboot"
	"ward/images/arch"
	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/initramfs/uki"
	"ward/profiles"
	"ward/profiles/control"
)

// BakeSpec is what the inner half of a build is told. It travels as JSON on
// standard input to this same program, started again in a namespace.
type BakeSpec struct {
	Installed string               `json:"installed"` // what settleTree left
	Output    string               `json:"output"`    // folder for the results
	Base      string               `json:"base"`      // file that gets the blocks of the file system below
	Arch      string               `json:"arch"`      // of the image
	Facts     firstboot.ImageFacts `json:"facts"`
	Config    handoff.Config       `json:"config"` // of init
	Profile   *profiles.Profile    `json:"profile"`
	Modules   []string             `json:"modules"` // of the initramfs: names or sets
	Cmdline   string               `json:"cmdline"`
	Wardctl   string               `json:"wardctl"`             // path of the binary
	Init      string               `json:"init"`                // path of the binary
	EmbedKey  string               `json:"embed_key,omitempty"` // path of the key file; empty: none
	RootSize  int64                `json:"root_size"`           // bytes
	RootUUID  string               `json:"root_uuid"`           // of the file system
	Mke2fs    string               `json:"mke2fs"`              // version of what makes it
	Sources   string               `json:"sources"`             // sources.list(5) to write; empty: what is there is right
	Apt       []sourceslist.File   `json:"apt,omitempty"`       // its sources, keys and pins where the image names some
	Fstab     string               `json:"fstab"`
	Epoch     int64                `json:"epoch"`            // SOURCE_DATE_EPOCH, seconds
	Tar       bool                 `json:"tar"`              // the tree as a tar as well
	Cache     string               `json:"cache"`            // folder of the cache, for the initramfs
	Code      string               `json:"code"`             // sha256 of ward, whose code makes it
	Verity    string               `json:"verity,omitempty"` // salt, 64 hex digits: root is read-only with a hash tree; empty: it is not
	Hold      string               `json:"hold,omitempty"`   // package that is not to be updated on the machine; empty: none
}

// What Bake leaves in BakeSpec.Output.
const (
	rootFile     = "root.blocks" // disk.Blocks over the base
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
	// SourceVersion is the version of the source package; a rebuild of it for one
	// architecture has another version ("+b1").
	SourceVersion string `json:"source_version"`
	// Licences as its copyright file calls them; empty: nobody told a program.
	Licences []string `json:"licences,omitempty"`
}

// Baked is what Bake found out.
type Baked struct {
	Image   string   `json:"image,omitempty"`   // name
	Profile string   `json:"profile,omitempty"` // name
	Kernel  string   `json:"kernel"`            // release: "6.1.0-56-cloud-amd64"
	Modules []string `json:"modules"`           // in the initramfs
	Verity  string   `json:"verity,omitempty"`  // handoff.Verity of root; empty: it has no hash tree
	Base    string   `json:"base,omitempty"`    // key of the file system that root differs from
}

// Bake applies every control to the unpacked packages and makes the initramfs,
// the UKI and the root file system from them. It must be root in its user and
// mount namespace.
func Bake(ctx context.Context, log *slog.Logger, s BakeSpec, note func(string)) (err error) {
	release, err := distro.Find(s.Facts.Distro, s.Facts.Release)
	if err != nil {
		return err
	}
	processor, err := arch.Find(s.Arch)
	if err != nil {
		return err
	}
	b := &bake{BakeSpec: s, log: log, release: release, arch: processor, work: filepath.Join(s.Output, ".work")}
	b.tree = filepath.Join(b.work, "tree")
	steps := []Step{
		{"layer", b.layer},
		{"system", b.system},
		{"controls", b.controls},
		{"wardctl", b.wardctl},
		{"hold", b.hold},
		{"packages", b.packages},
		{"initramfs", b.initramfs},
		{"boot loader", b.loader},
		{"labels", b.label},
		{"times", b.times},
		{"file system", b.finish},
		{"kernel image", b.kernelImage},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, b.close())
	}()
	for _, step := range steps {
		note(step.Name)
		start := time.Now()
		if err := step.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		log.Debug("baked", "step", step.Name, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// bake is one run of Bake.
type bake struct {
	BakeSpec
	log     *slog.Logger
	release distro.Release
	arch    arch.Arch
	work    string // for the tree; removed at the end
	tree    string
	root    *os.Root
	upper   string           // layer of our own; empty: the tree is a copy
	mounts  []string         // inside the tree
	facts   treeFacts        // of the tree of packages
	lower   *later[survey]   // of the tree of packages, which is what it was
	packed  *later[packed]   // the initramfs
	based   *later[base]     // the file system of the tree of packages
	kept    *later[struct{}] // what the cache keeps of it
	last    survey           // of the finished tree
	baked   Baked
}

// layer puts a layer of our own over the tree of packages, which stays as it is: it
// is shared with every other image of these packages. While the layer is worked
// on, the tree below is compared with its digest, and the initramfs and the file
// system of that tree are made.
func (b *bake) layer(ctx context.Context) (err error) {
	if b.facts, err = readFacts(b.Installed); err != nil {
		return err
	}
	upper, work := filepath.Join(b.work, "upper"), filepath.Join(b.work, "work")
	for _, dir := range []string{upper, work, b.tree} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	lower := filepath.Join(b.Installed, treeDir)
	b.lower = begin(func() (survey, error) { return b.surveyLower(ctx) })
	b.packed = begin(func() (packed, error) { return b.pack(ctx, lower) })
	b.beginBase(ctx, lower)
	// A file that is not in our layer is the one below of the same name: no redirects (overlayfs.rst).
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=off,metacopy=off"
	if !initialNamespace() {
		options = "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",userxattr" // elsewhere overlayfs may not set trusted.*, and so makes no redirects
	}
	if err := command.Run(ctx, b.log, "mount", "-t", "overlay", "-o", options, "overlay", b.tree); err == nil {
		b.upper = upper
	} else {
		// A cache that is itself on overlayfs, as in a container, takes no layer: a copy does as well.
		b.log.Warn("no overlay mount, the tree is copied", "why", err)
		if err := command.Run(ctx, b.log, "cp", "--archive", "--reflink=auto", lower+"/.", b.tree); err != nil {
			return err
		}
	}
	b.root, err = os.OpenRoot(b.tree)
	return err
}

// surveyLower reads the tree of packages, which must be what it was.
func (b *bake) surveyLower(ctx context.Context) (survey, error) {
	// Another ward may know of other secrets than the one that looked for them.
	return b.facts.survey(ctx, b.Installed, b.facts.Code != b.Code)
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
	if b.lower != nil {
		b.lower.wait()
		b.packed.wait()
		b.kept.wait()
		b.based.wait()
	}
	if b.upper != "" {
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
		Phase: control.Bake, Root: b.root, Release: b.release, Arch: b.arch, Profile: b.Profile, Log: b.log, Run: b.run,
	}
	for _, id := range control.LeftOut(b.Profile, b.release) {
		b.log.Warn("a control of the profile is left out: the release has no program for it", "control", id, "release", b.release.Name(), "remedy", "set controls."+id+".enabled: false")
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

// hold keeps the package manager from an update that the machine could not start.
func (b *bake) hold(ctx context.Context) error {
	if b.Hold == "" {
		return nil
	}
	d := databases[b.release.Format]
	argv := d.hold(b.Hold)
	out, err := b.run(ctx, argv...)
	if err == nil && !strings.Contains(out, b.Hold+d.held) {
		err = fmt.Errorf("%s says %q", command.Quote(argv), out)
	}
	return err
}

// packages writes down what the distribution's database has.
func (b *bake) packages(ctx context.Context) error {
	d := databases[b.release.Format]
	out, err := b.run(ctx, d.query...)
	if err != nil {
		return err
	}
	all, err := d.parse(b.root, out)
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(b.Output, packagesFile), all)
}

// initPath is the init that the machine makes its own initramfs with.
const initPath = "usr/lib/ward/init"

// initramfs puts the kernel and its initramfs where the results are.
func (b *bake) initramfs(context.Context) error {
	p, err := b.packed.wait()
	if err != nil {
		return err
	}
	b.baked = p.Baked
	b.baked.Image, b.baked.Profile = b.Facts.Name, b.Profile.Name
	if err := copyFile(filepath.Join(b.Output, kernelFile), filepath.Join(b.tree, b.release.KernelPath(p.Kernel))); err != nil {
		return err
	}
	if err := installFile(b.root, initPath, p.init, 0o755); err != nil {
		return err
	}
	// The machine gets the embedded keys as well: it formats the volume with them, and
	// packs them again when its kernel is updated. Verify finds them there and turns red.
	for name, data := range p.keys {
		if err := installFile(b.root, path.Join(handoff.KeysDir[1:], name), data, 0o400); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(b.Output, initrdFile), p.image, 0o644)
}

// loader takes the boot loader out of the tree, and leaves in it what wardctl needs
// to make the next UKI: the kernel line, but for what a verified root is, which it
// cannot hold itself.
func (b *bake) loader(context.Context) error {
	if err := installFile(b.root, "usr/lib/ward/cmdline", []byte(b.Cmdline+"\n"), 0o644); err != nil {
		return err
	}
	return copyFile(filepath.Join(b.Output, loaderFile), filepath.Join(b.tree, b.arch.File(b.release.Loader)))
}

// Line is the kernel line that belongs to a root: it says what root must be.
func (k Baked) Line(cmdline string) string {
	if k.Verity == "" {
		return cmdline
	}
	return cmdline + " " + handoff.VerityWord + "=" + k.Verity
}

// kernelImage makes the UKI, after everything that its kernel line speaks of.
func (b *bake) kernelImage(context.Context) error {
	var parts uki.Parts
	for _, f := range []struct {
		to   *[]byte
		from string
	}{
		{&parts.Stub, filepath.Join(b.tree, b.arch.File(b.release.Stub))},
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
	parts.Cmdline, parts.OSRelease, parts.Uname = b.baked.Line(b.Cmdline), string(osRelease), b.baked.Kernel
	var image bytes.Buffer
	if err := uki.Write(&image, parts); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.Output, ukiFile), image.Bytes(), 0o644); err != nil {
		return err
	}
	return writeJSON(filepath.Join(b.Output, bakedFile), b.baked)
}

// times sets every time that is later than the epoch to the epoch, so that the
// moment of the build leaves no trace.
func (b *bake) times(ctx context.Context) error {
	if err := b.unmount(); err != nil { // the host's /proc and /dev are none of it
		return err
	}
	return cutTimes(ctx, b.log, b.tree, b.Epoch)
}

// cutTimes sets every time of a tree that is later than the epoch to the epoch.
func cutTimes(ctx context.Context, log *slog.Logger, tree string, epoch int64) error {
	at := "@" + strconv.FormatInt(epoch, 10)
	return command.Run(ctx, log, "find", tree, "-newermt", at, "-exec", "touch", "--no-dereference", "--date="+at, "{}", "+")
}

// finish makes everything that is read off the finished tree, at once.
func (b *bake) finish(ctx context.Context) error {
	if _, err := b.lower.wait(); err != nil {
		return err
	}
	var err error
	if b.last, err = surveyTree(ctx, b.tree, true, b.unchanged()); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, step := range []Step{{"file system", b.filesystem}, {"listing and secret gate", b.inspect}, {"tar", b.tar}} {
		group.Go(func() error {
			start := time.Now()
			defer func() { b.log.Debug("baked", "part", step.Name, "took", time.Since(start).Round(time.Millisecond)) }()
			return step.Run(ctx)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = b.kept.wait()
	return err
}

// inspect writes the listing of the tree and refuses one with a secret in it.
func (b *bake) inspect(context.Context) error {
	found, err := b.last.secrets()
	if err != nil {
		return err
	}
	if err := secrets.Refuse(found); err != nil {
		return fmt.Errorf("secret gate: %w", err)
	}
	return b.last.writeListing(filepath.Join(b.Output, listingFile))
}

// unchanged returns the digests of files that are still those of the unpacked
// tree, less its suspects. They were read this minute, and the gate saw them when
// the tree was unpacked.
func (b *bake) unchanged() func(string, fs.FileInfo) (string, bool) {
	lower, err := b.lower.wait()
	if err != nil || b.upper == "" {
		return nil
	}
	below := make(map[string]surveyed, len(lower))
	for _, e := range lower {
		if e.info.Mode().IsRegular() && len(e.found) == 0 && !slices.Contains(b.facts.Suspects, e.path) {
			below[e.path] = e
		}
	}
	return func(path string, info fs.FileInfo) (string, bool) {
		e, ok := below[path]
		if !ok || e.info.Size() != info.Size() {
			return "", false
		}
		return e.sum, b.untouched(path)
	}
}

// untouched tells whether a file of the tree is the one below, because our layer has none.
func (b *bake) untouched(path string) bool {
	if b.upper == "" {
		return false
	}
	_, err := os.Lstat(b.upper + path)
	return errors.Is(err, fs.ErrNotExist)
}

// tar packs the tree for a container in which suites of tests run.
func (b *bake) tar(ctx context.Context) error {
	if !b.Tar {
		return nil
	}
	argv := append([]string{"tar", "--create", "--file=" + filepath.Join(b.Output, tarFile), "--use-compress-program=gzip -n -1", "--directory=" + b.tree}, treeTar...)
	return command.Run(ctx, b.log, append(argv, ".")...)
}
