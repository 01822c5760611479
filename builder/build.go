package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"ward/builder/cache"
	"ward/builder/disk"
	"ward/builder/rootfs"
	"ward/builder/sourceslist"
	"ward/firstboot"
	"ward/images/arch"
	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/initramfs/loader"
	"ward/profiles"
)

// build is one run of Build.
type build struct {
	Options
	release   distro.Release
	arch      arch.Arch
	cache     *cache.Cache
	inputs    Inputs
	digest    string           // of the inputs
	made      time.Time        // when the packages were current
	apt       *sourceslist.Set // deb: where packages come from
	base      *cache.Entry     // the tree of packages
	unhold    func()           // lets others make it anew; nil: it is not held
	installed bool             // the packages were installed by this build
	treeSum   string           // of the tree of packages, see treeFacts
	baked     *cache.Entry
	rootBase  *cache.Entry // what root in baked differs from
	root      disk.Layers  // the root file system
	rootPart  disk.Part    // where it is on the disk
	work      string       // unfinished output, beside the final one
	workLock  *os.File
	result    *Manifest
	log       *fullLog
	event     Event // of the running step
	percent   int64 // of the running downloads
}

// Plan returns the steps of a build, in order.
func Plan(o Options) ([]Step, error) {
	b, err := newBuild(o)
	if err != nil {
		return nil, err
	}
	return b.steps(), nil
}

func newBuild(o Options) (*build, error) {
	release, err := distro.Find(o.Image.Distro, o.Image.Release)
	if err != nil {
		return nil, err
	}
	if err := CheckVolumes("image "+o.Image.Name, o.Image, "profile "+o.Profile.Name, o.Profile); err != nil {
		return nil, err
	}
	processor, err := o.Image.Processor()
	if err != nil {
		return nil, err
	}
	if o.Binaries != (Binaries{}) { // a plan has none
		if o.Binaries, err = o.Binaries.For(processor.Name); err != nil {
			return nil, err
		}
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Cache, err = cacheFolder(o.Cache); err != nil {
		return nil, err
	}
	return &build{Options: o, release: release, arch: processor}, nil
}

// OpenCache opens the cache in a folder; empty: the default one.
func OpenCache(dir string, log *slog.Logger) (*cache.Cache, error) {
	dir, err := cacheFolder(dir)
	if err != nil {
		return nil, err
	}
	return cache.Open(dir, log, removeTree(log))
}

// cacheFolder is the folder that somebody names, or the default one.
func cacheFolder(dir string) (string, error) {
	if dir == "" {
		return DefaultCache()
	}
	return dir, nil
}

func (b *build) steps() []Step {
	steps := []Step{
		{"inputs", b.compare},
		{"packages", b.packages},
		{"system", b.system},
		{"disk", b.disk},
		{"formats", b.formats},
		{"sbom", b.bill},
		{"manifest", b.manifest},
	}
	if b.Remote != "" {
		steps = append(steps, Step{"share", b.share})
	}
	return steps
}

// errUpToDate ends a build whose output is there already.
var errUpToDate = errors.New("up to date")

// Build builds the image and returns its manifest. The output folder appears, or
// is replaced, as a whole and only at the end. If it has these inputs' image
// already, nothing is written.
func Build(ctx context.Context, o Options) (*Manifest, error) {
	b, err := newBuild(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		b.root.Close()
		b.letGo()
		if b.work != "" {
			os.RemoveAll(b.work)
		}
		if b.workLock != nil {
			b.workLock.Close()
		}
		if b.log != nil {
			b.log.Close()
		}
	}()
	if err := b.run(ctx, b.steps()); err != nil && !errors.Is(err, errUpToDate) {
		return nil, err
	}
	return b.result, nil
}

// run runs steps in order and tells how they go.
func (b *build) run(ctx context.Context, steps []Step) error {
	for i, step := range steps {
		start := time.Now()
		b.event = Event{Kind: Done, Step: step.Name, Number: i + 1, Total: len(steps)}
		started := b.event
		started.Kind = Started
		b.Events(started)
		err := step.Run(ctx)
		b.event.Took = time.Since(start)
		if err != nil && !errors.Is(err, errUpToDate) {
			b.event.Kind, b.event.Err = Failed, err
			b.Events(b.event)
			return b.logged(b.hinted(fmt.Errorf("build %s: %s: %w", b.Image.Name, step.Name, err)))
		}
		b.Events(b.event)
		if err != nil {
			return err
		}
	}
	return nil
}

// hinted adds what to do about a full disk, which any step may meet.
func (b *build) hinted(err error) error {
	if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "\nhint: ") {
		return err
	}
	return fmt.Errorf("%w\nhint: free disk space: the image is made beside %s (-o), what is kept lies in %s (--cache)", err, b.Output, b.Cache)
}

