package proof

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/proof/lab"
	"ward/builder/vm"
	"ward/profiles"
	"ward/profiles/control"
)

// left is a file that was written to a PHI volume before a reboot.
type left struct{ volume, path, content string }

// setting is what its finding is called; that of a further volume says which.
func (l left) setting() string {
	const what = "a file written before the reboot"
	if l.volume == profiles.DataName {
		return what
	}
	return l.volume + ": " + what
}

// leave writes a file to each PHI volume, as root, for the people of the group.
func (t *test) leave(ctx context.Context, m *vm.VM, f *Fixture) ([]left, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout(30*time.Second))
	defer cancel()
	root, client, err := Root(ctx, m, f)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	group := t.image.Profile.Controls.Accounts.Group
	var all []left
	for _, v := range t.image.Volumes() {
		content, err := lab.Secret()
		if err != nil {
			return nil, err
		}
		l := left{volume: v.Name, path: path.Join(v.Mount, "ward-test-"+content[:8]), content: content}
		out, code, err := root.Run(ctx, fmt.Sprintf("set -e; umask 077; printf %%s %s > %s; chgrp %s %s; chmod 0640 %s; sync", content, l.path, group, l.path, l.path))
		if err == nil && code != 0 {
			err = fmt.Errorf("write %s on the machine: exit code %d: %s", l.path, code, strings.TrimSpace(out))
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// find reads the file as a person of the group who is no administrator.
func (t *test) find(ctx context.Context, m *vm.VM, f *Fixture, l left) (control.Finding, error) {
	began := time.Now()
	got, err := t.read(ctx, m, f, l.path)
	// A connection that hangs says nothing of the file: it is asked for once more.
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		got, err = t.read(ctx, m, f, l.path)
	}
	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		return control.Finding{}, err
	}
	finding := control.Finding{
		Control: "phi", Title: "What is written to the PHI volume is there after a reboot", Setting: l.setting(),
		Refs: []string{"45 CFR 164.312(c)(1)"}, Want: l.content, Got: got, TookMS: time.Since(began).Milliseconds(),
	}
	finding.Status = judge(finding, nil) // a file that cannot be read is a file that is gone
	if err != nil {
		finding.Err = firstLine(err)
	}
	return finding, m.Err()
}

// read reads a file as the clerk, over a connection of its own.
func (t *test) read(ctx context.Context, m *vm.VM, f *Fixture, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout(30*time.Second))
	defer cancel()
	client, err := Login(ctx, m, f.Clerk)
	if err != nil {
		return "", err
	}
	defer client.Close()
	return vm.Command(ctx, client, "", "cat "+path)
}

// Reboot restarts the machine from inside, as an administrator does, and returns
// once the firmware has started again.
func Reboot(ctx context.Context, m *vm.VM, f *Fixture) error {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout(2*time.Minute))
	defer cancel()
	root, client, err := Root(ctx, m, f)
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	defer client.Close()
	seen := m.Resets()
	if out, code, err := root.Run(ctx, "systemctl --no-block reboot"); err == nil && code != 0 {
		return fmt.Errorf("reboot: systemctl: exit code %d: %s", code, strings.TrimSpace(out))
	}
	// The shell may end before its answer comes; the reset is the proof.
	if err := m.WaitReset(ctx, seen); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
