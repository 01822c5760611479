package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ward/builder"
	"ward/builder/command"
	"ward/builder/proof"
	"ward/images"
	"ward/images/distro"
)

type bench struct {
	dir, ward, image, mkosiSuite string
	log                          *slog.Logger
	release                      distro.Release
	keyring                      string
	mirrors                      []string
	packages                     []string
	fixture                      *proof.Fixture // of ward's machine; nil: not made yet
	accel                        string         // what machines ran on; empty: none did
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// parts are what can be measured, each with what it needs before.
type parts struct{ ward, mkosi, boot bool }

// prepare reads what ward would install, and makes mkosi's root and the plain disk
// where they are asked for.
func (b *bench) prepare(ctx context.Context, p parts) error {
	img, err := images.Load(b.image)
	if err != nil {
		return err
	}
	if b.release, err = distro.Find(img.Distro, img.Release); err != nil {
		return err
	}
	kernel, err := img.KernelPackage()
	if err != nil {
		return err
	}
	b.keyring, b.mirrors = b.release.Keyring, img.Mirrors
	if img.Keyring != "" {
		b.keyring = img.Keyring
	}
	b.packages = wanted(b.release.Packages, img.Packages, kernel)
	if p.mkosi {
		if os.Geteuid() != 0 {
			return errors.New("mkosi's root needs root here\nhint: -parts leaves mkosi out")
		}
		if err := b.timed("mkosi's root", func() error { return b.mkosiRoot(ctx) }); err != nil {
			return err
		}
	}
	if p.boot {
		return b.timed("the plain disk", func() error { return b.prepareBoots(ctx) })
	}
	return nil
}

// timed logs how long a preparation took.
func (b *bench) timed(what string, f func() error) error {
	begun := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b.log.Info("prepared", "what", what, "took", time.Since(begun).Round(100*time.Millisecond))
	return nil
}

// wanted are the packages that ward asks for, each once.
func wanted(row, image []string, kernel string) []string {
	all := slices.Concat(row, image, []string{kernel})
	slices.Sort(all)
	return slices.Compact(all)
}

// cases are what is measured, in the order in which one run makes them: each ward
// case starts from what the one before it left.
func (b *bench) cases(p parts) []step {
	wardArgv := func(profile string) []string {
		return []string{b.ward, "build", b.image, "--profile", profile, "--cache", b.path("cache"), "-o", b.path("out")}
	}
	changed := func(run int) string { return b.path(fmt.Sprintf("changed-%d.yaml", run)) }
	var all []step
	if p.ward || p.mkosi { // which is told the mirror that mmdebstrap took
		all = append(all, step{name: mmdebstrapAlone, long: true, before: b.removes("base"), argv: func(int) []string { return b.mmdebstrap() }})
	}
	if p.ward || p.boot { // which starts the image
		all = append(all, step{name: wardCold, long: true, before: b.removes("cache", "out"), argv: func(int) []string { return wardArgv("hipaa") }})
	}
	if p.ward {
		all = append(all,
			step{name: wardIncremental, before: func(_ context.Context, run int) error {
				text := fmt.Sprintf("name: changed\nextends: hipaa\ndescription: one parameter\ncontrols:\n  logoff: {idle: %d}\n", 601+run)
				return os.WriteFile(changed(run), []byte(text), 0o644)
			}, argv: func(run int) []string { return wardArgv(changed(run)) }},
			step{name: wardNothing, argv: func(run int) []string { return wardArgv(changed(run)) }})
	}
	if p.mkosi {
		all = append(all,
			step{name: mkosiCold, long: true, before: b.mkosiConfig, argv: func(int) []string { return b.mkosi() }},
			step{name: mkosiIncremental, before: func(_ context.Context, run int) error {
				return put(b.path("mkosi", "work", "mkosi.extra", "etc", "bench"), fmt.Sprintf("run %d\n", run))
			}, argv: func(int) []string { return b.mkosi() }})
	}
	if p.boot {
		all = append(all, b.boots()...)
	}
	return all
}

// removes removes what a cold run must not find. A tree in ward's cache belongs to
// other owners when it was made without root.
func (b *bench) removes(names ...string) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		for _, name := range names {
			if err := command.RemoveAll(ctx, b.log, b.path(name)); err != nil {
				return err
			}
		}
		return nil
	}
}

// mmdebstrap is the call with ward's options and, as there, a folder for its output,
// which takes it less than a tar; see builder/rootfs.
func (b *bench) mmdebstrap() []string {
	argv := command.Namespace("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--keyring="+b.keyring, "--include="+strings.Join(b.packages, ","))
	// Ward keeps the distribution's initramfs from being made; that would cost mmdebstrap half a minute.
	argv = append(append(argv, excludes()...), "--dpkgopt=force-confold",
		`--setup-hook=mkdir -p "$1/etc/kernel/postinst.d" && : > "$1/etc/kernel/postinst.d/initramfs-tools"`, b.release.Codename, b.path("base"))
	return append(argv, b.mirrors...)
}

