package rpm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// moved are files that Rocky has elsewhere.
var moved = map[string]string{
	"usr/lib/systemd/system/ssh.service":    "usr/lib/systemd/system/sshd.service",
	"usr/lib/systemd/system/chrony.service": "usr/lib/systemd/system/chronyd.service",
	"usr/lib/openssh/sftp-server":           "usr/libexec/openssh/sftp-server",
	"etc/chrony/chrony.conf":                "etc/chrony.conf",
	"etc/nftables.conf":                     "etc/sysconfig/nftables.conf",
	"usr/bin/aide":                          "usr/libexec/aide",
}

// gone are paths of Debian's that no rpm release has; patterns.
var gone = []string{
	"var/lib/dpkg", "var/lib/apt", "var/cache/apt", "var/cache/debconf", "var/lib/pam", "etc/apt", "etc/dpkg", "usr/share/pam-configs",
	"etc/pam.d/common-*", "etc/ssl/openssl.cnf", "etc/debian_version", "etc/systemd/system/*.wants/ssh.service", "etc/systemd/system/*.wants/chrony.service", "etc/systemd/system/sshd.service",
	"etc/systemd/system/chronyd.service", "usr/lib/systemd/system/apt-*", "usr/lib/systemd/system/dpkg-*", "etc/systemd/system/timers.target.wants/apt-*",
	"etc/systemd/system/timers.target.wants/dpkg-*", "usr/lib/systemd/system/rescue-ssh.target", "etc/kernel", "boot/*", "vmlinuz*", "initrd*",
	"etc/ssh/ssh_host_*", "var/log/*", "etc/cron.daily", "etc/init.d", "etc/rc?.d", "usr/lib/systemd/systemd-sysv-install", "usr/share/doc/*/changelog*", "etc/machine-id",
}

// edit is a change of text in one file.
type edit struct{ path, old, new string }

// edits are of files after they were moved.
var edits = []edit{
	{"usr/lib/systemd/system/sshd.service", "Alias=sshd.service\n", ""},
	{"usr/lib/systemd/system/chronyd.service", "Alias=chronyd.service\n", ""},
	{"usr/lib/systemd/system/chronyd.service", "$DAEMON_OPTS", "-f /etc/chrony.conf $DAEMON_OPTS"},
	{"usr/lib/systemd/system/nftables.service", "/etc/nftables.conf", "/etc/sysconfig/nftables.conf"},
	{"etc/ssh/sshd_config", "/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"},
	// Debian's rpm has its database in the home folder.
	{"usr/lib/rpm/macros", "%(bash -c 'echo ~/.rpmdb')", "%{_var}/lib/rpm"},
}

// includes are Debian's common parts of PAM and what Rocky's files say instead.
var includes = map[string]string{
	"common-auth": "auth       substack     %s", "common-account": "account    include      %s", "common-password": "password   include      %s",
	"common-session": "session    include      %s", "common-session-noninteractive": "session    include      %s",
}

var include = regexp.MustCompile(`(?m)^@include\s+(common-[a-z-]+)[ \t]*$`)

// pamFile writes one of Debian's files of /etc/pam.d as Rocky has it.
func pamFile(name, text string) string {
	stack := "system-auth"
	if name == "sshd" {
		stack = "password-auth"
	}
	return include.ReplaceAllStringFunc(text, func(line string) string {
		form, ok := includes[include.FindStringSubmatch(line)[1]]
		if !ok {
			return line
		}
		return fmt.Sprintf(form, stack)
	})
}

// shape gives a tree of Debian's packages the shape of Rocky 9.
func shape(tree string) error {
	at := func(name string) string { return filepath.Join(tree, name) }
	for from, to := range moved {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at(to)), 0o755), os.Rename(at(from), at(to))); err != nil {
			return err
		}
	}
	for _, pattern := range gone {
		names, err := filepath.Glob(at(pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	for _, e := range edits {
		text, err := os.ReadFile(at(e.path))
		if err != nil {
			return err
		}
		if !bytes.Contains(text, []byte(e.old)) {
			return fmt.Errorf("%s has no %q", e.path, e.old)
		}
		if err := os.WriteFile(at(e.path), bytes.ReplaceAll(text, []byte(e.old), []byte(e.new)), 0o644); err != nil {
			return err
		}
	}
	files, err := os.ReadDir(at("etc/pam.d"))
	if err != nil {
		return err
	}
	for _, f := range files {
		name := at("etc/pam.d/" + f.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(pamFile(f.Name(), string(text))), 0o644); err != nil {
			return err
		}
	}
	for _, a := range added {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at(a.path)), 0o755), remove(at(a.path)), a.write(tree)); err != nil {
			return err
		}
	}
	return nil
}

func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// file is one that Debian does not have.
type file struct {
	pkg, path, text string
	mode            fs.FileMode // 0: a symbolic link to text
}

func (f file) write(tree string) error {
	name := filepath.Join(tree, f.path)
	if f.mode == 0 {
		return os.Symlink(f.text, name)
	}
	return errors.Join(os.WriteFile(name, []byte(f.text), f.mode), os.Chmod(name, f.mode))
}

const osRelease = `NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.6 (look-alike made of Debian 12)"
VARIANT_ID="lookalike"
`