func (b *build) note(text string) {
	e := b.event
	e.Kind, e.Text = Note, text
	b.Events(e)
}

// packages installs the packages, or takes their tree from the cache.
func (b *build) packages(ctx context.Context) error {
	if err := b.openLog(ctx); err != nil {
		return err
	}
	return b.fetch(ctx, b.Update && b.Lock == nil)
}

// letGo lets others make the tree of packages anew.
func (b *build) letGo() {
	if b.unhold != nil {
		b.unhold()
		b.unhold = nil
	}
}

func (b *build) damagedPackages(why error) {
	b.Log.Warn("the cached packages are damaged and are installed again", "why", why)
}

// refetch installs the packages anew, although there is a tree.
func (b *build) refetch(ctx context.Context) error {
	event := b.event
	defer func() { b.event = event }()
	return b.fetch(ctx, true)
}

// fetch installs the packages or takes their tree from the cache, and holds it: an image
// is made on top of it.
func (b *build) fetch(ctx context.Context, fresh bool) error {
	b.letGo()
	in := b.inputs.Packages
	key, err := cache.Key(in)
	if err != nil {
		return err
	}
	if b.cache == nil {
		if b.cache, err = cache.Open(b.Cache, b.Log, removeTree(b.Log)); err != nil {
			return err
		}
	}
	e, hit, err := b.cache.Get(ctx, packagesKind, key, fresh, func(ctx context.Context, dir string) error {
		if !fresh {
			if found, err := b.fromRegistry(ctx, key, dir); found || err != nil {
				return err
			}
		}
		b.installed = true
		if err := os.MkdirAll(filepath.Dir(b.transcript()), 0o700); err != nil {
			return err
		}
		transcript, err := os.Create(b.transcript())
		if err != nil {
			return err
		}
		defer transcript.Close()
		// Times are cut to now: that is when these packages were current.
		spec := rootfs.Spec{
			Release: b.release, Arch: in.Arch, Keyring: b.Image.Keyring, Packages: in.Packages, Epoch: time.Now().Unix(),
			Base: b.vendor(),
		}
		removeKeys, err := b.fromArchive(&spec)
		if err != nil {
			return err
		}
		defer removeKeys()
		if b.Lock != nil {
			remove, err := b.fromLock(ctx, &spec)
			if err != nil {
				return err
			}
			defer remove()
		}
		if err := rootfs.Bootstrap(ctx, b.Log, spec, filepath.Join(dir, treeDir), transcript, b.note); err != nil {
			return fmt.Errorf("%w\nhint: all that was said is in %s", err, transcript.Name())
		}
		return b.inside(ctx, Inside{Settle: &SettleSpec{Dir: dir, Epoch: spec.Epoch, Code: b.inputs.Binaries["ward"]}})
	})
	if err != nil {
		return err
	}
	if e, b.unhold, err = b.cache.Hold(ctx, packagesKind, key); err != nil {
		return err
	}
	if hit { // the tree itself is read when it is used
		if err := e.Verify(treeFile); err != nil {
			b.damagedPackages(err)
			return b.fetch(ctx, true)
		}
	}
	facts, err := readFacts(e.Dir)
	if err != nil {
		return err
	}
	b.base, b.treeSum = e, facts.Digest
	switch {
	case hit && b.Lock != nil:
		b.event.Kind = Cached
	case hit:
		b.event.Kind = Cached
		b.event.Text = fmt.Sprintf("fetched %s ago, --update asks the mirror again", time.Since(madeOf(e)).Round(time.Minute))
	case !b.installed:
		b.event.Text = "from " + b.remoteRef(key)
	}
	return b.dated(madeOf(e))
}