// excludes are ward's options about files of packages, see builder/rootfs.
func excludes() []string {
	var argv []string
	for _, path := range []string{"/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/lintian/*"} {
		argv = append(argv, "--dpkgopt=path-exclude="+path)
	}
	return append(argv, "--dpkgopt=path-include=/usr/share/doc/*/copyright")
}

// mkosiPackages are what mkosi needs to make a disk of Debian packages.
const mkosiPackages = "mkosi,apt,debian-archive-keyring,systemd-repart,bubblewrap,dosfstools,mtools,e2fsprogs,cpio,zstd,xz-utils,uidmap,ca-certificates"

// mkosiRoot installs mkosi into a root of its own.
func (b *bench) mkosiRoot(ctx context.Context) error {
	root := b.path("mkosi", "root")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/mkosi")); err == nil {
		b.log.Info("used again", "root", root)
		return nil
	}
	if err := os.MkdirAll(b.path("mkosi"), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	return command.Run(ctx, b.log, "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--keyring="+b.release.Keyring,
		"--include="+mkosiPackages, b.mkosiSuite, root)
}

// mkosiConfig makes an empty folder with mkosi's own files: a cold run.
func (b *bench) mkosiConfig(ctx context.Context, _ int) error {
	work := b.path("mkosi", "work")
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	// mmdebstrap ran before, and wrote down where it took the packages from.
	sources, err := os.ReadFile(b.path("base", "etc/apt/sources.list"))
	if err != nil {
		return err
	}
	mirror, err := firstMirror(string(sources))
	if err != nil {
		return err
	}
	return errors.Join(
		put(filepath.Join(work, "mkosi.conf"), mkosiConf(b.release, mirror, b.packages)),
		put(filepath.Join(work, "mkosi.extra", "etc", "bench"), "cold\n"),
		os.MkdirAll(filepath.Join(work, "cache"), 0o755),
		os.MkdirAll(filepath.Join(work, "output"), 0o755))
}

// firstMirror is the first of a sources.list(5).
func firstMirror(sources string) (string, error) {
	for line := range strings.Lines(sources) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "deb" {
			if strings.HasPrefix(f[1], "[") { // options
				for len(f) > 2 && !strings.HasSuffix(f[1], "]") {
					f = f[1:]
				}
				f = f[1:]
			}
			if len(f) > 2 {
				return f[1], nil
			}
		}
	}
	return "", fmt.Errorf("no mirror in %q", sources)
}

// mkosiConf asks for the same packages without a boot loader and without docs. With
// a local mirror mkosi asks that one alone: by itself it would want the archive of
// debugging symbols too, which not every mirror has.
func mkosiConf(r distro.Release, mirror string, packages []string) string {
	return fmt.Sprintf(`[Distribution]
Distribution=%s
Release=%s
LocalMirror=%s

[Output]
Format=disk
Output=image
OutputDirectory=output

[Content]
Bootable=no
WithDocs=no
Packages=%s

[Build]
Incremental=yes
CacheDirectory=cache
`, r.ID, r.Codename, mirror, strings.Join(packages, "\n         "))
}

// mkosi runs in its root, with the working folder mounted there.
func (b *bench) mkosi() []string {
	script := `set -eu
root=$1 work=$2
mkdir -p "$root/work"
mount --bind "$root" "$root" # mkosi wants / to be a mount
mount --bind "$work" "$root/work"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
cat /etc/resolv.conf > "$root/etc/resolv.conf" 2>/dev/null || true
exec chroot "$root" mkosi --directory /work --force build`
	return []string{"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--", "sh", "-c", script, "sh",
		b.path("mkosi", "root"), b.path("mkosi", "work")}
}

// measure measures a step once. Nobody pays for what the one before it has still to
// write to the disk.
func (b *bench) measure(ctx context.Context, s step, run int) (sample, error) {
	syscall.Sync()
	if s.run != nil {
		return s.run(ctx, run)
	}
	return b.program(ctx, s.argv(run))
}

// program runs a program once.
func (b *bench) program(ctx context.Context, argv []string) (sample, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	log, err := os.Create(b.path("last.log"))
	if err != nil {
		return sample{}, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w\nhint: all that was said is in %s", argv[0], err, log.Name())
	}
	x := sample{took: time.Since(begun)}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		x.memory = r.Maxrss << 10 // getrusage(2): KiB, of the largest of the program and what it waited for
	}
	return x, nil
}

// onDisk is what ward's last build left.
func (b *bench) onDisk() (usage, error) {
	m, err := builder.ReadManifest(b.path("out"))
	if errors.Is(err, fs.ErrNotExist) { // ward was not measured
		return usage{}, nil
	}
	if err != nil {
		return usage{}, err
	}
	var u usage
	for _, f := range m.Files {
		u.image += f.Size
	}
	u.cache, err = allocated(b.path("cache"))
	return u, err
}

// allocated is what the files below a folder take on the disk, in bytes.
func allocated(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return nil // of a subordinate id
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		}
		return nil
	})
	return n, err
}

func put(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}
