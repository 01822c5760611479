package distro

import "slices"

// ubuntu are Ubuntu's LTS releases from 22.04 on. 20.04 has no row: its PAM 1.3.1
// has no pam_faillock (Linux-PAM 1.4.0, NEWS), its audit 2.8 another dispatcher
// (audit-userspace ChangeLog, 3.0), and its standard support has ended.
//
// Versions are those of the source packages at release: openssh, systemd, audit,
// restic (universe).
var ubuntu = []Release{
	{
		ID: "ubuntu", Version: "22.04", Codename: "jammy", Format: "deb",
		Components: ubuntuComponents, Pockets: ubuntuPockets, Barred: ubuntuBarred,
		Kernel: ubuntuKernel,
		// resolved, the stub and the boot loader are in the package systemd itself until 22.10.
		Packages: ubuntuBase,
		// The socket came with openssh 1:9.0p1-1ubuntu1 (22.10).
		SSHUnit: "ssh.service", SSHDropIn: "etc/ssh/sshd_config.d",
		// 1:8.9p1-3, 3.0.7-1, 249.11, 0.12.1-2.
		OpenSSH: [2]int{8, 9}, PAMStyle: "pam-auth-update", Audit: 3, Systemd: 249, Restic: [2]int{0, 12},
		// Its profile of rsyslogd is there, and off (etc/apparmor.d/disable).
		MAC:      "apparmor",
		Nftables: "etc/nftables.conf", Chrony: "etc/chrony/chrony.conf", TimeUnit: "chrony.service",
		Security: ubuntuSecurity, Keyring: ubuntuKeyring, KeyringBy: ubuntuKeyringBy,
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
	},
	{
		ID: "ubuntu", Version: "24.04", Codename: "noble", Format: "deb",
		Components: ubuntuComponents, Pockets: ubuntuPockets, Barred: ubuntuBarred,
		Kernel:   ubuntuKernel,
		Packages: slices.Concat(ubuntuBase, []string{"systemd-resolved", "systemd-boot-efi"}),
		SSHUnit:  "ssh.socket", SSHDropIn: "etc/ssh/sshd_config.d",
		// 1:9.6p1-3ubuntu13, 1:3.1.2-2.1, 255.4-1ubuntu8, 0.16.4-1.
		OpenSSH: [2]int{9, 6}, PAMStyle: "pam-auth-update", Audit: 3, Systemd: 255, Restic: [2]int{0, 16},
		// rsyslogd is confined since rsyslog 8.2210.0-3ubuntu2.
		MAC: "apparmor", LogProfile: "etc/apparmor.d/local/usr.sbin.rsyslogd",
		Nftables: "etc/nftables.conf", Chrony: "etc/chrony/chrony.conf", TimeUnit: "chrony.service",
		Security: ubuntuSecurity, Keyring: ubuntuKeyring, KeyringBy: ubuntuKeyringBy,
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
	},
	{
		ID: "ubuntu", Version: "26.04", Codename: "resolute", Format: "deb",
		Components: ubuntuComponents, Pockets: ubuntuPockets, Barred: ubuntuBarred,
		Kernel: ubuntuKernel,
		// systemd 256 moved systemd-cryptsetup into a package of its own, as in Debian 13.
		Packages: slices.Concat(ubuntuBase, []string{"systemd-resolved", "systemd-boot-efi", "systemd-cryptsetup"}),
		SSHUnit:  "ssh.socket", SSHDropIn: "etc/ssh/sshd_config.d",
		// OpenSSH 10, systemd 259 (its release notes); audit 4 and restic 0.18 as in Debian 13, from which both come.
		OpenSSH: [2]int{10, 0}, PAMStyle: "pam-auth-update", Audit: 4, Systemd: 259, Restic: [2]int{0, 18},
		MAC: "apparmor", LogProfile: "etc/apparmor.d/local/usr.sbin.rsyslogd",
		Nftables: "etc/nftables.conf", Chrony: "etc/chrony/chrony.conf", TimeUnit: "chrony.service",
		Security: ubuntuSecurity, Keyring: ubuntuKeyring, KeyringBy: ubuntuKeyringBy,
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
	},
}

var (
	// In Ubuntu apt is no required package (Priority), so a minimal tree lacks it.
	ubuntuBase = slices.Concat(debianBase, []string{"apt"})
	// Most of what the controls need beside Debian's essentials is in universe.
	ubuntuComponents = []string{"main", "universe"}
	// Security updates are a pocket of the same archive.
	ubuntuPockets = []string{"-updates", "-security"}
	// A second package manager that updates by its own rules; a second program that
	// makes accounts and sets the network; and a second one for the network.
	ubuntuBarred = []string{"snapd", "cloud-init", "netplan.io"}
)

const (
	// The generic kernel without the drivers of hardware (linux-modules-extra); the
	// flavour kvm ended with 23.04. Modules are .ko in 22.04 and .ko.zst later.
	ubuntuKernel   = "linux-image-virtual"
	ubuntuSecurity = "origin=Ubuntu,archive=${distro_codename}-security,label=Ubuntu"
	ubuntuKeyring  = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
	// Debian's package of that file; on an Ubuntu host ubuntu-keyring has it.
	ubuntuKeyringBy = "ubuntu-archive-keyring"
)
