package firstboot

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/profiles"
	"ward/profiles/control"
)

//go:embed units
var units embed.FS

const unitDir = "usr/lib/systemd/system"

// Install puts wardctl, its units and what it must know of image and profile
// into an image's tree. The units are enabled with the links that systemctl
// enable would make, because nothing of the image runs while it is built.
func Install(root *os.Root, wardctl []byte, profile *profiles.Profile, image ImageFacts) error {
	release, err := distro.Find(image.Distro, image.Release)
	if err != nil {
		return fmt.Errorf("install wardctl: %w", err)
	}
	put := func(name string, b []byte, mode fs.FileMode) error {
		if _, err := writeFile(root, name, b, mode, 0, 0); err != nil {
			return fmt.Errorf("install wardctl: %w", err)
		}
		return nil
	}
	if err := put(WardctlPath, wardctl, 0o755); err != nil {
		return err
	}
	if err := root.MkdirAll(StateDir, 0o700); err != nil {
		return fmt.Errorf("install wardctl: %w", err)
	}
	// The EFI system partition is mounted here while a kernel is updated.
	if err := root.MkdirAll(espMount, 0o700); err != nil {
		return fmt.Errorf("install wardctl: %w", err)
	}
	for name, v := range map[string]any{ProfilePath: profile, ImagePath: image, InitPath: image.Init} {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("install wardctl: /%s: %w", name, err)
		}
		mode := fs.FileMode(0o644)
		if name == InitPath {
			mode = 0o600
		}
		if err := put(name, append(b, '\n'), mode); err != nil {
			return err
		}
	}
	entries, err := units.ReadDir("units")
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := units.ReadFile("units/" + e.Name())
		if err != nil {
			return err
		}
		if err := put(path.Join(unitDir, e.Name()), b, 0o644); err != nil {
			return err
		}
		for _, target := range wantedBy(string(b)) {
			link := path.Join("etc/systemd/system", target+".wants", e.Name())
			if _, err := symlink(root, "/"+path.Join(unitDir, e.Name()), link); err != nil {
				return fmt.Errorf("install wardctl: enable %s: %w", e.Name(), err)
			}
		}
	}
	if len(image.Init.Volumes) > 1 {
		if err := put(path.Join(unitDir, "ward-reencrypt.service.d", "10-volumes.conf"), []byte(reencryptDropIn(image.Init.Volumes)), 0o644); err != nil {
			return err
		}
	}
	for name, text := range kernelHooks[release.Format] {
		if err := put(name, []byte(text), 0o755); err != nil {
			return err
		}
	}
	// Where a socket listens, the service is what is held back: a socket belongs to
	// sockets.target, which comes before every ordinary service, so it cannot wait for one.
	return put(path.Join(unitDir, release.SSHService()+".d", "10-ward.conf"), []byte(sshDropIn), 0o644)
}

// sshDropIn holds the SSH server back until apply has succeeded.
const sshDropIn = `# Nobody logs in over the network before the machine's configuration is applied.
[Unit]
Requires=ward-apply.service
After=ward-apply.service
`

// reencryptDropIn has the service end before any volume is unmounted and detached;
// the unit itself says so of the one that every machine has.
func reencryptDropIn(volumes []handoff.Volume) string {
	var units []string
	for _, v := range volumes {
		units = append(units, control.MountUnit(v.Mount), "systemd-cryptsetup@"+control.EscapeUnit(v.Name)+".service")
	}
	return "# At shutdown it ends before a volume is unmounted and detached.\n[Unit]\nAfter=" + strings.Join(units, " ") + "\n"
}

// wantedBy returns the targets of a unit file's WantedBy= lines.
func wantedBy(unit string) []string {
	var targets []string
	for line := range strings.Lines(unit) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "WantedBy="); ok {
			targets = append(targets, strings.Fields(v)...)
		}
	}
	return targets
}
