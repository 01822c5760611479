package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
)

// systemFile is a file that every image has and no control speaks of.
type systemFile struct {
	path string
	mode os.FileMode
	text string
}

// systemFiles make the tree a machine: addresses, names and the disk's layout.
func (b *bake) systemFiles() []systemFile {
	return []systemFile{
		{"etc/fstab", 0o644, b.Fstab},
		{"etc/hostname", 0o644, "localhost\n"},
		{"etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
		// Empty, not absent: systemd then makes an id and keeps it (machine-id(5)), but does
		// not take the boot for a first one, which would apply presets over our units.
		{"etc/machine-id", 0o444, ""},
		{"etc/systemd/network/80-dhcp.network", 0o644, "# Any wired interface without a file of its own asks DHCP.\n[Match]\nType=ether\n\n[Network]\nDHCP=yes\n"},
		{localeFiles[b.release.Format], 0o644, "LANG=C.UTF-8\n"},
	}
}

// localeFiles are where the formats' distributions look for the language.
var localeFiles = map[string]string{"deb": "etc/default/locale", "rpm": "etc/locale.conf"}

// system writes the system files and enables the network's units.
func (b *bake) system(ctx context.Context) error {
	files := b.systemFiles()
	if b.Sources != "" {
		files = append(files, systemFile{"etc/apt/sources.list", 0o644, b.Sources})
	}
	for _, f := range files {
		if err := installFile(b.root, f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	for _, f := range b.Apt {
		if err := installFile(b.root, f.Path, f.Data, 0o644); err != nil {
			return err
		}
	}
	// resolved's stub; the packages may have left the build host's file.
	if err := b.root.Remove("etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.root.Symlink("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf"); err != nil {
		return err
	}
	for _, unit := range []string{"systemd-networkd.service", "systemd-resolved.service"} {
		if _, err := b.run(ctx, "systemctl", "enable", unit); err != nil {
			return err
		}
	}
	return nil
}

// unwanted is what packages or their installation leave behind and no image may
// have: state that must be unique to a machine, caches, and logs of the build.
var unwanted = []string{
	"etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
	"boot/initrd.img*", "initrd.img*", "vmlinuz*", "etc/kernel/*/*.dpkg-dist", "etc/.pwd.lock",
	"var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/cache/man/*",
	"var/cache/dnf/*", "boot/initramfs-*", "var/lib/dpkg/*-old", "etc/*-", "var/log/*.log", "var/log/apt/*", "var/log/*tmp", "root/.*_history", "tmp/*", "var/tmp/*", "run/*",
	"dev/*", // a user namespace cannot make device nodes, and on the machine devtmpfs has them
}

// clean removes what is unwanted.
func clean(root *os.Root) error {
	for _, pattern := range unwanted {
		names, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return fmt.Errorf("%s: %w", pattern, err)
		}
		for _, name := range names {
			switch path.Base(name) {
			case "btmp", "wtmp", "lastlog": // they have owners and modes of their own
				continue
			}
			if err := root.RemoveAll(name); err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
		}
	}
	return nil
}