// epoch is the time that files get, at most.
func (b *build) epoch() int64 { return b.made.Unix() }

// id derives a UUID from the inputs, so that equal inputs give equal disks and
// the disks of two images never meet under one name.
func (b *build) id(name string) string {
	sum := []byte(b.digest + "/" + name)
	return uuid.NewSHA1(uuid.MustParse(handoff.PHIType), sum).String()
}

// cmdline is the kernel line. Each word has a reason:
// audit=1 and the backlog make processes before auditd auditable (auditd(8));
// the last console= is where /dev/console goes, which a server's serial port or
// a cloud's console log shows; gpt_auto=0 because fstab says what is mounted;
// panic=30 so that a machine nobody watches comes back;
// loglevel=5 keeps what is no warning, such as each audit record before auditd
// runs, off the console: it is in the journal, and a slow serial port holds up
// the boot.
func (b *build) cmdline() string {
	line := fmt.Sprintf("root=PARTUUID=%s ro audit=1 audit_backlog_limit=%d console=tty0 console=%s systemd.gpt_auto=0 panic=30 loglevel=5",
		b.id("root"), b.Profile.Controls.Audit.Backlog, b.arch.Console)
	for _, arg := range b.Image.KernelArgs {
		line += " " + arg
	}
	return line
}

func (b *build) fstab() string {
	if b.verified() {
		return b.verifiedFstab()
	}
	return fmt.Sprintf(`# /etc/fstab: see fstab(5). The PHI volume's line is added when the machine formats it.
PARTUUID=%s / ext4 defaults,errors=remount-ro 0 1
PARTUUID=%s /efi vfat noauto,umask=0077 0 0
`, b.id("root"), b.id("esp"))
}

// initConfig is what init is told.
func (b *build) initConfig() handoff.Config {
	c := handoff.Config{
		Version: handoff.Version, OnFailure: b.Profile.Controls.PHI.OnFailure,
		Verity:  b.verified(),
		Volumes: b.Profile.Controls.PHI.Handoff(),
	}
	for _, s := range b.Profile.Controls.PHI.KeySources {
		c.Sources = append(c.Sources, s.Source())
	}
	return c
}

// init is the binary that has every key source which the profile asks for; the
// small one unless it must be the other.
func (b *build) init() string {
	if network, tpm := b.initConfig().Needs(); network || tpm {
		return b.Binaries.NetInit
	}
	return b.Binaries.Init
}

// errDamaged is in the error of a step that met a damaged cache entry.
var errDamaged = errors.New("the cache is damaged")

// system bakes the tree inside a namespace, or takes the result from the cache.
// A result or a tree whose bytes have changed is made again.
func (b *build) system(ctx context.Context) (err error) {
	parent := filepath.Dir(filepath.Clean(b.Output))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if b.work, b.workLock, err = workFolder(parent, filepath.Base(b.Output)); err != nil {
		return err
	}
	fresh := false
	for range 3 { // each of the two may be damaged
		b.event.Kind = Done
		err = b.bakeSystem(ctx, fresh)
		if err == nil && b.event.Kind == Cached {
			err = b.restoreSystem(ctx)
		}
		switch {
		case err != nil && strings.Contains(err.Error(), treeChanged): // the inner program's error is text
			b.damagedPackages(err)
			if err := b.refetch(ctx); err != nil {
				return err
			}
		case errors.Is(err, errDamaged):
			b.Log.Warn("the cached system is damaged and is baked again", "why", err)
			fresh = true
		default:
			return err
		}
	}
	return err
}