// authselect does of authselect(8) what ward asks of it: it joins the files of a
// custom profile with the features and links /etc/pam.d to the result.
const authselect = `#!/bin/sh
# A stand-in: authselect select custom/NAME FEATURE... --force --nobackup
set -eu
[ "$1" = select ] || { echo "authselect: $1 is not known to the stand-in" >&2; exit 1; }
from=/etc/authselect/$2; shift 2
for f in README REQUIREMENTS nsswitch.conf system-auth password-auth fingerprint-auth smartcard-auth postlogin dconf-db dconf-locks; do
	[ -e "$from/$f" ] || { echo "authselect: $from/$f is missing" >&2; exit 2; }
done
features=" $* "
for f in system-auth password-auth fingerprint-auth smartcard-auth postlogin nsswitch.conf; do
	while IFS= read -r line; do
		case $line in
		*'{include if "'*)
			feature=${line#*\{include if \"}; feature=${feature%%\"*}
			case $features in *" $feature "*) line=${line%%\{include*} ;; *) continue ;; esac ;;
		esac
		printf '%s\n' "$line"
	done <"$from/$f" >"/etc/authselect/$f"
	case $f in
	nsswitch.conf) ln -sf /etc/authselect/$f /etc/$f ;;
	*) ln -sf /etc/authselect/$f /etc/pam.d/$f ;;
	esac
done
echo "Profile was selected."
`

// cryptoPolicies does of update-crypto-policies(8) what ward asks of it: the oldest
// TLS and the sizes of the module WARD, for OpenSSL and GnuTLS.
const cryptoPolicies = `#!/bin/sh
# A stand-in: update-crypto-policies --set DEFAULT:WARD
set -eu
[ "$1" = --set ] || exit 1
module=/etc/crypto-policies/policies/modules/${2#*:}.pmod
min=$(sed -n 's/^min_tls_version = TLS//p' "$module")
d=/etc/crypto-policies/back-ends
printf 'CipherString = DEFAULT:@SECLEVEL=2\nMinProtocol = TLSv%s\n' "$min" >$d/opensslcnf.config
{
	echo '[overrides]'
	for v in ssl3.0 tls1.0 tls1.1 dtls0.9 dtls1.0; do echo "disabled-version = $v"; done
	[ "$min" != 1.3 ] || echo 'disabled-version = tls1.2'
	echo 'min-verification-profile = medium'
} >$d/gnutls.config
echo "$2" >/etc/crypto-policies/config
echo "Setting system policy to $2"
`

const opensslConf = `# In Rocky's shape: what is allowed comes from crypto-policies.
openssl_conf = openssl_init

[openssl_init]
providers = provider_sect
ssl_conf = ssl_module

[provider_sect]
default = default_sect

[default_sect]
activate = 1

[ssl_module]
system_default = crypto_policy

[crypto_policy]
.include = /etc/crypto-policies/back-ends/opensslcnf.config

[req]
distinguished_name = req_distinguished_name

[req_distinguished_name]
`

// aide reads the words of AIDE 0.16, as Rocky 9's does, with Debian's 0.18.
const aide = `#!/bin/sh
# A stand-in: AIDE 0.18 with the words of 0.16.
new=$(mktemp /run/aide-XXXXXX) || exit 17
for a; do
	shift
	case $a in --config=*) sed 's/^database=/database_in=/' "${a#--config=}" >"$new"; a=--config=$new ;; esac
	set -- "$@" "$a"
done
/usr/libexec/aide "$@"
status=$?
rm -f "$new"
exit $status
`

// added are the files that Debian does not have.
var added = []file{
	{"rocky-release", "usr/lib/os-release", osRelease, 0o644},
	{"rocky-release", "etc/os-release", "../usr/lib/os-release", 0},
	{"rocky-release", "etc/rocky-release", "Rocky Linux release 9.6 (Blue Onyx)\n", 0o644},
	{"rocky-repos", "etc/yum.repos.d/rocky.repo", "[baseos]\nname=Rocky Linux $releasever - BaseOS\nenabled=1\ngpgcheck=1\nbaseurl=http://rocky.invalid/baseos\n", 0o644},
	{"authselect", "usr/bin/authselect", authselect, 0o755},
	{"authselect", "etc/authselect/custom/.keep", "", 0o644},
	{"crypto-policies-scripts", "usr/bin/update-crypto-policies", cryptoPolicies, 0o755},
	{"crypto-policies-scripts", "etc/crypto-policies/back-ends/opensslcnf.config", "MinProtocol = TLSv1.2\n", 0o644},
	{"crypto-policies-scripts", "etc/crypto-policies/back-ends/gnutls.config", "", 0o644},
	{"crypto-policies-scripts", "etc/gnutls/config", "../crypto-policies/back-ends/gnutls.config", 0},
	{"openssl", "etc/pki/tls/openssl.cnf", opensslConf, 0o644},
	{"openssl", "usr/lib/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", 0},
	{"aide", "usr/sbin/aide", aide, 0o755},
	{"dnf", "etc/dnf/dnf.conf", "[main]\ngpgcheck=1\n", 0o644},
	{"dnf-automatic", "usr/lib/systemd/system/dnf-automatic.timer", "[Unit]\nDescription=dnf-automatic timer\n[Timer]\nOnCalendar=*-*-* 6:00\nRandomizedDelaySec=60m\nPersistent=true\n[Install]\nWantedBy=timers.target\n", 0o644},
	{"dnf-automatic", "usr/lib/systemd/system/dnf-automatic.service", "[Unit]\nDescription=dnf automatic\n[Service]\nType=oneshot\nExecStart=/usr/bin/python3 -m dnf.automatic.main /etc/dnf/automatic.conf --timer\n", 0o644},
}
