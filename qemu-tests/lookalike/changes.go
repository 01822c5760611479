package lookalike

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"ward/builder/command"
	"ward/builder/lock"
)

// change is what makes a package of Debian look like Ubuntu's.
type change struct {
	fits func(name string) bool
	do   func(ctx context.Context, m *maker, tree string, p lock.Package) error
}

func named(name string) func(string) bool { return func(n string) bool { return n == name } }

// kernelForm is a kernel's package, with the part of its name that Ubuntu keeps.
var kernelForm = regexp.MustCompile(`^linux-image-([0-9.]+-[0-9]+)-cloud-amd64$`)

var changes = []change{
	{named("base-files"), baseFiles},
	{named("openssh-server"), opensshServer},
	{named("rsyslog"), rsyslog},
	{named("linux-image-cloud-amd64"), metaKernel},
	{kernelForm.MatchString, kernel},
}

const osRelease = `PRETTY_NAME="Ubuntu 24.04 LTS (look-alike)"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
`

func baseFiles(ctx context.Context, m *maker, tree string, p lock.Package) error {
	if err := put(tree, "usr/lib/os-release", osRelease, 0o644); err != nil {
		return err
	}
	lsb := "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=24.04\nDISTRIB_CODENAME=noble\nDISTRIB_DESCRIPTION=\"Ubuntu 24.04 LTS (look-alike)\"\n"
	if err := put(tree, "etc/lsb-release", lsb, 0o644); err != nil {
		return err
	}
	return m.pack(ctx, tree, p.Name, p.Version)
}

// Ubuntu's socket hands its listening socket to sshd, which Debian 12's cannot
// take: a small program in its place accepts and starts sshd for each connection.
const (
	sshSocket = `[Unit]
Description=OpenBSD Secure Shell server socket
Before=sockets.target ssh.service
ConditionPathExists=!/etc/ssh/sshd_not_to_be_run

[Socket]
ListenStream=22
Accept=no
FreeBind=yes

[Install]
WantedBy=sockets.target
RequiredBy=ssh.service
`
	sshService = `[Unit]
Description=OpenBSD Secure Shell server
After=network.target nss-user-lookup.target auditd.service
ConditionPathExists=!/etc/ssh/sshd_not_to_be_run

[Service]
EnvironmentFile=-/etc/default/ssh
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/lib/lookalike/sshd
ExecReload=/usr/sbin/sshd -t
KillMode=process
Restart=on-failure
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes

[Install]
Alias=sshd.service
`
)

func opensshServer(ctx context.Context, m *maker, tree string, p lock.Package) error {
	units := "lib/systemd/system"
	if _, err := os.Stat(filepath.Join(tree, units)); errors.Is(err, fs.ErrNotExist) {
		units = "usr/lib/systemd/system"
	}
	program := filepath.Join(tree, "usr/lib/lookalike/sshd")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	// Its name is what ss(8) shows as the owner of the socket.
	build := command.Spec{
		Argv: []string{"go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", program, "ward/qemu-tests/lookalike/sshd"},
		Env:  append(os.Environ(), "CGO_ENABLED=0"),
	}
	err := errors.Join(
		command.Start(ctx, m.log, build),
		put(tree, units+"/ssh.socket", sshSocket, 0o644),
		put(tree, units+"/ssh.service", sshService, 0o644),
		os.RemoveAll(filepath.Join(tree, units, "ssh@.service")),
		// Debian's script enables the service; Ubuntu's the socket.
		edit(tree, "DEBIAN/postinst", "'ssh.service'", "'ssh.socket'"),
	)
	if err != nil {
		return err
	}
	return m.pack(ctx, tree, p.Name, p.Version)
}

// rsyslogProfile confines rsyslogd to what Ubuntu's profile does, in its own words:
// configuration, spool and log, no journal elsewhere and no keys elsewhere.
const rsyslogProfile = `abi <abi/3.0>,
include <tunables/global>

profile rsyslogd /usr/sbin/rsyslogd {
  include <abstractions/base>
  include <abstractions/nameservice>

  capability dac_override,
  capability dac_read_search,
  capability setgid,
  capability setuid,
  capability sys_nice,
  capability sys_tty_config,
  capability syslog,

  unix (receive) type=dgram,
  unix (receive) type=stream,

  /usr/sbin/rsyslogd mr,
  /usr/lib{,32,64}/{,@{multiarch}/}rsyslog/*.so mr,

  /etc/rsyslog.conf r,
  /etc/rsyslog.d/{,**} r,
  /var/spool/rsyslog/ r,
  /var/spool/rsyslog/** rwk,
  /var/log/** rw,
  @{run}/rsyslogd.pid{,.tmp} rwk,
  @{run}/systemd/notify w,

  include if exists <local/usr.sbin.rsyslogd>
}
`

