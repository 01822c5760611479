package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/initramfs/handoff"
	"ward/profiles"
)

// phiVolume is one PHI volume, for the controls that are about each of them.
type phiVolume profiles.Volume

// phiVolumes are the PHI volumes of a profile.
func phiVolumes(p *profiles.Profile) []phiVolume {
	var all []phiVolume
	for _, v := range p.Controls.PHI.All() {
		all = append(all, phiVolume(v))
	}
	return all
}

// mountUnits are the units of their mounts, as a dependency lists them.
func mountUnits(volumes []phiVolume) string {
	var units []string
	for _, v := range volumes {
		units = append(units, v.mountUnit())
	}
	return strings.Join(units, " ")
}

// phiData is the volume that every machine has.
var phiData = phiVolume{profiles.DataName, profiles.DataMount}

// device is the mapping of the volume.
func (v phiVolume) device() string { return "/dev/mapper/" + v.Name }

// cryptUnit is the unit that systemd's generator makes of its line in crypttab.
func (v phiVolume) cryptUnit() string { return "systemd-cryptsetup@" + EscapeUnit(v.Name) + ".service" }

// mountUnit is the one of its line in fstab.
func (v phiVolume) mountUnit() string { return MountUnit(v.Mount) }

// setting is the name of a setting about the volume: that of a further volume
// says which.
func (v phiVolume) setting(name string) string {
	if v.Name == profiles.DataName {
		return name
	}
	return v.Name + ": " + name
}

// absent is what every check of the volume gets when it is not mapped.
func (v phiVolume) absent() string { return "absent: " + v.device() + " is not mapped" }

// notMounted is what the checks get that need its mount.
func (v phiVolume) notMounted() string { return v.Mount + " is not mounted" }

// mounted tells whether something is mounted there.
func (v phiVolume) mounted(ctx context.Context, run runner) (bool, error) {
	_, err := run(ctx, "findmnt", "--mountpoint", v.Mount)
	if exitCode(err) == 1 { // nothing found: findmnt(8)
		return false, nil
	}
	return err == nil, err
}

// PHI is the encrypted volumes for patients' data.
func PHI(p *profiles.Profile, r distro.Release) Control {
	c := Control{
		ID:    "phi",
		Title: "patients' data lie on a volume that is encrypted with a key from elsewhere",
		Why:   "Whoever gets the disk without the key gets nothing to read; without encryption a lost disk is a breach of unsecured PHI that must be notified.",
		Refs: []string{"45 CFR 164.312(a)(2)(iv)", "45 CFR 164.310(d)(1)", "45 CFR 164.402 (unsecured PHI)",
			"NIST 800-53 SC-28(1)", "NIST 800-53 AC-3"},
	}
	for _, v := range phiVolumes(p) {
		c.Settings = append(c.Settings, v.settings(p)...)
	}
	return c
}

// settings are what must hold of one volume.
func (v phiVolume) settings(p *profiles.Profile) []Setting {
	owner := p.Controls.Accounts.Service + ":" + p.Controls.Accounts.Group
	mode := p.Controls.PHI.Mode
	all := []Setting{
		setting{name: v.setting("mapping"), want: "CRYPT-LUKS2, aes-xts-plain64, 512 bit key", check: v.checkMapping},
		setting{name: v.setting("header"), want: "LUKS2; every slot and segment aes-xts-plain64 with 512 bits", check: v.checkHeader},
		setting{name: v.setting("below it"), want: "crypto_LUKS on the disk, ext4 in the mapping", check: v.checkSignatures},
		setting{name: v.setting("mount"), apply: v.applyMountPoint,
			want: "ext4 from " + v.device() + " with nodev, noexec, nosuid", check: v.checkMount},
		setting{name: v.setting("owner and mode"), apply: func(ctx context.Context, t *Target) error { return v.applyOwner(ctx, t, owner, mode) },
			want: owner + " " + strings.TrimLeft(mode, "0"), check: v.checkOwner},
		setting{name: v.setting("strangers"), want: "nobody is refused", check: v.checkStranger},
		setting{name: v.setting("key not on the machine"), want: "crypttab names no key; no file on the machine opens the volume", check: v.checkKey},
		setting{name: v.setting("crypttab and fstab"), want: "systemd and findmnt understand both; both units are active", check: v.checkTables},
		setting{name: v.setting("pin"), want: "the volume is the one that this machine made", check: v.checkPin},
	}
	if len(p.Controls.PHI.Recipients) > 0 {
		all = append(all, setting{name: v.setting("recovery key"), want: "one argon2id slot, its key sealed with age", check: v.checkRecovery})
	}
	return all
}

func (v phiVolume) applyMountPoint(_ context.Context, t *Target) error {
	if t.Phase != Bake {
		return nil
	}
	return t.Root.MkdirAll(v.Mount[1:], 0o755)
}

