package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// mountVolumes mounts every volume that is mapped and pinned, through systemd,
// so that it is checked before and detached cleanly at shutdown.
func (m *Machine) mountVolumes(ctx context.Context) error {
	pins, err := m.pins()
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range m.volumes() {
		if err := m.root.MkdirAll(clean(v.Mount), 0o755); err != nil {
			return err
		}
		pin, ok := pins.Find(v.Name)
		if !ok || !m.mapped(v.Name) {
			if err := m.closeMountPoint(ctx, v); err != nil {
				errs = append(errs, err)
			}
			continue
		}
		if err := m.mountVolume(ctx, v, pin); err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

// closeMountPoint keeps programs from writing PHI in clear onto the root file
// system while the volume is absent: not even root can make files in an
// immutable directory, chattr(1).
func (m *Machine) closeMountPoint(ctx context.Context, v handoff.Volume) error {
	if on, err := m.mounted(ctx, v.Mount); err != nil || on {
		return err
	}
	if m.facts.Image.Verity && !overlaid(v.Mount) {
		return nil // nobody writes there, and chattr could not either
	}
	_, err := m.run(ctx, nil, "chattr", "+i", v.Mount)
	return err
}

// overlaid tells whether a path of a verified root can be written to.
func overlaid(name string) bool {
	return slices.ContainsFunc(handoff.Overlaid, func(dir string) bool { return strings.HasPrefix(name, "/"+dir+"/") })
}

func (m *Machine) mountVolume(ctx context.Context, v handoff.Volume, pin handoff.Pin) error {
	// crypttab: systemd must not open it by itself (noauto), never ask for a
	// passphrase (headless) and find it open already; it then owns the detaching
	// at shutdown. No key file is named: crypttab(5), field 3.
	crypt := fmt.Sprintf("%s UUID=%s none luks,noauto,headless=true,tries=1", v.Name, pin.LUKSUUID)
	a, err := m.tableLine("etc/crypttab", 0, v.Name, crypt, 0o600)
	if err != nil {
		return err
	}
	// noauto: a boot without the volume waits for nothing; wardctl starts the unit.
	dev := "/dev/mapper/" + v.Name
	mount := fmt.Sprintf("%s %s ext4 noauto,nofail,nodev,nosuid,noexec,x-systemd.device-timeout=10s 0 2", dev, v.Mount)
	b, err := m.tableLine("etc/fstab", 1, v.Mount, mount, 0o644)
	if err != nil {
		return err
	}
	if a || b {
		if _, err := m.run(ctx, nil, "systemctl", "daemon-reload"); err != nil {
			return err
		}
	}
	if on, err := m.mounted(ctx, v.Mount); err != nil || on {
		return err
	}
	if err := m.closeMountPoint(ctx, v); err != nil {
		return err
	}
	// It finds the volume open already and says so; being active, it detaches the
	// volume at shutdown, after everything that uses it.
	if _, err := m.run(ctx, nil, "systemctl", "start", "systemd-cryptsetup@"+control.EscapeUnit(v.Name)+".service"); err != nil {
		return err
	}
	if _, err = m.run(ctx, nil, "systemctl", "start", control.MountUnit(v.Mount)); err != nil {
		return errHint(err, "see `systemctl status %s` and `journalctl -u systemd-fsck@*`", control.MountUnit(v.Mount))
	}
	if on, err := m.mounted(ctx, v.Mount); err != nil || !on {
		return errors.Join(fmt.Errorf("%s is not mounted although systemd started it", v.Mount), err)
	}
	return nil
}

// mounted tells whether something is mounted on dir.
func (m *Machine) mounted(ctx context.Context, dir string) (bool, error) {
	_, err := m.run(ctx, nil, "findmnt", "--mountpoint", dir)
	if exitCode(err) == 1 { // nothing found: findmnt(8)
		return false, nil
	}
	return err == nil, err
}

// tableLine makes sure that a table such as fstab has exactly one line whose
// field is key, and that it is line. Other lines stay as they are.
func (m *Machine) tableLine(name string, field int, key, line string, mode fs.FileMode) (changed bool, err error) {
	old, err := m.root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return writeFile(m.root, name, []byte(setLine(string(old), field, key, line)), mode, 0, 0)
}

func setLine(table string, field int, key, line string) string {
	var b strings.Builder
	placed := false
	for l := range strings.Lines(table) {
		l = strings.TrimSuffix(l, "\n")
		f := strings.Fields(l)
		if len(f) > field && f[field] == key && !strings.HasPrefix(f[0], "#") {
			if placed {
				continue
			}
			placed, l = true, line
		}
		b.WriteString(l + "\n")
	}
	if !placed {
		b.WriteString(line + "\n")
	}
	return b.String()
}
