package rootfs

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ward/builder/command"
	"ward/builder/sourceslist"
)

// apt makes trees of Debian packages through mmdebstrap(1).
type apt struct{}

func (apt) version(ctx context.Context, log *slog.Logger) (string, error) {
	out, err := command.Output(ctx, log, "mmdebstrap", "--version")
	if err != nil {
		return "", fmt.Errorf("rootfs: %w\nhint: install the package mmdebstrap", err)
	}
	return strings.TrimSpace(out), nil
}

// hold keeps the distribution's own initramfs from being made, here and at each
// kernel update: ward's takes its place, and making one nobody boots costs
// seconds and 13 MB. run-parts(8) passes over a file that is not executable, and
// dpkg keeps it because of force-confold.
const hold = `mkdir -p "$1/etc/kernel/postinst.d" "$1/etc/kernel/postrm.d" && : > "$1/etc/kernel/postinst.d/initramfs-tools" && : > "$1/etc/kernel/postrm.d/initramfs-tools"`

// unpackVendor and addToVendor are mmdebstrap's hooks for a tree that starts from a
// vendor's: what that has is brought to what the archive has, and what it lacks is
// installed, by apt of the build host and dpkg of the tree. The names are checked by
// the image file's schema.
const (
	unpackVendor = `tar --extract --file '%s' --directory "$1" --numeric-owner --same-permissions --xattrs --xattrs-include='*'`
	addToVendor  = `export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; set -- apt-get --yes --no-install-recommends -o DPkg::Chroot-Directory="$1"; "$@" dist-upgrade && "$@" install apt %s`
)

// excluded is left out when packages are unpacked; licences stay.
var excluded = []string{"/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/lintian/*"}

func (apt) bootstrap(ctx context.Context, log *slog.Logger, s Spec, tree string, note func(string)) error {
	patience := int(cmp.Or(s.Patience, 30*time.Second).Seconds())
	// Not mmdebstrap's own mode "unshare", which for an ordinary user makes files of
	// other owners than ours in their namespace: root in it is root in ours.
	argv := command.Namespace("mmdebstrap", "--mode=root", "--format=directory", "--architectures="+s.Arch, "--keyring="+s.Keyring)
	if s.Base == nil {
		argv = append(argv, "--variant=minbase", "--include="+strings.Join(s.Packages, ","))
	} else {
		base, remove, err := s.Base.lay(s.Release)
		if err != nil {
			return fmt.Errorf("rootfs: %s: %w", s.Release.Name(), err)
		}
		defer remove()
		argv = append(argv, "--variant=custom", "--setup-hook="+fmt.Sprintf(unpackVendor, base), "--customize-hook="+fmt.Sprintf(addToVendor, strings.Join(s.Packages, " ")))
	}
	argv = append(argv,
		"--setup-hook="+hold,
		"--dpkgopt=force-confold",
		// A mirror that hangs must end in an error, not in a wait.
		fmt.Sprintf(`--aptopt=Acquire::http::Timeout "%d"`, patience), fmt.Sprintf(`--aptopt=Acquire::https::Timeout "%d"`, patience), `--aptopt=Acquire::Retries "2"`,
	)
	if len(s.Release.Components) > 0 {
		argv = append(argv, "--components="+strings.Join(s.Release.Components, ","))
	}
	setup, remove, err := uploads("setup", s.Setup)
	if err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	defer remove()
	argv = append(argv, setup...)
	if s.Sources != "" { // in place of the folder where the packages lay, which has another name each time
		last, remove, err := uploads("customize", []sourceslist.File{{Path: "etc/apt/sources.list", Data: []byte(s.Sources)}})
		if err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
		defer remove()
		argv = append(argv, last...)
	}
	for _, path := range excluded {
		argv = append(argv, "--dpkgopt=path-exclude="+path)
	}
	argv = append(argv, "--dpkgopt=path-include=/usr/share/doc/*/copyright", s.Release.Codename, tree)
	argv = append(argv, s.Mirrors...)

	lines, err := listen(ctx, log, argv, []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.Epoch, 10)}, note)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("rootfs: %w", ctx.Err())
	}
	if why := explain(lines); why != "" {
		return fmt.Errorf("rootfs: %s: %s", s.Release.Name(), why)
	}
	if last := lastErrors(lines); last != "" {
		return fmt.Errorf("rootfs: %s: %s", s.Release.Name(), last)
	}
	return fmt.Errorf("rootfs: %s: %w", s.Release.Name(), err)
}