// applyOwner gives the mounted volume its owner. The bare mount point is left as
// it is: nobody shall write there.
func (v phiVolume) applyOwner(ctx context.Context, t *Target, owner, mode string) error {
	if t.Phase != FirstBoot {
		return nil
	}
	if on, err := v.mounted(ctx, t.Run); err != nil || !on {
		return err
	}
	if _, err := t.Run(ctx, "chown", owner, v.Mount); err != nil {
		return err
	}
	_, err := t.Run(ctx, "chmod", mode, v.Mount)
	return err
}

// mapped tells whether device-mapper has the volume. dmsetup(8) exits 1 when it
// does not know a device.
func (v phiVolume) mapped(ctx context.Context, m *Machine) (bool, error) {
	_, err := m.Run(ctx, "dmsetup", "info", "-c", "--noheadings", "-o", "name", v.Name)
	if exitCode(err) == 1 {
		return false, nil
	}
	return err == nil, err
}

// whenMapped makes a check that means nothing without the volume.
func (v phiVolume) whenMapped(ctx context.Context, m *Machine, check func() (string, error)) (string, error) {
	if ok, err := v.mapped(ctx, m); err != nil {
		return "", err
	} else if !ok {
		return v.absent(), nil
	}
	return check()
}

func (v phiVolume) checkMapping(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		uuid, err := m.Run(ctx, "dmsetup", "info", "-c", "--noheadings", "-o", "uuid", v.Name)
		if err != nil {
			return "", err
		}
		table, err := m.Run(ctx, "dmsetup", "table", v.Name)
		if err != nil {
			return "", err
		}
		kind, _, _ := strings.Cut(strings.TrimSpace(uuid), "-")
		if rest, ok := strings.CutPrefix(strings.TrimSpace(uuid), "CRYPT-LUKS2-"); ok && strings.HasSuffix(rest, "-"+v.Name) {
			kind = "CRYPT-LUKS2"
		}
		cipher, bits, err := v.cryptTable(table)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s, %s, %d bit key", kind, cipher, bits), nil
	})
}

// cryptTable reads a line of dmsetup table for the crypt target:
// "0 N crypt CIPHER KEY IV_OFFSET DEVICE OFFSET ...", where KEY is hidden as
// zeros, two digits a byte, or ":BYTES:TYPE:NAME" in the kernel's keyring.
// https://docs.kernel.org/admin-guide/device-mapper/dm-crypt.html
func (v phiVolume) cryptTable(table string) (cipher string, bits int, err error) {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	f := strings.Fields(lines[0])
	if len(lines) != 1 || len(f) < 4 {
		return "", 0, fmt.Errorf("dmsetup table %s printed %q", v.Name, lines[0])
	}
	if f[2] != "crypt" {
		return f[2], 0, nil
	}
	if len(f) < 8 {
		return "", 0, fmt.Errorf("dmsetup table %s printed %d fields", v.Name, len(f))
	}
	if rest, ok := strings.CutPrefix(f[4], ":"); ok {
		n, _, _ := strings.Cut(rest, ":")
		bytes, err := strconv.Atoi(n)
		if err != nil {
			return "", 0, errors.New("dmsetup table: a keyring key without its length")
		}
		return f[3], bytes * 8, nil
	}
	return f[3], len(f[4]) * 4, nil
}

// partition is the block device below the mapping.
func (v phiVolume) partition(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "dmsetup", "deps", "-o", "devname", v.Name)
	if err != nil {
		return "", err
	}
	// "1 dependencies  : (vda3)"
	_, rest, ok := strings.Cut(out, "(")
	name, _, ok2 := strings.Cut(rest, ")")
	if !ok || !ok2 || name == "" {
		return "", fmt.Errorf("dmsetup deps %s printed %q", v.Name, out)
	}
	return "/dev/" + name, nil
}

