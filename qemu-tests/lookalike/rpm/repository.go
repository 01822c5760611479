// Package rpm makes a look-alike of Rocky's repositories: rpm packages with Rocky's
// names, its os-release, its paths and its place of the kernel, signed, with a
// signed index, made of the files of Debian 12's packages. What boots from it is
// Debian's code in Rocky's shape: it shows that ward's own side works, from dnf to
// the hooks, and nothing of Rocky's programs, kernel or SELinux.
//
//	err := rpm.Base(ctx, log, "base.tar") // Debian's packages
//	a, err := rpm.Make(ctx, log, "base.tar", dir)
//	server := httptest.NewServer(http.FileServer(http.Dir(a.Dir)))
//	// ward build with mirrors: [server.URL] and keyring: a.Keyring
package rpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ward/builder/command"
	"ward/builder/rootfs"
	"ward/images/distro"
)

// Archive is a repository.
type Archive struct {
	Dir     string // has repodata
	Keyring string // file with the public key
}

// signer is whom the throw-away key belongs to.
const signer = "lookalike@example.org"

// Base writes the tar of a tree of Debian's packages that Make takes apart.
func Base(ctx context.Context, log *slog.Logger, tar string) error {
	release, err := distro.Find("debian", "12")
	if err != nil {
		return err
	}
	spec := rootfs.Spec{Release: release, Arch: "amd64", Packages: from, Epoch: time.Now().Unix()}
	return rootfs.Bootstrap(ctx, log, spec, tar, nil, nil)
}

// Make makes a repository in an empty folder. It has to be root, since the files of
// the packages have owners.
func Make(ctx context.Context, log *slog.Logger, base, dir string) (Archive, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Archive{}, err
	}
	a := Archive{Dir: filepath.Join(dir, "repo"), Keyring: filepath.Join(dir, "RPM-GPG-KEY-lookalike")}
	if os.Geteuid() != 0 {
		return a, errors.New("look-alike of Rocky: only root can make it, whose files have owners")
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return a, err
	}
	if err := command.Run(ctx, log, "tar", "--extract", "--file", base, "--directory", tree, "--numeric-owner", "--same-permissions", "--exclude=./dev/*"); err != nil {
		return a, err
	}
	owners, err := readOwners(tree)
	if err != nil {
		return a, err
	}
	kernel, err := shapeKernel(ctx, log, tree)
	if err != nil {
		return a, err
	}
	if err := shape(tree); err != nil {
		return a, err
	}
	lists, err := share(tree, owners)
	if err != nil {
		return a, err
	}
	if err := build(ctx, log, dir, tree, kernel, lists); err != nil {
		return a, err
	}
	return a, sign(ctx, log, dir, a)
}

// readOwners tells which of our packages the paths of Debian's packages belong to,
// by dpkg's lists; /bin and the like are links into /usr.
func readOwners(tree string) (map[string]string, error) {
	of := map[string]string{}
	for name, debs := range packages {
		for _, deb := range debs {
			of[deb] = name
		}
	}
	for _, deb := range left {
		of[deb] = ""
	}
	lists, err := filepath.Glob(filepath.Join(tree, "var/lib/dpkg/info/*.list"))
	if err != nil || len(lists) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has no packages", tree), err)
	}
	owners := map[string]string{}
	for _, list := range lists {
		deb, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(list), ".list"), ":")
		name, ok := of[deb]
		if !ok {
			name = "glibc"
		}
		delete(of, deb)
		text, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		for path := range strings.Lines(string(text)) {
			owners[merged(strings.TrimSpace(path))] = name
		}
	}
	for deb, name := range of {
		if name != "" {
			return nil, fmt.Errorf("the tree has no package %s, of which %s is made", deb, name)
		}
	}
	return owners, nil
}

// merged is a path below the /usr that everything is in.
func merged(path string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}