// uploads puts files into the tree at a hook, such as setup, before its first update,
// owned by root whoever builds (mmdebstrap(1), "upload").
func uploads(hook string, files []sourceslist.File) (argv []string, remove func(), err error) {
	if len(files) == 0 {
		return nil, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "ward-upload-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	for i, f := range files {
		name := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			remove()
			return nil, nil, err
		}
		argv = append(argv, fmt.Sprintf("--%s-hook=upload '%s' '/%s'", hook, name, f.Path))
	}
	return argv, remove, nil
}

// lastErrors returns the last lines that apt and mmdebstrap mark as errors, less
// the one that only says that there was one.
func lastErrors(lines []string) string {
	var last []string
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "E: "); ok && text != "mmdebstrap failed to run" {
			last = append(last, text)
		}
	}
	return strings.Join(last[max(0, len(last)-3):], "; ")
}

// symptoms are what apt, dpkg and mmdebstrap say when a thing outside of ward is
// wrong, and what to do about it; the first that any line has wins.
var symptoms = []struct{ text, hint string }{
	{"No space left on device", "free disk space (--cache says where the tree is made and kept)"},
	{"NO_PUBKEY", "the keyring does not have the key that signed the archive; check keyring: in the image file"},
	{"BADSIG", "the mirror's Release was changed after it was signed; use another mirror"},
	{"is not signed", "the mirror must serve a signed Release; check mirrors: and keyring: in the image file"}, // said after the two above as well
	{"Release file is not valid yet", "the clock of this machine is behind"},
	{"is expired", "the mirror is no longer updated, or this machine's clock is wrong"},
	{"File has unexpected size", "the mirror is being updated or altered; try again, or use another mirror"},
	{"Hash Sum mismatch", "the mirror is being updated or altered; try again, or use another mirror"},
	{"does not have a Release file", "the mirror does not serve this release; check mirrors: in the image file"},
	{"Could not connect", "the mirror is down or out of reach; check mirrors: in the image file and the network"},
	{"Connection refused", "the mirror is down; check mirrors: in the image file"},
	{"Temporary failure resolving", "the mirror's name cannot be resolved; check mirrors: in the image file and the network"},
	{"Could not resolve", "the mirror's name cannot be resolved; check mirrors: in the image file and the network"},
	{"Connection timed out", "the mirror does not answer; check mirrors: in the image file and the network"},
	{"Unable to locate package", "the release has no such package; check packages: in the image file"},
	{"has no installation candidate", "the release has no such package; check packages: in the image file"},
	{"Connection failed", "the mirror does not answer; check mirrors: in the image file and the network"},
	{"Connection closed", "the mirror breaks off; try again, or use another mirror"},
	{"Failed to fetch", "check mirrors: in the image file and the network"},
	{"newuidmap", "an ordinary user needs subordinate ids: install uidmap and run usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"},
}

// marked is how apt and mmdebstrap mark an error or a warning.
var marked = regexp.MustCompile(`^[EW]: `)

// explain returns the telling line of a failed run with a hint, or nothing.
func explain(lines []string) string {
	for _, s := range symptoms {
		for _, line := range lines {
			if strings.Contains(line, s.text) {
				return strings.TrimSpace(marked.ReplaceAllString(line, "")) + "\nhint: " + s.hint
			}
		}
	}
	return ""
}
