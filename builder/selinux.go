package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ward/builder/command"
)

// Files of SELinux in a tree, selinux(8).
const (
	selinuxConfig   = "etc/selinux/config"
	selinuxPolicy   = "targeted"
	selinuxContexts = "etc/selinux/" + selinuxPolicy + "/contexts/files/file_contexts"
	selinuxRelabel  = ".autorelabel"
)

// label gives every file of a release with SELinux its label, by the policy that is
// in the tree, and has the machine enforce it. setfiles(8) of the build host writes
// security.selinux whether or not the host has SELinux; where it is missing or may
// not write that (in a user namespace only the kernel's own security module may),
// the machine labels itself on its first boot, which takes minutes and a reboot.
func (b *bake) label(ctx context.Context) error {
	if b.release.MAC != "selinux" {
		return nil
	}
	if _, err := b.root.Stat(selinuxContexts); errors.Is(err, fs.ErrNotExist) {
		b.log.Warn("the packages bring no SELinux policy: nothing is labelled, and the machine runs without SELinux", "want", "/"+selinuxContexts)
		return nil
	} else if err != nil {
		return err
	}
	if err := installFile(b.root, selinuxConfig, []byte("# ward: see selinux_config(5)\nSELINUX=enforcing\nSELINUXTYPE="+selinuxPolicy+"\n"), 0o644); err != nil {
		return err
	}
	err := b.setfiles(ctx)
	if err == nil {
		return nil
	}
	b.log.Warn("files are not labelled in the image, the machine does it on its first boot", "why", err)
	return installFile(b.root, selinuxRelabel, []byte("-F\n"), 0o644)
}

// setfiles labels the tree and looks at one file whose label is known.
func (b *bake) setfiles(ctx context.Context) error {
	if _, err := exec.LookPath("setfiles"); err != nil {
		return fmt.Errorf("%w\nhint: install policycoreutils", err)
	}
	argv := []string{"setfiles", "-F", "-r", b.tree}
	for _, dir := range []string{"proc", "sys", "dev", "run"} {
		argv = append(argv, "-e", filepath.Join(b.tree, dir))
	}
	if err := command.Run(ctx, b.log, append(argv, filepath.Join(b.tree, selinuxContexts), b.tree)...); err != nil {
		return err
	}
	const known = "etc/shadow"
	got, err := xattr(filepath.Join(b.tree, known), "security.selinux")
	if err == nil && !strings.Contains(got, ":shadow_t:") {
		err = fmt.Errorf("/%s is labelled %q, want shadow_t", known, got)
	}
	return err
}

// xattr reads an extended attribute, without the NUL that ends one of SELinux.
func xattr(file, name string) (string, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(file, name, buf)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", file, name, err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00"), nil
}