// shapeKernel moves the kernel to where kernel-core has it and packs its modules as
// Rocky does, and returns its version.
func shapeKernel(ctx context.Context, log *slog.Logger, tree string) (string, error) {
	found, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(fmt.Errorf("the tree has %d kernels, want one", len(found)), err)
	}
	version := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	modules := filepath.Join(tree, "usr/lib/modules", version)
	if err := os.Rename(found[0], filepath.Join(modules, "vmlinuz")); err != nil {
		return "", err
	}
	if err := command.Run(ctx, log, "find", modules, "-name", "*.ko", "-exec", "xz", "-0", "--check=crc32", "--threads=1", "{}", "+"); err != nil {
		return "", err
	}
	return version, command.Run(ctx, log, "chroot", tree, "/usr/sbin/depmod", version)
}

// share writes the lists of %files: each file of the tree is in one package, and
// each folder in filesystem.
func share(tree string, owners map[string]string) (map[string]string, error) {
	for from, to := range moved {
		owners["/"+to] = owners["/"+from]
	}
	for _, a := range added {
		owners["/"+a.path] = a.pkg
	}
	users, groups := names(tree, "passwd"), names(tree, "group")
	lists := map[string]*strings.Builder{}
	for name := range packages {
		lists[name] = &strings.Builder{}
	}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, tree)
		if rel == "" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		owner, known := owners[rel]
		switch {
		case strings.HasPrefix(rel, "/usr/lib/modules/") && !d.IsDir():
			owner = "kernel-core"
			if strings.HasSuffix(rel, ".ko.xz") {
				owner = "kernel-modules-core"
			}
		case known && owner == "" && !d.IsDir():
			return nil // Debian's own tools
		case d.IsDir(), !known && d.Type()&fs.ModeSymlink != 0:
			owner = "filesystem" // and the links of alternatives
		case !known:
			owner = "setup" // made when Debian's packages were configured
		}
		lists[owner].WriteString(fileLine(rel, d.Type(), st.Mode&0o7777, users[st.Uid], groups[st.Gid]))
		return nil
	})
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for name, b := range lists {
		texts[name] = b.String()
	}
	return texts, nil
}

// fileLine is one line of %files. A file that somebody changes is kept, not replaced.
func fileLine(path string, kind fs.FileMode, mode uint32, user, group string) string {
	var b strings.Builder
	if kind.IsDir() {
		b.WriteString("%dir ")
	}
	if kind.IsRegular() && strings.HasPrefix(path, "/etc/") {
		b.WriteString("%config(noreplace) ")
	}
	if kind&fs.ModeSymlink == 0 {
		fmt.Fprintf(&b, "%%attr(%04o, %s, %s) ", mode, user, group)
	}
	escaped := strings.NewReplacer(`*`, `\*`, `?`, `\?`, `{`, `\{`, `}`, `\}`, `%`, `%%`).Replace(path)
	return b.String() + `"` + escaped + "\"\n"
}

// names are the names of the numbers in a tree's passwd or group.
func names(tree, file string) map[uint32]string {
	all := map[uint32]string{0: "root"}
	text, _ := os.ReadFile(filepath.Join(tree, "etc", file))
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ":")
		var id uint32
		if len(f) > 3 || file == "group" && len(f) > 2 {
			if _, err := fmt.Sscan(f[2], &id); err == nil && all[id] == "" {
				all[id] = f[0]
			}
		}
	}
	return all
}