// restoreSystem reads a system from the cache and the file system below it, and makes
// the blocks of that.
func (b *build) restoreSystem(ctx context.Context) error {
	if b.rootBase == nil {
		return fmt.Errorf("%w: the file system below it is gone", errDamaged)
	}
	for _, e := range []*cache.Entry{b.baked, b.rootBase} {
		if err := e.Verify(slices.Sorted(maps.Keys(e.Files))...); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	return b.inside(ctx, Inside{Base: &BaseSpec{Installed: b.base.Dir, Entry: b.rootBase.Dir, Output: b.baseBlocks()}})
}

// baseBlocks are the blocks of the file system below, until the disk is made.
func (b *build) baseBlocks() string { return filepath.Join(b.work, "base.blocks") }

func (b *build) bakeSystem(ctx context.Context, fresh bool) error {
	e, hit, err := b.cache.Get(ctx, "system", b.digest, fresh, func(ctx context.Context, dir string) error {
		return b.inside(ctx, Inside{Bake: &BakeSpec{
			Installed: b.base.Dir, Output: dir, Base: b.baseBlocks(), Arch: b.arch.Name,
			Facts:  firstboot.ImageFacts{Name: b.Image.Name, Distro: b.release.ID, Release: b.release.Version, Digest: b.digest, Tool: b.Version, RootShare: b.Image.Disk.RootShare, SecureBoot: b.inputs.SecureBoot, Verity: b.verified()},
			Config: b.initConfig(), Profile: b.Profile, Modules: b.Image.Modules, Cmdline: b.cmdline(),
			Wardctl: b.Binaries.Wardctl, Init: b.init(), EmbedKey: b.EmbedKey,
			RootSize: b.Image.Disk.Root.Bytes(), RootUUID: b.id("root file system"), Mke2fs: b.inputs.Tools["mke2fs"], Fstab: b.fstab(), Sources: b.sources(), Apt: b.machineApt(), Epoch: b.epoch(),
			Tar: slices.Contains(b.Image.Formats, "tar"), Cache: b.Cache, Code: b.inputs.Binaries["ward"], Hold: b.held(), Verity: b.salt(),
		}})
	})
	if err != nil {
		return err
	}
	b.baked, b.rootBase = e, nil
	b.event.Bytes = e.Size()
	if hit {
		b.event.Kind = Cached
	}
	var baked Baked
	if err := readJSON(e.Path(bakedFile), &baked); err != nil || baked.Base == "" {
		if hit { // damaged, which is found where all of it is read
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s: names no file system below", e.Path(bakedFile)))
	}
	base, _, err := b.cache.Get(ctx, baseKind, baked.Base, false, func(context.Context, string) error { return errDamaged })
	if err != nil && !(hit && errors.Is(err, errDamaged)) {
		return err
	}
	b.rootBase = base
	return nil
}

// disk writes the raw disk.
func (b *build) disk(ctx context.Context) error {
	var baked Baked
	if err := readJSON(b.baked.Path(bakedFile), &baked); err != nil {
		return err
	}
	conf := filepath.Join(b.work, "loader.conf")
	if err := os.WriteFile(conf, []byte("timeout 0\neditor no\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(conf)
	if err := os.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(b.epoch(), 10)); err != nil { // mtools and go-diskfs read it
		return err
	}
	started, remove, err := b.started(ctx)
	if err != nil {
		return err
	}
	defer remove()
	// The first kernel has no counter: there is none to fall back to.
	files := map[string]string{
		b.arch.BootFile(): started[loaderFile],
		"/" + loader.UKI{Version: baked.Kernel}.Path(): started[ukiFile],
		"/loader/loader.conf":                          conf,
	}
	var sector string
	if b.Image.BIOS() {
		if sector, err = disk.BootSector(); err != nil {
			return err
		}
		config := filepath.Join(b.work, "syslinux.cfg")
		if err := os.WriteFile(config, []byte(loader.Syslinux([]string{baked.Kernel}, baked.Line(b.cmdline()))), 0o644); err != nil {
			return err
		}
		defer os.Remove(config)
		files["/"+loader.SyslinuxConfig] = config
		files["/"+loader.BIOSKernel(baked.Kernel)], files["/"+loader.BIOSInitrd(baked.Kernel)] = b.baked.Path(kernelFile), b.baked.Path(initrdFile)
	}
	state, remove, err := b.state(ctx)
	if err != nil {
		return err
	}
	defer remove()
	if b.root, err = disk.OpenLayers(b.baseBlocks(), b.baked.Path(rootFile)); err != nil {
		return err
	}
	layout := disk.Layout{
		GUID: b.id("disk"), BIOS: sector,
		ESP:   disk.ESP{GUID: b.id("esp"), Size: b.Image.Disk.ESP.Bytes(), Files: files},
		Root:  disk.Root{GUID: b.id("root"), Size: b.Image.Disk.Root.Bytes(), Layers: b.root, Elsewhere: !b.wantsRaw()},
		State: state,
		PHI:   disk.PHI{GUID: b.id("phi-data"), Name: profiles.DataName, Size: b.Image.Disk.PHI.Bytes()},

		Volumes: b.volumes(),
	}
	b.rootPart = layout.RootPart()
	return disk.Write(ctx, b.Log, filepath.Join(b.work, rawFile), layout)
}

// wantsRaw tells whether a format is made from the whole raw disk. A qcow2 takes root
// as it is in blocks.
func (b *build) wantsRaw() bool {
	return slices.ContainsFunc(b.Image.Formats, func(f string) bool { return f != "qcow2" && f != "tar" })
}

const rawFile = "disk.raw"

// formats converts the disk and puts the boot files beside it.
func (b *build) formats(ctx context.Context) error {
	raw := filepath.Join(b.work, rawFile)
	group, ctx := errgroup.WithContext(ctx)
	for _, format := range b.Image.Formats {
		if format == "vmdk" && slices.Contains(b.Image.Formats, "ova") {
			continue // is in the appliance, and stays
		}
		group.Go(func() error { return b.format(ctx, raw, format) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := os.Remove(b.baseBlocks()); err != nil {
		return err
	}
	if !slices.Contains(b.Image.Formats, "raw") {
		if err := os.Remove(raw); err != nil {
			return err
		}
	}
	for _, name := range []string{kernelFile, initrdFile, packagesFile, listingFile} {
		if err := copyFile(filepath.Join(b.work, name), b.baked.Path(name)); err != nil {
			return err
		}
	}
	return nil
}

// format writes the disk, or the tree, in one more format.
func (b *build) format(ctx context.Context, raw, format string) error {
	switch format {
	case "raw": // is there
		return nil
	case "tar":
		return copyFile(filepath.Join(b.work, tarFile), b.baked.Path(tarFile))
	case "ova":
		return b.ova(ctx, raw)
	case "qcow2":
		return disk.WriteQCOW2(ctx, filepath.Join(b.work, "disk.qcow2"), raw, b.rootPart)
	}
	f, err := disk.FindFormat(format)
	if err != nil {
		return err
	}
	return disk.Convert(ctx, b.Log, f, raw, filepath.Join(b.work, "disk."+format))
}

// ova packs the disk as a virtual appliance. The vmdk in it stays beside it only
// where the image asks for it too.
func (b *build) ova(ctx context.Context, raw string) error {
	if err := b.format(ctx, raw, "vmdk"); err != nil {
		return err
	}
	vmdk := filepath.Join(b.work, "disk.vmdk")
	info, err := os.Stat(raw)
	if err != nil {
		return err
	}
	err = disk.WriteOVA(filepath.Join(b.work, b.Image.Name+".ova"), disk.OVA{Name: b.Image.Name, Disk: vmdk, Capacity: info.Size(), Time: b.made})
	if err != nil || slices.Contains(b.Image.Formats, "vmdk") {
		return err
	}
	return os.Remove(vmdk)
}
