// Package doctor looks for what a build needs of this machine and says, of each
// thing that is missing, how to get it. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ward/builder/command"
)

// Need says for what a thing is needed.
type Need string

const (
	Build Need = "build" // nothing is built without it
	Test  Need = "test"  // ward run and ward test
	Speed Need = "speed" // goes without it, slower
	Some  Need = "some"  // builds that ask for it, by profile or flag
)

// Check is one thing to look for.
type Check struct {
	Name   string
	Need   Need
	Look   func(context.Context) (string, error) // what is there, or what is wrong
	Remedy string
}

// Result is how a check went. It is good when Missing is empty.
type Result struct {
	Name    string `json:"name"`
	Need    Need   `json:"need"`
	Found   string `json:"found,omitempty"`
	Missing string `json:"missing,omitempty"`
	Remedy  string `json:"remedy,omitempty"` // with Missing
}

// Spec says what is to be built where.
type Spec struct {
	Cache    string            // folder of the cache
	Output   string            // folder for images
	Keyrings map[string]string // file -> package that has it
	BIOS     bool              // an image starts under a BIOS

	KeyringNeed Need     // what the keyrings are needed for: Build, or Some where each is one image's of many
	Machines    []string // processors of images that are not this host's, as uname(2) calls them: "aarch64"
	Log         *slog.Logger
}

// programs are what a build runs, with Debian's package of each.
var programs = []struct {
	name, pkg string
	need      Need
	bios      bool
}{
	{"mmdebstrap", "mmdebstrap", Build, false}, {"tar", "tar", Build, false}, {"find", "findutils", Build, false}, {"mount", "mount", Build, false},
	{"unshare", "util-linux", Build, false}, {"mke2fs", "e2fsprogs", Build, false}, {"dumpe2fs", "e2fsprogs", Build, false}, {"debugfs", "e2fsprogs", Build, false}, {"tune2fs", "e2fsprogs", Build, false},
	{"mkfs.vfat", "dosfstools", Build, false}, {"mmd", "mtools", Build, false}, {"mcopy", "mtools", Build, false}, {"qemu-img", "qemu-utils", Build, false},
	{"syslinux", "syslinux", Build, true},
	{"dnf", "dnf", Some, false}, {"rpm", "rpm", Some, false}, // images of rpm releases
	{"veritysetup", "cryptsetup-bin", Some, false}, {"sbsign", "sbsigntool", Some, false}, // a verified root; a key of Secure Boot in a token
	{"qemu-system-x86_64", "qemu-system-x86", Test, false}, {"swtpm", "swtpm", Test, false},
}

// least is the room that a build with an empty cache wants, in bytes: the packages
// as a tar and as a tree, the root file system, and the image.
const least = 4 << 30

// Checks are all things to look for.
func Checks(s Spec) []Check {
	var all []Check
	for _, p := range programs {
		if !p.bios || s.BIOS {
			all = append(all, Check{p.name, p.need, func(context.Context) (string, error) { return find(p.name) }, "install " + p.pkg})
		}
	}
	for _, m := range s.Machines {
		all = append(all,
			Check{"programs of " + m, Some, func(context.Context) (string, error) { return foreign(binfmt, m) },
				"install qemu-user-static; mount -t binfmt_misc binfmt_misc " + binfmt + "; systemctl restart systemd-binfmt, or in a container write /usr/lib/binfmt.d/qemu-" + m + ".conf into " + binfmt + "/register"},
			Check{"qemu-system-" + m, Some, func(context.Context) (string, error) { return find("qemu-system-" + m) }, "install qemu-system-arm and qemu-efi-aarch64, for ward test and ward run of these images"})
	}
	if len(s.Machines) > 0 {
		all = append(all, Check{"arch-test", Some, func(context.Context) (string, error) { return find("arch-test") }, "install arch-test"})
	}
	for file, pkg := range s.Keyrings {
		all = append(all, Check{file, s.KeyringNeed, func(context.Context) (string, error) { return present(file) }, "install " + pkg + ", or name another keyring in the image file (keyring: FILE)"})
	}
	if os.Geteuid() != 0 {
		all = append(all,
			Check{"newuidmap", Build, func(context.Context) (string, error) { return find("newuidmap") }, "install uidmap"},
			Check{"subordinate user ids", Build, func(context.Context) (string, error) { return subordinate("/etc/subuid") }, idsRemedy},
			Check{"subordinate group ids", Build, func(context.Context) (string, error) { return subordinate("/etc/subgid") }, idsRemedy})
	}
	return append(all,
		Check{"namespaces", Build, s.namespaces, namespacesRemedy},
		Check{"overlay mount", Speed, s.overlay, "put the cache (--cache) on a file system that takes overlayfs, such as ext4 or xfs; without it each build copies the tree"},
		Check{"room for the cache", Build, func(context.Context) (string, error) { return room(s.Cache) }, "free disk space, or name another folder with --cache"},
		Check{"room for the output", Build, func(context.Context) (string, error) { return room(s.Output) }, "free disk space, or name another folder with -o"},
		Check{"KVM", Speed, kvm, "load the module kvm, allow this user /dev/kvm (group kvm), or in a virtual machine allow nested ones; without it machines run several times slower"},
	)
}

