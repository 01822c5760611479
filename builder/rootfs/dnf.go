package rootfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ward/builder/command"
)

// dnf makes trees of rpm packages through dnf(8) of the build host. Every mirror
// is the base URL of one repository, the folder that has repodata; $releasever
// and $basearch in it are the release and the processor, dnf.conf(5).
type dnf struct{}

func (dnf) version(ctx context.Context, log *slog.Logger) (string, error) {
	out, err := command.Output(ctx, log, "rpm", "--version")
	if err == nil {
		var more string
		// The first line is the version, the others are when it was built.
		more, err = command.Output(ctx, log, "dnf", "--version", "--releasever=0")
		first, _, _ := strings.Cut(more, "\n")
		out = "dnf " + first + ", " + out
	}
	if err != nil {
		return "", fmt.Errorf("rootfs: %w\nhint: install the packages dnf and rpm", err)
	}
	return strings.TrimSpace(out), nil
}

// hang is how long a mirror may say nothing.
var hang = 30 * time.Second

// repositories are the mirrors as a file of dnf.conf(5). Modules of streams hide
// packages of the same name, so streams are off: module_hotfixes shows them all.
func repositories(mirrors []string, signed []bool, key string) string {
	var b strings.Builder
	for i, m := range mirrors {
		fmt.Fprintf(&b, "\n[ward-%d]\nname=repository %d of the image\nbaseurl=%s\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=%d\ngpgkey=file://%s\nmodule_hotfixes=1\n",
			i+1, i+1, m, bit(signed[i]), key)
	}
	return b.String()
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// config is dnf.conf(5) of the build: nothing of the host's own configuration.
func (dnf) config(s Spec, signed []bool) string {
	return fmt.Sprintf(`[main]
gpgcheck=1
localpkg_gpgcheck=1
reposdir=/nonexistent
varsdir=/nonexistent
plugins=0
install_weak_deps=False
tsflags=nodocs
best=True
skip_if_unavailable=False
module_platform_id=platform:el%s
timeout=%d
minrate=1000
retries=2
keepcache=0
`, s.Release.Version, hang/time.Second) + repositories(s.Mirrors, signed, s.Keyring)
}

// resolve completes the mirrors' URLs and tells whose index is signed.
func (dnf) resolve(ctx context.Context, s *Spec) (signed []bool, err error) {
	if len(s.Mirrors) == 0 {
		return nil, errors.New("there is no repository\nhint: name the base URL of each one, the folder that has repodata, in the image file (mirrors: [URL, URL]): BaseOS, AppStream, and EPEL for restic")
	}
	var faults []error
	resolved, signed := make([]string, len(s.Mirrors)), make([]bool, len(s.Mirrors))
	for i, m := range s.Mirrors {
		resolved[i] = strings.NewReplacer("$releasever", s.Release.Version, "$basearch", "x86_64").Replace(m)
		signed[i], err = index(ctx, resolved[i])
		faults = append(faults, err)
	}
	s.Mirrors = resolved
	return signed, errors.Join(faults...)
}

// machineKeys is where the keys of the repositories are on the machine.
const machineKeys = "/etc/pki/rpm-gpg/RPM-GPG-KEY-ward"

// rpmMacros of the build. The host's rpm may have another place for the database
// than the target's (Debian's is in the home folder). What is mounted in the tree
// is nobody's to change (_netsharedpath): the package filesystem has /proc in it.
func rpmMacros(database string) string {
	return "%_dbpath /" + database + "\n%_netsharedpath /dev:/proc:/sys\n"
}

// makeTree runs in namespaces of its own: $1 the work folder, $2 the tree, $3 the
// epoch, $4 the release, $5 the rpm database's folder, $6 its format, $7 the tar of a
// vendor's tree or nothing, and then the packages. The distribution's own initramfs and entries of a boot loader are not
// made, here and at each update: ward's take their place, and a plugin of
// kernel-install(8) that is a link to /dev/null is none. The keys are in rpm's
// database before the first package, because dnf asks no repository for the key of a
// file. dnf's history of the build, with its times, is no part of the machine. dnf gets no standard input,
// so that it asks nobody. A target whose rpm
// cannot read the host's format gets the headers through its own rpm; in any case
// its rpm has to find as many packages as the host's has installed.
const makeTree = `
work=$1 tree=$2 epoch=$3 release=$4 db=$5 format=$6 vendor=$7; shift 7
export HOME="$work" LC_ALL=C SOURCE_DATE_EPOCH="$epoch"
umask 022
mkdir "$tree"
[ -z "$vendor" ] || tar --extract --file "$vendor" --directory "$tree" --numeric-owner --same-permissions --xattrs --xattrs-include='*'
mkdir -p "$tree/proc" "$tree/sys" "$tree/dev"
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mkdir -p "$tree/etc/kernel/install.d"
for plugin in 20-grub 50-dracut 51-dracut-rescue 90-loaderentry 92-crashkernel; do
	ln -s /dev/null "$tree/etc/kernel/install.d/$plugin.install"
done
dnf() { command dnf --assumeyes --config="$work/dnf.conf" --installroot="$tree" --releasever="$release" "$@" </dev/null; }
rpm --root "$tree" --import "$work/keys"
[ -z "$vendor" ] || ! grep -q ^baseurl= "$work/dnf.conf" || dnf upgrade
dnf install "$@"
inside() { chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }
rpm --root "$tree" --query --all --queryformat '%{NAME} %{VERSION}-%{RELEASE}\n' | sort >"$work/installed"
if [ "$format" != sqlite ]; then
	rpmdb --root "$tree" --exportdb >"$work/headers"
	rm -rf "$tree/$db"; mkdir -p "$tree/$db"
	inside rpmdb --initdb
	inside rpmdb --importdb <"$work/headers"
fi
inside rpm --query --all --queryformat '%{NAME} %{VERSION}-%{RELEASE}\n' | sort >"$work/found"
cmp -s "$work/installed" "$work/found" || {
	echo "ward: the target's rpm finds $(wc -l <"$work/found") packages in its database, $(wc -l <"$work/installed") are installed"; exit 1; }
mkdir -p "$tree/etc/yum.repos.d" "$tree/etc/pki/rpm-gpg"
for f in "$tree"/etc/yum.repos.d/*.repo; do
	[ ! -e "$f" ] || echo '# ward: the repositories are those of the image, in ward.repo' >"$f"
done
cp "$work/ward.repo" "$tree/etc/yum.repos.d/ward.repo"
cp "$work/keys" "$tree/etc/pki/rpm-gpg/RPM-GPG-KEY-ward"
rm -rf "$tree/var/cache/dnf" "$tree"/var/lib/dnf/history.sqlite* "$tree"/var/log/dnf*.log "$tree"/var/log/hawkey.log
umount --lazy "$tree/dev" "$tree/proc"
`

func (d dnf) bootstrap(ctx context.Context, log *slog.Logger, s Spec, tree string, note func(string)) (err error) {
	name := s.Release.Name()
	for _, program := range []string{"dnf", "rpm"} {
		if err := command.Run(ctx, log, program, "--version", "--quiet"); errors.Is(err, os.ErrNotExist) || strings.Contains(fmt.Sprint(err), "not found") {
			return fmt.Errorf("rootfs: %s: %s is not installed\nhint: install the packages dnf and rpm; `ward doctor` lists what else is missing", name, program)
		}
	}
	// The repositories of the machine: those of the image, as it names them.
	mirrors, onMachine := s.Mirrors, s.Sources
	var signed []bool
	if onMachine == "" {
		if signed, err = d.resolve(ctx, &s); err != nil {
			return fmt.Errorf("rootfs: %s: %w", name, err)
		}
		onMachine = "# ward: the repositories that the image was made from\n" + repositories(mirrors, signed, machineKeys)
	}
	work, err := os.MkdirTemp("", "ward-dnf-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, command.RemoveAll(context.WithoutCancel(ctx), log, work)) }()
	keys, err := os.ReadFile(s.Keyring)
	if err != nil {
		return fmt.Errorf("rootfs: keyring: %w", err)
	}
	s.Keyring = filepath.Join(work, "keys")
	for file, text := range map[string]string{
		"keys": string(keys), "dnf.conf": d.config(s, signed), ".rpmmacros": rpmMacros(s.Release.RPMDB), "ward.repo": onMachine,
	} {
		if err := os.WriteFile(filepath.Join(work, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	vendor := ""
	if s.Base != nil {
		file, remove, err := s.Base.lay(s.Release)
		if err != nil {
			return fmt.Errorf("rootfs: %s: %w", name, err)
		}
		defer remove()
		vendor = file
	}
	argv := command.Namespace("sh", "-euc", makeTree, "dnf", work, tree, strconv.FormatInt(s.Epoch, 10), s.Release.Version, s.Release.RPMDB, s.Release.RPMDBFormat, vendor)
	lines, err := listen(ctx, log, append(argv, s.Packages...), nil, note)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("rootfs: %w", ctx.Err())
	}
	if why := explainDNF(lines); why != "" {
		return fmt.Errorf("rootfs: %s: %s", name, why)
	}
	return fmt.Errorf("rootfs: %s: %w", name, err)
}

// index looks for a repository's index and tells whether it is signed: dnf must
// then check it (repo_gpgcheck). EPEL signs packages alone, and each package's
// signature is checked in any case.
func index(ctx context.Context, base string) (signed bool, err error) {
	there, err := has(ctx, base, "repodata/repomd.xml")
	if err != nil {
		return false, err
	}
	if !there {
		return false, fmt.Errorf("%s has no repodata/repomd.xml\nhint: a mirror of an rpm release is the base URL of one repository, such as .../BaseOS/$basearch/os/; check mirrors: in the image file", base)
	}
	return has(ctx, base, "repodata/repomd.xml.asc")
}

func has(ctx context.Context, base, name string) (bool, error) {
	u, err := url.Parse(base)
	if err != nil {
		return false, err
	}
	u = u.JoinPath(name)
	if u.Scheme == "file" {
		_, err := os.Stat(u.Path)
		return err == nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, hang)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, err
	}
	res, err := http.DefaultClient.Do(req)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return false, fmt.Errorf("%s does not answer within %s\nhint: the mirror hangs; check mirrors: in the image file and the network, or use another mirror", base, hang)
	case err != nil:
		return false, fmt.Errorf("%w\nhint: the mirror is down or out of reach; check mirrors: in the image file and the network", err)
	}
	res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound, http.StatusForbidden: // some stores answer so where there is nothing
		return false, nil
	}
	return false, fmt.Errorf("%s: the mirror answers %s\nhint: try again, or use another mirror", u, res.Status)
}

// symptomsDNF are what dnf and rpm say when a thing outside of ward is wrong, and
// what to do about it; the first that any line has wins.
var symptomsDNF = []struct{ text, hint string }{
	{"No space left on device", "free disk space (--cache says where the tree is made and kept)"},
	{"more space needed on", "free disk space (--cache says where the tree is made and kept)"},
	{"is not signed", "every package must be signed; use another mirror, or sign the site's own packages and add the key to the keyring"},
	{"repomd.xml GPG signature verification error", "the index was changed after it was signed, or the keyring lacks its key; check keyring: in the image file"},
	{"Failing package is: ", "the keyring does not have the key that signed the package; add it to the file that keyring: in the image file names"},
	{"Public key for", "the keyring does not have the key that signed the package; add it to the file that keyring: in the image file names"},
	{"checksum doesn't match", "the mirror is being updated or altered; try again, or use another mirror"},
	{"Unable to find a match", "no repository of the image has such a package (restic and google-authenticator are in EPEL); check mirrors: and packages: in the image file"},
	{"nothing provides", "a repository is missing or from another release; check mirrors: in the image file"},
	{"Could not resolve host", "the mirror's name cannot be resolved; check mirrors: in the image file and the network"},
	{"Operation too slow", "the mirror hangs; try again, or use another mirror"},
	{"Timeout was reached", "the mirror hangs; try again, or use another mirror"},
	{"Connection refused", "the mirror is down; check mirrors: in the image file"},
	{"Failed to download metadata", "check mirrors: in the image file and the network"},
	{"Error downloading packages", "check mirrors: in the image file and the network"},
	{"newuidmap", "an ordinary user needs subordinate ids: install uidmap and run usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"},
	{"ward: the target's rpm", "this host's rpm writes a database that the release's rpm does not read; build on a host of the same family"},
}

// prefixDNF is what stands before the message itself.
var prefixDNF = regexp.MustCompile(`^(Error: |ward: |\[[A-Z]+\] )+`)

// explainDNF returns the telling line of a failed run with a hint, or nothing.
func explainDNF(lines []string) string {
	for _, s := range symptomsDNF {
		for _, line := range lines {
			if strings.Contains(line, s.text) {
				return strings.TrimSpace(prefixDNF.ReplaceAllString(strings.TrimSpace(line), "")) + "\nhint: " + s.hint
			}
		}
	}
	return ""
}