// luksHeader is the part of LUKS2's metadata that says how strong it is.
// https://gitlab.com/cryptsetup/LUKS2-docs
type luksHeader struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		Area    struct {
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
		} `json:"area"`
		KDF struct {
			Type string `json:"type"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Segments map[string]struct {
		Type       string `json:"type"`
		Encryption string `json:"encryption"`
	} `json:"segments"`
}

func (v phiVolume) luksHeader(ctx context.Context, m *Machine) (*luksHeader, error) {
	dev, err := v.partition(ctx, m)
	if err != nil {
		return nil, err
	}
	out, err := m.Run(ctx, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return nil, err
	}
	var h luksHeader
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		return nil, fmt.Errorf("cryptsetup luksDump: %w", err)
	}
	return &h, nil
}

func (v phiVolume) checkHeader(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		h, err := v.luksHeader(ctx, m)
		if err != nil {
			return "", err
		}
		const cipher, size = "aes-xts-plain64", 64
		var wrong []string
		if len(h.Keyslots) == 0 || len(h.Segments) == 0 {
			wrong = append(wrong, "no key slots or no segments")
		}
		for id, s := range h.Keyslots {
			if s.Type != "luks2" || s.KeySize != size || s.Area.Encryption != cipher || s.Area.KeySize != size {
				wrong = append(wrong, fmt.Sprintf("slot %s: %s, %d bits, kept in %s with %d bits", id, s.Type, s.KeySize*8, s.Area.Encryption, s.Area.KeySize*8))
			}
		}
		for id, s := range h.Segments {
			if s.Type != "crypt" || s.Encryption != cipher {
				wrong = append(wrong, fmt.Sprintf("segment %s: %s %s", id, s.Type, s.Encryption))
			}
		}
		slices.Sort(wrong)
		return report(wrong, "LUKS2; every slot and segment aes-xts-plain64 with 512 bits"), nil
	})
}

// checkSignatures reads the disk itself: what lies on it must not be a file
// system that anybody can read.
func (v phiVolume) checkSignatures(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		dev, err := v.partition(ctx, m)
		if err != nil {
			return "", err
		}
		below, err := m.Run(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", dev)
		if err != nil && exitCode(err) != 2 {
			return "", err
		}
		inside, err := m.Run(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", v.device())
		if err != nil && exitCode(err) != 2 {
			return "", err
		}
		name := func(s string) string {
			if s = strings.TrimSpace(s); s == "" {
				return "nothing"
			}
			return s
		}
		return fmt.Sprintf("%s on the disk, %s in the mapping", name(below), name(inside)), nil
	})
}

func (v phiVolume) checkMount(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "--mountpoint", v.Mount)
	if exitCode(err) == 1 {
		return v.notMounted(), nil
	} else if err != nil {
		return "", err
	}
	f := strings.Fields(out)
	if len(f) != 3 {
		return "", fmt.Errorf("findmnt printed %q", out)
	}
	var have []string
	for _, o := range strings.Split(f[2], ",") {
		if slices.Contains([]string{"nodev", "noexec", "nosuid"}, o) {
			have = append(have, o)
		}
	}
	slices.Sort(have)
	return fmt.Sprintf("%s from %s with %s", f[1], f[0], strings.Join(have, ", ")), nil
}

func (v phiVolume) checkOwner(ctx context.Context, m *Machine) (string, error) {
	if on, err := v.mounted(ctx, m.Run); err != nil {
		return "", err
	} else if !on {
		return v.notMounted(), nil
	}
	out, err := m.Run(ctx, "stat", "--format", "%U:%G %a", v.Mount)
	return strings.TrimSpace(out), err
}

// checkStranger really tries to list the folder as an account without rights.
func (v phiVolume) checkStranger(ctx context.Context, m *Machine) (string, error) {
	if on, err := v.mounted(ctx, m.Run); err != nil {
		return "", err
	} else if !on {
		return v.notMounted(), nil
	}
	// runuser must work at all before a refusal means something.
	if _, err := m.Run(ctx, "runuser", "-u", "nobody", "--", "ls", "/var"); err != nil {
		return "", fmt.Errorf("cannot try as nobody: %w", err)
	}
	_, err := m.Run(ctx, "runuser", "-u", "nobody", "--", "ls", v.Mount)
	switch exitCode(err) {
	case 0:
		return "nobody can list " + v.Mount, nil
	case 1, 2: // ls: cannot access, cannot open
		return "nobody is refused", nil
	}
	return "", err
}

// keyPlaces is where a key file would be left by habit. The machine's own disk
// only: -xdev stays off the PHI volume and off a key device.
var keyPlaces = []string{"/etc", "/root", "/home", "/boot", "/usr/lib/ward", "/usr/local", "/opt", "/srv", "/var/lib", "/var/backups", "/var/tmp"}

// maxCandidates bounds how many files are tried; a machine with more of them is
// reported as such, not passed.
const maxCandidates = 100

// checkKey looks for the key by its effect: files of the size of a key file
// are tried on the volume.
func (v phiVolume) checkKey(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		var wrong []string
		// What systemd made of crypttab: attach NAME DEVICE KEYFILE OPTIONS.
		out, err := m.Run(ctx, "systemctl", "show", "--property=ExecStart", v.cryptUnit())
		if err != nil {
			return "", err
		}
		if _, argv, ok := strings.Cut(out, "argv[]="); ok {
			argv, _, _ = strings.Cut(argv, " ;")
			if f := strings.Fields(argv); len(f) > 4 && f[4] != "none" && f[4] != "-" && f[4] != "''" {
				wrong = append(wrong, "crypttab names the key file "+f[4])
			}
		}
		argv := slices.Concat([]string{"find"}, keyPlaces, []string{"-xdev", "-type", "f", "-readable",
			"(", "-size", "64c", "-o", "(", "-size", "+31c", "-size", "-8193c", "-name", "*.key", ")", ")", "-print0"})
		out, err = m.Run(ctx, argv...)
		if err != nil && exitCode(err) != 1 { // 1: one of the places does not exist
			return "", err
		}
		files := strings.FieldsFunc(out, func(r rune) bool { return r == 0 })
		if len(files) > maxCandidates {
			return "", fmt.Errorf("%d files have the size of a key, more than the %d that are tried", len(files), maxCandidates)
		}
		h, err := v.luksHeader(ctx, m)
		if err != nil {
			return "", err
		}
		dev, err := v.partition(ctx, m)
		if err != nil {
			return "", err
		}
		for _, file := range files {
			for slot, s := range h.Keyslots {
				if s.KDF.Type != "pbkdf2" { // slots of key files; a recovery slot takes seconds for each trial
					continue
				}
				_, err := m.Run(ctx, "cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-slot", slot, "--key-file", file, dev)
				switch exitCode(err) {
				case 0:
					wrong = append(wrong, file+" opens the volume")
				case 2: // cryptsetup(8): no permission, bad passphrase
				default:
					return "", err
				}
			}
		}
		slices.Sort(wrong)
		return report(wrong, "crypttab names no key; no file on the machine opens the volume"), nil
	})
}

func (v phiVolume) checkTables(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		var wrong []string
		for _, unit := range []string{v.cryptUnit(), v.mountUnit()} {
			out, err := m.Run(ctx, "systemctl", "show", "--property=LoadState,ActiveState,SourcePath", unit)
			if err != nil {
				return "", err
			}
			p := properties(out)
			if p["LoadState"] == "" {
				return "", fmt.Errorf("systemctl show %s printed no state", unit)
			}
			if p["LoadState"] != "loaded" || p["ActiveState"] != "active" || p["SourcePath"] == "" {
				wrong = append(wrong, fmt.Sprintf("%s is %s, %s", unit, p["LoadState"], p["ActiveState"]))
			}
		}
		// findmnt(8): exit 1 when --verify finds an error, 0 with warnings.
		if out, err := m.Run(ctx, "findmnt", "--verify", "--tab-file", "/etc/fstab"); exitCode(err) == 1 {
			wrong = append(wrong, "findmnt --verify: "+strings.Join(strings.Fields(out), " "))
		} else if err != nil {
			return "", err
		}
		return report(wrong, "systemd and findmnt understand both; both units are active"), nil
	})
}

// checkPin compares the volume with the one that was pinned. That its volume
// key is the pinned one is proved by init, which has the key, at every boot.
func (v phiVolume) checkPin(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		dev, err := v.partition(ctx, m)
		if err != nil {
			return "", err
		}
		uuid, err := m.Run(ctx, "cryptsetup", "luksUUID", dev)
		if err != nil {
			return "", err
		}
		b, err := m.Run(ctx, "cat", handoff.PinsPath)
		if exitCode(err) == 1 {
			return "this machine has pinned no volume", nil
		} else if err != nil {
			return "", err
		}
		pins, err := handoff.DecodePins([]byte(b))
		if err != nil {
			return err.Error(), nil
		}
		pin, ok := pins.Find(v.Name)
		if !ok {
			return "this machine has not pinned " + v.Name, nil
		}
		if !strings.EqualFold(pin.LUKSUUID, strings.TrimSpace(uuid)) {
			return fmt.Sprintf("volume %s, pinned is %s", strings.TrimSpace(uuid), pin.LUKSUUID), nil
		}
		return "the volume is the one that this machine made", nil
	})
}

// checkRecovery counts the slots of recovery keys in the header itself, and
// looks whether what was kept of the key is an age file: age-encryption.org/v1.
// That it opens the volume only the recipients can show.
func (v phiVolume) checkRecovery(ctx context.Context, m *Machine) (string, error) {
	return v.whenMapped(ctx, m, func() (string, error) {
		h, err := v.luksHeader(ctx, m)
		if err != nil {
			return "", err
		}
		n := 0
		for _, s := range h.Keyslots {
			if s.KDF.Type == "argon2id" {
				n++
			}
		}
		if n != 1 {
			return fmt.Sprintf("%d argon2id slots", n), nil
		}
		out, err := m.Run(ctx, "head", "-n", "1", "/var/lib/ward/escrow/"+v.Name+".age")
		if exitCode(err) == 1 {
			return "an argon2id slot, but no sealed key", nil
		} else if err != nil {
			return "", err
		}
		if strings.TrimSpace(out) != "-----BEGIN AGE ENCRYPTED FILE-----" {
			return "an argon2id slot, but its key is not kept as an age file", nil
		}
		return "one argon2id slot, its key sealed with age", nil
	})
}