// specFile is the spec of all packages: one run of rpmbuild makes them, and nothing
// is built. Every package needs the two that have the accounts and the folders.
func specFile(kernel, lists string) string {
	var b strings.Builder
	b.WriteString(`%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _binary_payload w0.gzdio
%global _unpackaged_files_terminate_build 0
Name: lookalike
Version: 9.6
Release: 1.el9
Summary: Debian 12 in the shape of Rocky Linux 9
License: various
AutoReqProv: no
%description
It is made for tests.
`)
	version, release, _ := strings.Cut(kernel, "-")
	release = strings.ReplaceAll(release, "-", ".")
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(&b, "\n%%package -n %s\nSummary: %s of the look-alike\nAutoReqProv: no\n", name, name)
		switch name {
		case "setup":
		case "filesystem":
			b.WriteString("Requires(pre): setup\n")
		case "glibc":
			b.WriteString("Provides: /usr/sbin/ldconfig.real\nRequires(pre): filesystem\n")
		case "kernel-core":
			fmt.Fprintf(&b, "Version: %s\nRelease: %s\nProvides: installonlypkg(kernel)\nRequires(pre): glibc bash coreutils systemd kmod findutils sed grep\n", version, release)
		default:
			b.WriteString("Requires(pre): filesystem glibc\n")
		}
		switch name {
		case "bash":
			b.WriteString("Provides: /bin/sh\n")
		case "rocky-release": // by which dnf knows $releasever
			b.WriteString("Provides: system-release = 9.6\nProvides: system-release(releasever) = 9\n")
		}
		fmt.Fprintf(&b, "%%description -n %s\nIt is made of Debian's files.\n", name)
	}
	b.WriteString("\n%posttrans -n glibc -p /usr/sbin/ldconfig.real\n")
	fmt.Fprintf(&b, "\n%%posttrans -n kernel-core\n/usr/bin/kernel-install add %[1]s /lib/modules/%[1]s/vmlinuz || exit $?\n\n%%preun -n kernel-core\n/usr/bin/kernel-install remove %[1]s || exit $?\n", kernel)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(&b, "\n%%files -n %s -f %s/%s\n", name, lists, name)
	}
	return b.String()
}

func build(ctx context.Context, log *slog.Logger, dir, tree, kernel string, lists map[string]string) error {
	at := filepath.Join(dir, "lists")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	spec := filepath.Join(dir, "lookalike.spec")
	if err := os.WriteFile(spec, []byte(specFile(kernel, at)), 0o644); err != nil {
		return err
	}
	// The tree is the build root as it is: %install and %clean would empty it. rpmbuild
	// says nothing of an empty list but that it is one.
	var said bytes.Buffer
	err := command.Start(ctx, log, command.Spec{Stdout: &said, Stderr: &said, Env: append(os.Environ(), "HOME="+dir), Argv: []string{
		"rpmbuild", "-bb", "--quiet", "--noclean", "--buildroot", tree, "--define", "_topdir " + filepath.Join(dir, "build"), "--define", "_rpmdir " + filepath.Join(dir, "repo"),
		"--define", "_build_name_fmt %%{NAME}.rpm", "--define", "__spec_install_pre %{nil}", "--define", "__spec_install_post %{nil}", "--define", "_empty_manifest_terminate_build 0", spec,
	}})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said.Bytes()[max(0, said.Len()-4000):])
	}
	return nil
}

// sign signs packages and index with a key that nobody keeps.
func sign(ctx context.Context, log *slog.Logger, dir string, a Archive) error {
	home, err := os.MkdirTemp("", "ward-gpg-") // short: the socket of gpg's agent is in it
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	run := func(argv ...string) error {
		return command.Start(ctx, log, command.Spec{Argv: argv, Env: append(os.Environ(), "GNUPGHOME="+home, "HOME="+dir)})
	}
	defer run("gpgconf", "--kill", "all")
	all, err := filepath.Glob(filepath.Join(a.Dir, "*.rpm"))
	if err != nil || len(all) != len(packages) {
		return errors.Join(fmt.Errorf("%d packages were made, want %d", len(all), len(packages)), err)
	}
	for _, argv := range [][]string{
		{"gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", signer, "rsa2048", "sign", "0"},
		{"gpg", "--batch", "--armor", "--output", a.Keyring, "--export", signer},
		append([]string{"rpmsign", "--define", "_gpg_name " + signer, "--define", "__gpg /usr/bin/gpg", "--addsign"}, all...),
		{"createrepo_c", "--quiet", a.Dir},
		{"gpg", "--batch", "--local-user", signer, "--armor", "--detach-sign", filepath.Join(a.Dir, "repodata/repomd.xml")},
	} {
		if err := run(argv...); err != nil {
			return err
		}
	}
	return nil
}
