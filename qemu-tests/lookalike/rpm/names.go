package rpm

// packages are the Rocky packages that the rows of rpm releases name, and Debian's
// packages whose files they have. One without any is there by its name alone, or
// has files of added. What no package here names is in glibc.
var packages = map[string][]string{
	"setup": nil, "filesystem": nil, "basesystem": nil, "rocky-release": nil, "rocky-repos": nil, "rocky-gpg-keys": nil,
	"glibc": nil, "glibc-minimal-langpack": nil,
	"bash": {"bash", "dash"}, "coreutils": {"coreutils"}, "findutils": {"findutils"}, "grep": {"grep"}, "sed": {"sed"}, "gawk": {"gawk", "mawk"},
	"util-linux": {"util-linux", "util-linux-extra", "mount", "bsdutils"}, "shadow-utils": {"passwd", "login"}, "passwd": nil,
	"systemd": {"systemd", "systemd-sysv"}, "systemd-udev": {"udev"}, "systemd-pam": {"libpam-systemd"}, "systemd-networkd": nil,
	"systemd-resolved": {"systemd-resolved"}, "systemd-boot-unsigned": {"systemd-boot-efi"},
	"dbus": {"dbus", "dbus-daemon", "dbus-bin", "dbus-system-bus-common", "dbus-session-bus-common"},
	"kmod": {"kmod"}, "iproute": {"iproute2"}, "procps-ng": {"procps"}, "hostname": {"hostname"}, "tzdata": {"tzdata"},
	"openssh-server": {"openssh-server", "openssh-sftp-server"}, "openssh-clients": {"openssh-client"},
	"sudo": {"sudo"}, "less": {"less"}, "ca-certificates": {"ca-certificates"}, "openssl": {"openssl"},
	"audit": {"auditd"}, "audispd-plugins": {"audispd-plugins"},
	"pam": {"libpam0g", "libpam-modules", "libpam-modules-bin"}, "libpwquality": {"libpam-pwquality", "libpwquality1", "libpwquality-common"},
	"cracklib-dicts": {"cracklib-runtime"}, "authselect": nil,
	"rsyslog": {"rsyslog"}, "rsyslog-openssl": {"rsyslog-openssl"}, "rsyslog-relp": {"rsyslog-relp"}, "logrotate": {"logrotate"}, "restic": {"restic"},
	"cryptsetup": {"cryptsetup-bin"}, "device-mapper": {"dmsetup"}, "e2fsprogs": {"e2fsprogs"}, "dosfstools": {"dosfstools"},
	"nftables": {"nftables"}, "chrony": {"chrony"}, "gnutls-utils": {"gnutls-bin"}, "crypto-policies-scripts": nil,
	"rpm": {"rpm", "rpm-common"}, "dnf": {"dnf", "dnf-data"}, "dnf-automatic": nil, "python3-dnf-plugin-post-transaction-actions": nil,
	"aide": {"aide"}, "google-authenticator": {"libpam-google-authenticator"}, "selinux-policy-targeted": nil, "policycoreutils": nil,
	"acl": {"acl"}, "zstd": {"zstd"}, "kernel-core": nil, "kernel-modules": nil, "kernel-modules-core": nil,
}

// left out of the look-alike: Debian's own tools, which no rpm release has.
var left = []string{"apt", "dpkg", "debconf", "debian-archive-keyring", "libpam-runtime", "init-system-helpers", "ucf", "unattended-upgrades", "apparmor", "libpam-fscrypt", "fscrypt"}

// from are Debian's packages that the tree is made of.
var from = []string{
	"systemd", "systemd-sysv", "systemd-resolved", "systemd-boot-efi", "udev", "dbus", "libpam-systemd", "kmod", "iproute2", "procps", "netbase", "tzdata",
	"openssh-server", "openssh-sftp-server", "openssh-client", "sudo", "less", "ca-certificates", "openssl", "gawk", "hostname",
	"auditd", "audispd-plugins", "libpam-pwquality", "cracklib-runtime", "libpam-modules-bin",
	"rsyslog", "rsyslog-openssl", "rsyslog-relp", "logrotate", "restic", "cryptsetup-bin", "dmsetup", "e2fsprogs", "dosfstools",
	"nftables", "chrony", "gnutls-bin", "rpm", "dnf", "aide", "libpam-google-authenticator", "acl", "zstd", "xz-utils", "linux-image-cloud-amd64",
}
