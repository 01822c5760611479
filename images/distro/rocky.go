package distro

import "slices"

// The rows of Rocky Linux. What is said of a version is from the release notes of
// Red Hat Enterprise Linux, whose rebuild Rocky is
// (https://docs.redhat.com/en/documentation/red_hat_enterprise_linux), and from
// the spec files of CentOS Stream (https://gitlab.com/redhat/centos-stream/rpms).
// Where a minor release has raised a version, the row has the oldest.

// rpmKernel is where kernel-core has the kernel; kernel-install(8) copies it to
// /boot where a boot loader wants it there.
const rpmKernel = "usr/lib/modules/*/vmlinuz"

var rocky = []Release{
	{
		ID: "rocky", Version: "8", Format: "rpm",
		Kernel: "kernel-core", KernelFile: rpmKernel,
		// systemd 239 is not split yet, but for networkd, which is in EPEL. passwd is a
		// package of its own until 9.
		Packages: slices.Concat(rockyBase, []string{"passwd", "kernel-modules", "platform-python"}),
		SSHUnit:  "sshd.service",
		// OpenSSH 8.0 has no Include (it came with 8.2, release notes), so there is no folder.
		SSHDropIn: "", OpenSSH: [2]int{8, 0},
		PAMStyle: "authselect", Audit: 3, Systemd: 239, Restic: [2]int{0, 12},
		MAC:      "selinux",
		Nftables: "etc/sysconfig/nftables.conf", Chrony: "etc/chrony.conf", TimeUnit: "chronyd.service",
		Keyring: "/etc/pki/rpm-gpg/RPM-GPG-KEY-rockyofficial", KeyringBy: "rocky-gpg-keys",
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
		// rpm 4.14 has Berkeley DB alone; sqlite came with 4.16 (https://rpm.org/wiki/Releases/4.16.0).
		RPMDB: "var/lib/rpm", RPMDBFormat: "bdb", TLSPolicy: "crypto-policies", Aide: [2]int{0, 16}, NoFscrypt: true,
		AuthLog: "var/log/secure", AidePath: "/usr/sbin/aide",
	},
	{
		ID: "rocky", Version: "9", Format: "rpm",
		Kernel: "kernel-core", KernelFile: rpmKernel,
		Packages: slices.Concat(rockyBase, []string{"passwd", "kernel-modules", "kernel-modules-core", "systemd-resolved", "systemd-boot-unsigned"}),
		SSHUnit:  "sshd.service", SSHDropIn: "etc/ssh/sshd_config.d", OpenSSH: [2]int{8, 7},
		// 8.7p1-23 of the spec file took RequiredRSASize over from 9.1.
		SSHBackports: []string{"RequiredRSASize"},
		PAMStyle:     "authselect", Audit: 3, Systemd: 252, Restic: [2]int{0, 16},
		MAC:      "selinux",
		Nftables: "etc/sysconfig/nftables.conf", Chrony: "etc/chrony.conf", TimeUnit: "chronyd.service",
		Keyring: "/etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9", KeyringBy: "rocky-gpg-keys",
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
		RPMDB: "var/lib/rpm", RPMDBFormat: "sqlite", TLSPolicy: "crypto-policies", Aide: [2]int{0, 16}, NoFscrypt: true,
		AuthLog: "var/log/secure", AidePath: "/usr/sbin/aide",
	},
	{
		ID: "rocky", Version: "10", Format: "rpm",
		Kernel: "kernel-core", KernelFile: rpmKernel,
		Packages: slices.Concat(rockyBase, []string{"kernel-modules", "kernel-modules-core", "systemd-resolved", "systemd-boot-unsigned"}),
		SSHUnit:  "sshd.service", SSHDropIn: "etc/ssh/sshd_config.d", OpenSSH: [2]int{9, 9},
		PAMStyle: "authselect", Audit: 4, Systemd: 257, Restic: [2]int{0, 18},
		MAC:      "selinux",
		Nftables: "etc/sysconfig/nftables.conf", Chrony: "etc/chrony.conf", TimeUnit: "chronyd.service",
		Keyring: "/etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-10", KeyringBy: "rocky-gpg-keys",
		Stub: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Loader: "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
		// The database moved with Fedora 36 (https://fedoraproject.org/wiki/Changes/RelocateRPMToUsr), from which 10 descends.
		RPMDB: "usr/lib/sysimage/rpm", RPMDBFormat: "sqlite", TLSPolicy: "crypto-policies", Aide: [2]int{0, 18}, NoFscrypt: true,
		AuthLog: "var/log/secure", AidePath: "/usr/sbin/aide",
	},
}

// rockyBase is what the controls of the hipaa profile need on rpm releases. From
// EPEL are restic, google-authenticator and systemd-networkd; all the others are
// in BaseOS and AppStream.
var rockyBase = []string{
	"rocky-release", "rocky-repos", "rocky-gpg-keys", "basesystem", "bash", "coreutils", "findutils", "grep", "sed", "gawk", "util-linux", "shadow-utils", "glibc-minimal-langpack",
	"systemd", "systemd-udev", "systemd-pam", "systemd-networkd", "dbus", "kmod", "iproute", "procps-ng", "hostname", "tzdata",
	"openssh-server", "openssh-clients", "sudo", "less", "ca-certificates", "openssl",
	"audit", "audispd-plugins", "pam", "libpwquality", "cracklib-dicts", "authselect",
	"rsyslog", "rsyslog-openssl", "rsyslog-relp", "logrotate", "restic",
	"cryptsetup", "device-mapper", "e2fsprogs", "dosfstools",
	"nftables", "chrony", "gnutls-utils", "crypto-policies-scripts",
	"rpm", "dnf", "dnf-automatic", "python3-dnf-plugin-post-transaction-actions",
	"aide", "google-authenticator", "selinux-policy-targeted", "policycoreutils", "acl", "zstd",
}