// binfmt is where the kernel says which program runs which foreign ones.
const binfmt = "/proc/sys/fs/binfmt_misc"

// foreign tells whether programs of another processor run, in a chroot too: flag F
// has the kernel keep the emulator open (binfmt-misc.rst).
func foreign(dir, machine string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "qemu-"+machine))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no emulator is registered in %s", dir)
	}
	if err != nil {
		return "", err
	}
	var on, fixed bool
	var by string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		on = on || line == "enabled"
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			fixed = strings.Contains(flags, "F")
		}
		if path, ok := strings.CutPrefix(line, "interpreter "); ok {
			by = path
		}
	}
	if !on || !fixed {
		return "", fmt.Errorf("%s/qemu-%s is not enabled, or has no flag F, without which it is not found in a chroot", dir, machine)
	}
	return by, nil
}

const (
	idsRemedy        = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
	namespacesRemedy = "allow user namespaces: sysctl user.max_user_namespaces=15000, and where they are there kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0; in a container allow them (--privileged, or a seccomp profile with unshare and mount)"
)

// Look makes all checks and tells whether nothing that a build needs is missing.
func Look(ctx context.Context, checks []Check) (results []Result, ok bool) {
	ok = true
	for _, c := range checks {
		r := Result{Name: c.Name, Need: c.Need}
		found, err := c.Look(ctx)
		if err != nil {
			r.Missing, r.Remedy = err.Error(), c.Remedy
			ok = ok && c.Need != Build
		} else {
			r.Found = found
		}
		results = append(results, r)
	}
	return results, ok
}

// find looks where an ordinary user's PATH may not lead, too.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 {
			return "", fmt.Errorf("is in %s, which PATH does not name", dir)
		}
	}
	return "", errors.New("is not installed")
}

func present(file string) (string, error) {
	if _, err := os.Stat(file); err != nil {
		return "", errors.New("is not there")
	}
	return file, nil
}

// ids is how many subordinate ids a tree of packages may need: Debian's own and
// nobody's are below 65536.
const ids = 65536

// subordinate reads subuid(5): NAME:FIRST:COUNT, where NAME may be a number.
func subordinate(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", errors.New("no " + file)
	}
	name, id := os.Getenv("USER"), fmt.Sprint(os.Geteuid())
	return ranges(string(text), name, id)
}

func ranges(text, name, id string) (string, error) {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] == "" || f[0] != name && f[0] != id {
			continue
		}
		var count int64
		if _, err := fmt.Sscan(f[2], &count); err != nil {
			return "", fmt.Errorf("cannot read %q", strings.TrimSpace(line))
		}
		if count < ids {
			return "", fmt.Errorf("%s has %d ids, want %d", f[0], count, ids)
		}
		return f[1] + " and the next " + f[2], nil
	}
	return "", fmt.Errorf("none for %s (%s)", name, id)
}

// inside runs a program in the namespaces of a build.
func (s Spec) inside(ctx context.Context, argv ...string) error {
	return command.Run(ctx, s.Log, command.Namespace(argv...)...)
}

func (s Spec) namespaces(ctx context.Context) (string, error) {
	if err := s.inside(ctx, "mount", "-t", "tmpfs", "none", "/mnt"); err != nil {
		return "", err
	}
	return "a mount of its own", nil
}

func (s Spec) overlay(ctx context.Context) (string, error) {
	parent := existing(s.Cache)
	dir, err := os.MkdirTemp(parent, ".ward-doctor-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"lower", "upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if os.Geteuid() != 0 {
		options += ",userxattr"
	}
	if err := s.inside(ctx, "mount", "-t", "overlay", "-o", options, "overlay", filepath.Join(dir, "at")); err != nil {
		return "", err
	}
	return "in " + parent, nil
}

// existing is the nearest folder above that is there.
func existing(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "."
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func room(dir string) (string, error) {
	dir = existing(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	text := fmt.Sprintf("%d GiB in %s", free>>30, dir)
	if free < least {
		return "", fmt.Errorf("%s, want %d", text, int64(least)>>30)
	}
	return text, nil
}

func kvm(context.Context) (string, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	return "/dev/kvm opens; whether guests run on it is tried when one is started", f.Close()
}
