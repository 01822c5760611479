package distro

import "slices"

// debian are Debian's releases.
var debian = []Release{
	{
		ID: "debian", Version: "12", Codename: "bookworm", Format: "deb",
		// Debian's security updates have an archive of their own (Debian reference, 2.1.4).
		Components: []string{"main"}, Pockets: []string{"-updates"}, SecuritySuite: "bookworm-security", SecurityPath: "debian-security",
		Kernel: "linux-image-cloud-amd64", Kernels: map[string]string{"arm64": "linux-image-cloud-arm64"},
		// systemd-boot-efi carries the stub and the boot loader since Debian 12.
		Packages: slices.Concat(debianBase, []string{"systemd-resolved", "systemd-boot-efi"}),
		SSHUnit:  "ssh.service", SSHDropIn: "etc/ssh/sshd_config.d",
		OpenSSH: [2]int{9, 2}, PAMStyle: "pam-auth-update", Audit: 3, Systemd: 252, Restic: [2]int{0, 14},
		MAC:      "apparmor",
		Nftables: "etc/nftables.conf", Chrony: "etc/chrony/chrony.conf", TimeUnit: "chrony.service",
		Security: "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
		Keyring:  "/usr/share/keyrings/debian-archive-keyring.gpg", KeyringBy: "debian-archive-keyring",
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
	},
	{
		ID: "debian", Version: "13", Codename: "trixie", Format: "deb",
		// Debian's security updates have an archive of their own (Debian reference, 2.1.4).
		Components: []string{"main"}, Pockets: []string{"-updates"}, SecuritySuite: "trixie-security", SecurityPath: "debian-security",
		Kernel: "linux-image-cloud-amd64", Kernels: map[string]string{"arm64": "linux-image-cloud-arm64"},
		// trixie moved systemd-cryptsetup, which reads crypttab, into a package of its own.
		Packages: slices.Concat(debianBase, []string{"systemd-resolved", "systemd-boot-efi", "systemd-cryptsetup"}),
		SSHUnit:  "ssh.service", SSHDropIn: "etc/ssh/sshd_config.d",
		OpenSSH: [2]int{10, 0}, PAMStyle: "pam-auth-update", Audit: 4, Systemd: 257, Restic: [2]int{0, 18},
		MAC:      "apparmor",
		Nftables: "etc/nftables.conf", Chrony: "etc/chrony/chrony.conf", TimeUnit: "chrony.service",
		Security: "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
		Keyring:  "/usr/share/keyrings/debian-archive-keyring.gpg", KeyringBy: "debian-archive-keyring",
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
	},
}

// debianBase is what the controls of the hipaa profile need on apt releases.
var debianBase = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod", "iproute2", "procps", "netbase", "tzdata",
	"openssh-server", "openssh-sftp-server", "openssh-client", "sudo", "less", "ca-certificates",
	"auditd", "audispd-plugins", "libpam-pwquality", "cracklib-runtime", "libpam-modules-bin",
	"rsyslog", "rsyslog-openssl", "rsyslog-relp", "logrotate", "restic",
	"cryptsetup-bin", "dmsetup", "e2fsprogs", "dosfstools", "fscrypt", "libpam-fscrypt",
	"nftables", "chrony", "gnutls-bin", "unattended-upgrades", "aide", "libpam-google-authenticator", "apparmor", "acl", "zstd",
}