func rsyslog(ctx context.Context, m *maker, tree string, p lock.Package) error {
	const profile = "etc/apparmor.d/usr.sbin.rsyslogd"
	if err := put(tree, profile, rsyslogProfile, 0o644); err != nil {
		return err
	}
	conffiles, err := os.ReadFile(filepath.Join(tree, "DEBIAN/conffiles"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := put(tree, "DEBIAN/conffiles", string(conffiles)+"/"+profile+"\n", 0o644); err != nil {
		return err
	}
	return m.pack(ctx, tree, p.Name, p.Version)
}

// metaKernel becomes linux-image-virtual; the kernel that it wants has its name
// in the dependency.
func metaKernel(ctx context.Context, m *maker, tree string, p lock.Package) error {
	const name = "linux-image-virtual"
	control, err := os.ReadFile(filepath.Join(tree, "DEBIAN/control"))
	if err != nil {
		return err
	}
	text := strings.Replace(string(control), "Package: "+p.Name+"\n", "Package: "+name+"\n", 1)
	text = regexp.MustCompile(`linux-image-([0-9.]+-[0-9]+)-cloud-amd64`).ReplaceAllString(text, "linux-image-$1-generic")
	if err := errors.Join(put(tree, "DEBIAN/control", text, 0o644), renameDoc(tree, p.Name, name)); err != nil {
		return err
	}
	return m.pack(ctx, tree, name, p.Version)
}

// kernel becomes two packages: the image and its modules, which are compressed.
func kernel(ctx context.Context, m *maker, tree string, p lock.Package) error {
	m.abi = kernelForm.FindStringSubmatch(p.Name)[1]
	image, modules := "linux-image-"+m.abi+"-generic", "linux-modules-"+m.abi+"-generic"
	of := func(name, depends string) string {
		return fmt.Sprintf("Package: %s\nSource: linux\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\n%sSection: kernel\nPriority: optional\nDescription: kernel of a look-alike archive\n", name, p.Version, depends)
	}
	second := tree + "-modules"
	if err := os.MkdirAll(filepath.Join(second, "lib"), 0o755); err != nil {
		return err
	}
	doc := filepath.Join("usr/share/doc", modules)
	copyright, err := os.ReadFile(filepath.Join(tree, "usr/share/doc", p.Name, "copyright"))
	if err != nil {
		return err
	}
	err = errors.Join(
		os.Rename(filepath.Join(tree, "lib/modules"), filepath.Join(second, "lib/modules")),
		put(second, "DEBIAN/control", of(modules, ""), 0o644),
		put(second, doc+"/copyright", string(copyright), 0o644),
		put(tree, "DEBIAN/control", of(image, "Depends: kmod, linux-base, "+modules+"\n"), 0o644),
		renameDoc(tree, p.Name, image),
	)
	if err != nil {
		return err
	}
	if err := compress(filepath.Join(second, "lib/modules")); err != nil {
		return err
	}
	return errors.Join(m.pack(ctx, second, modules, p.Version), m.pack(ctx, tree, image, p.Version))
}

// compress replaces each module by a .ko.zst.
func compress(dir string) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	n := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".ko" {
			return err
		}
		n++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".zst", z.EncodeAll(data, nil), 0o644); err != nil {
			return err
		}
		return os.Remove(path)
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("%s has no module that is not compressed", dir)
	}
	return err
}

// renameDoc renames the folder with a package's copyright.
func renameDoc(tree, from, to string) error {
	doc := filepath.Join(tree, "usr/share/doc")
	return os.Rename(filepath.Join(doc, from), filepath.Join(doc, to))
}

func put(tree, name, text string, mode fs.FileMode) error {
	path := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// edit replaces a text in a file, which must have it.
func edit(tree, name, old, new string) error {
	path := filepath.Join(tree, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte(old)) {
		return fmt.Errorf("%s has no %s", name, old)
	}
	return os.WriteFile(path, bytes.ReplaceAll(text, []byte(old), []byte(new)), 0o755)
}

// sums writes a package's md5sums(5) anew, which dpkg --verify compares.
func sums(tree string) error {
	conffiles, err := os.ReadFile(filepath.Join(tree, "DEBIAN/conffiles"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept := strings.Fields(string(conffiles))
	var b strings.Builder
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if name == "DEBIAN" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || slices.Contains(kept, "/"+name) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", md5.Sum(data), name)
		return nil
	})
	if err != nil {
		return err
	}
	return put(tree, "DEBIAN/md5sums", b.String(), 0o644)
}
