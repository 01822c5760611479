// Package distro holds what differs between the releases that ward bakes, as
// data: one row a release. A difference that is a fact is a column here; only
// the two package managers are mechanism, and they live in builder/rootfs.
//
//	r, err := distro.Find("debian", "12")
package distro

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// All is every release that ward knows. A release enters with a row, an image
// file and a place in the test table.
var All = slices.Concat(debian, ubuntu, rocky)

// Release is what is known of one release of one distribution.
type Release struct {
	ID       string // os-release ID: "debian", "ubuntu", "rocky"
	Version  string // os-release VERSION_ID: "12"
	Codename string // suite of the archive; empty for rpm
	Format   string // "deb" or "rpm"

	Components    []string // deb: of the archive, that an image's packages come from
	Pockets       []string // deb: further suites of the same archive: the codename and this end
	SecuritySuite string   // deb: suite of an archive of its own for security updates; empty: a pocket has them
	SecurityPath  string   // deb: folder of that archive, beside the main one's
	Barred        []string // deb: packages that are never installed, not even as a dependency

	Kernel   string            // package of the default kernel on amd64
	Kernels  map[string]string // the same on other architectures that the release is baked for
	Packages []string          // what every image of this release has, kernel excluded

	SSHUnit   string // the unit that must listen: "ssh.service"; Ubuntu >= 22.10 "ssh.socket"
	SSHDropIn string // folder, relative to /, that sshd_config includes first; empty where OpenSSH has no Include
	OpenSSH   [2]int // major, minor: decides which keywords sshd accepts
	PAMStyle  string // "pam-auth-update" or "authselect"
	Audit     int    // major version of audit-userspace: from 4 on rules are loaded by audit-rules.service
	Systemd   int    // version of systemd
	Restic    [2]int // major, minor
	MAC       string // "apparmor" or "selinux"
	// LogProfile is AppArmor's file for what is added to rsyslogd's profile, relative
	// to /; empty where rsyslogd is not confined.
	LogProfile string
	Keyring    string // keyring of the archive on a build host, and
	KeyringBy  string // the package there that has it
	Nftables   string // file that nftables.service loads, relative to /
	Chrony     string // chronyd's configuration, relative to /
	TimeUnit   string // chronyd's unit
	Security   string // deb: Origins-Pattern of unattended-upgrades that takes security updates alone
	Stub       string // systemd's UEFI stub, relative to the image's root
	Loader     string // systemd-boot, relative to the image's root

	// What rpm releases alone have.
	RPMDB       string // folder of rpm's database, relative to /
	RPMDBFormat string // what the release's own rpm reads: "sqlite", or "bdb" before rpm 4.16

	KernelFile   string   // where a kernel is, relative to /, with * for its version; empty: boot/vmlinuz-*
	SSHBackports []string // keywords that its OpenSSH has from a newer one
	TLSPolicy    string   // what sets the oldest TLS: "crypto-policies", or empty: each library's own file
	Aide         [2]int   // major, minor; empty: 0.17 or newer, whose configuration has other words
	AuthLog      string   // file with what auth and authpriv say, relative to /; empty: var/log/auth.log
	AidePath     string   // of aide(1); empty: /usr/bin/aide
	NoFscrypt    bool     // the release has no fscrypt(1)
}

// SSHService is the service of the SSH unit: what runs sshd, also where a socket
// listens for it.
func (r Release) SSHService() string {
	if name, ok := strings.CutSuffix(r.SSHUnit, ".socket"); ok {
		return name + ".service"
	}
	return r.SSHUnit
}

// Name is the image name of the release, for example "debian-12".
func (r Release) Name() string { return r.ID + "-" + r.Version }

// KernelOn is the package of the default kernel on an architecture, or an error if the
// release is not baked for it.
func (r Release) KernelOn(arch string) (string, error) {
	if name, ok := r.Kernels[arch]; ok {
		return name, nil
	}
	if arch != "amd64" {
		return "", fmt.Errorf("release %s %s is not baked for %s", r.ID, r.Version, arch)
	}
	return r.Kernel, nil
}

// HasOpenSSH tells whether the release's OpenSSH is at least major.minor.
func (r Release) HasOpenSSH(major, minor int) bool {
	return r.OpenSSH[0] > major || r.OpenSSH[0] == major && r.OpenSSH[1] >= minor
}

// KernelPath is where the kernel of a version is, relative to /; of version "*" a
// pattern for all of them.
func (r Release) KernelPath(version string) string {
	return strings.Replace(cmp.Or(r.KernelFile, "boot/vmlinuz-*"), "*", version, 1)
}

// Find returns the row of a release, or an error that lists the known ones.
func Find(id, version string) (Release, error) {
	i := slices.IndexFunc(All, func(r Release) bool { return r.ID == id && r.Version == version })
	if i < 0 {
		names := make([]string, len(All))
		for i, r := range All {
			names[i] = r.ID + " " + r.Version
		}
		return Release{}, fmt.Errorf("release %s %s is not known; known are: %s", id, version, strings.Join(names, ", "))
	}
	return All[i], nil
}
