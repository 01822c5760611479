package firstboot

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/anatol/luks.go"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// intent is written before a partition is formatted and removed when its volume
// is complete and pinned. While it is there, no byte of PHI can have been
// written: the volume is mounted only afterwards.
type intent struct {
	Name     string    `json:"name"`
	PartUUID string    `json:"partuuid"`
	LUKSUUID string    `json:"luks_uuid"` // that the new header will have
	Started  time.Time `json:"started"`
}

func intentPath(name string) string { return path.Join(StateDir, "formatting-"+name+".json") }

func (m *Machine) intent(name string) (*intent, error) {
	b, err := m.root.ReadFile(intentPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var i intent
	return &i, decodeStrict(intentPath(name), b, &i)
}

// volumePath is where it is said what became of each volume on this boot.
const volumePath = "run/ward/volumes.json"

// VolumeState is what became of one PHI volume on this boot.
type VolumeState struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not
	Hint   string `json:"hint,omitempty"`
}

// absent is the error of a volume that is not there and must not be made.
type absent struct{ reason, hint string }

func (a *absent) Error() string { return a.reason }

// prepareVolumes makes blank volumes, and says what became of each. A volume
// that cannot be had is no failure of apply unless the profile says halt.
func (m *Machine) prepareVolumes(ctx context.Context) error {
	report, err := m.report()
	if err != nil {
		return err
	}
	var states []VolumeState
	for _, v := range m.volumes() {
		st := VolumeState{Name: v.Name}
		err := m.prepareVolume(ctx, v, find(report, v.Name))
		var a *absent
		switch {
		case err == nil:
			st.Ready = true
		case errors.As(err, &a):
			st.Reason, st.Hint = a.reason, a.hint
			m.log.Error("volume is absent", "volume", v.Name, "reason", a.reason, "hint", a.hint)
			fmt.Fprintf(m.console, "ward: %s is absent: %s\nhint: %s\n", v.Name, a.reason, a.hint)
			if m.facts.Profile.Controls.PHI.OnFailure == handoff.Halt {
				return errHint(fmt.Errorf("volume %s: %s", v.Name, a.reason), "%s", a.hint)
			}
		default:
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		states = append(states, st)
	}
	if err := m.root.MkdirAll(path.Dir(volumePath), 0o755); err != nil {
		return err
	}
	return writeJSON(m.root, volumePath, states, 0o644)
}

func find(r *handoff.Report, name string) handoff.VolumeReport {
	if r == nil {
		return handoff.VolumeReport{Name: name, State: handoff.StateAbsent, Reason: "this machine was not started by ward's init"}
	}
	for _, v := range r.Volumes {
		if v.Name == name {
			return v
		}
	}
	return handoff.VolumeReport{Name: name, State: handoff.StateAbsent, Reason: "init was not told of it"}
}

func (m *Machine) prepareVolume(ctx context.Context, v handoff.Volume, r handoff.VolumeReport) error {
	pins, err := m.pins()
	if err != nil {
		return err
	}
	in, err := m.intent(v.Name)
	if err != nil {
		return err
	}
	_, pinned := pins.Find(v.Name)
	if pinned && in != nil { // complete: the power went between the pin and the end of the intent
		if err := m.root.Remove(intentPath(v.Name)); err != nil {
			return err
		}
		in = nil
	}
	opened := r.State == handoff.StateOpened || m.mapped(v.Name)
	switch {
	case in != nil:
		if r.PartUUID != "" && !strings.EqualFold(in.PartUUID, r.PartUUID) {
			return &absent{fmt.Sprintf("formatting of partition %s was interrupted, but the partition is now %s", in.PartUUID, r.PartUUID),
				"attach the disk that this machine was started with first"}
		}
		if r.State == handoff.StateAbsent {
			return &absent{"formatting was interrupted and the partition is gone: " + r.Reason, "attach the disk again"}
		}
		return m.format(ctx, v, r, in)
	case opened && pinned:
		return nil
	case opened:
		return m.adopt(ctx, v, r)
	case r.State == handoff.StateBlank && pinned:
		return &absent{"the partition is blank, but this machine had a volume on it",
			"attach the right disk; after a planned replacement remove the volume's entry from " + handoff.PinsPath +
				", run `systemctl restart ward-apply`, and restore the backup"}
	case r.State == handoff.StateBlank:
		return m.format(ctx, v, r, nil)
	case r.State == handoff.StateRefused && pinned:
		if again, err := m.reencryption(v.Name); err != nil {
			return err
		} else if again != nil {
			return m.reopen(ctx, v, r.PartUUID, again)
		}
	}
	return &absent{fmt.Sprintf("%s: %s", r.State, r.Reason), hintFor(r.State)}
}

func hintFor(s handoff.State) string {
	switch s {
	case handoff.StateAbsent:
		return "the machine needs the disk with a partition of type " + handoff.PHIType
	case handoff.StateLocked:
		return "attach the key device (label " + handoff.KeyLabel + ") or make its other key source reachable, then restart the machine"
	}
	return "the volume is not the one that this machine knows, or its encryption is not acceptable; nothing was changed on it"
}

func (m *Machine) mapped(name string) bool {
	_, err := m.root.Lstat("dev/mapper/" + name)
	return err == nil
}

// resolve follows the links of /dev to the device itself.
func resolve(dev string) (string, error) { return filepath.EvalSymlinks(dev) }

// device returns the block device of a partition as a path for programs.
func (m *Machine) device(partuuid string) (string, error) {
	link := path.Join(m.root.Name(), "dev/disk/by-partuuid", strings.ToLower(partuuid))
	dev, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", fmt.Errorf("partition %s: %w", partuuid, err)
	}
	return dev, nil
}

// format makes a LUKS2 volume with ext4 on a partition that is proved blank, or
// on which this machine itself was interrupted while it did so.
func (m *Machine) format(ctx context.Context, v handoff.Volume, r handoff.VolumeReport, in *intent) error {
	dev, err := m.device(r.PartUUID)
	if err != nil {
		return err
	}
	key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if errors.Is(err, keysource.ErrNone) {
		return &absent{"the partition is blank and there is no key: " + err.Error(), "attach the key device (label " + handoff.KeyLabel +
			", made by `ward key new`) and restart the machine; nothing was formatted"}
	} else if err != nil {
		return &absent{"the partition is blank and the key cannot be had: " + err.Error(), "nothing was formatted; restart the machine when the key source works"}
	}
	defer key.Wipe()
	if in != nil {
		if err := m.closeLeftover(ctx, v, dev, in); err != nil {
			return err
		}
	} else {
		if err := m.proveBlank(ctx, dev, v, r); err != nil {
			return err
		}
		in = &intent{Name: v.Name, PartUUID: r.PartUUID, LUKSUUID: newUUID(), Started: m.now().UTC()}
		if err := writeJSON(m.root, intentPath(v.Name), in, 0o600); err != nil {
			return err
		}
	}
	m.log.Info("formatting", "volume", v.Name, "device", dev, "luks_uuid", in.LUKSUUID, "key_source", source)
	// The key file is 512 random bits, so stretching it protects nothing and
	// would cost seconds at every boot: cryptsetup-luksFormat(8), --pbkdf.
	if _, err := m.run(ctx, key.Bytes(), "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--uuid", in.LUKSUUID, "--label", v.Name, "--key-file", "-", dev); err != nil {
		return err
	}
	pin, err := pinOf(dev, v.Name, key)
	if err != nil {
		return err
	}
	if err := m.openVolume(ctx, v, dev, key); err != nil {
		return err
	}
	// encrypt: fscrypt(8) needs the feature, and mke2fs does not set it by itself.
	if _, err := m.run(ctx, nil, "mkfs.ext4", "-q", "-F", "-O", "encrypt,metadata_csum,64bit", "-m", "1", "-L", v.Name, "/dev/mapper/"+v.Name); err != nil {
		return err
	}
	if _, err := m.run(ctx, nil, "blockdev", "--flushbufs", dev); err != nil {
		return err
	}
	return m.finish(v, pin)
}

// finish pins a complete volume; from here on it is never formatted again.
func (m *Machine) finish(v handoff.Volume, pin handoff.Pin) error {
	pins, err := m.pins()
	if err != nil {
		return err
	}
	pins.Volumes = append(pins.Volumes, pin)
	if err := writeJSON(m.root, clean(handoff.PinsPath), pins, 0o600); err != nil {
		return err
	}
	err = m.root.Remove(intentPath(v.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(m.root, StateDir))
}

// adopt pins a volume that init could open with this machine's key and that the
// machine has not known before: its root disk is new, its data disk is not.
func (m *Machine) adopt(ctx context.Context, v handoff.Volume, r handoff.VolumeReport) error {
	key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil {
		return &absent{"the volume is open but not known to this machine, and the key to pin it cannot be had: " + err.Error(), hintFor(handoff.StateLocked)}
	}
	defer key.Wipe()
	dev, err := m.device(r.PartUUID)
	if err != nil {
		return err
	}
	pin, err := pinOf(dev, v.Name, key)
	if err != nil {
		return err
	}
	kind, err := m.run(ctx, nil, "blkid", "-p", "-o", "value", "-s", "TYPE", "/dev/mapper/"+v.Name)
	if err != nil || strings.TrimSpace(kind) != "ext4" {
		return &absent{"the volume holds no ext4 file system that is ready", "nothing was changed on it; look at it with `blkid -p /dev/mapper/" + v.Name + "`"}
	}
	m.log.Warn("a volume that this machine did not make is pinned", "volume", v.Name, "luks_uuid", pin.LUKSUUID, "key_source", source)
	return m.finish(v, pin)
}

// openVolume maps a volume through cryptsetup, so that udev knows it as a normal one.
func (m *Machine) openVolume(ctx context.Context, v handoff.Volume, dev string, key *keysource.Key) error {
	_, err := m.run(ctx, key.Bytes(), "cryptsetup", "open", "--type", "luks2", "--key-file", "-", dev, v.Name)
	return err
}

// closeLeftover makes sure that what an interrupted formatting left on a
// partition is nothing but that, and unmaps it.
func (m *Machine) closeLeftover(ctx context.Context, v handoff.Volume, dev string, in *intent) error {
	tags, err := m.probe(ctx, dev)
	if err != nil {
		return err
	}
	if !strings.EqualFold(tags["PART_ENTRY_UUID"], in.PartUUID) {
		return &absent{fmt.Sprintf("%s is partition %s, not %s", dev, tags["PART_ENTRY_UUID"], in.PartUUID), "attach the disk that this machine was started with first"}
	}
	switch t := tags["TYPE"]; {
	case t == "":
	case t == "crypto_LUKS" && strings.EqualFold(tags["UUID"], in.LUKSUUID):
	default:
		return &absent{fmt.Sprintf("formatting was interrupted, but %s now holds %s %s, which this machine did not write", dev, t, tags["UUID"]),
			"nothing was changed on it; attach the right disk, or wipe it by hand"}
	}
	if !m.mapped(v.Name) {
		return nil
	}
	// It fails when the volume is mounted, and then it must not be touched.
	_, err = m.run(ctx, nil, "cryptsetup", "close", v.Name)
	return err
}

// pinOf computes what init compares before it maps the volume.
func pinOf(dev, name string, key *keysource.Key) (handoff.Pin, error) {
	d, err := luks.Open(dev)
	if err != nil {
		return handoff.Pin{}, fmt.Errorf("pin %s: %w", dev, err)
	}
	defer d.Close()
	for _, slot := range d.Slots() {
		vol, err := d.UnsealVolume(slot, key.Bytes())
		if errors.Is(err, luks.ErrPassphraseDoesNotMatch) {
			continue
		} else if err != nil {
			return handoff.Pin{}, fmt.Errorf("pin %s: slot %d: %w", dev, slot, err)
		}
		sum, err := vol.HMAC(crypto.SHA256, []byte(handoff.PinMessage))
		if err != nil {
			return handoff.Pin{}, fmt.Errorf("pin %s: %w", dev, err)
		}
		return handoff.Pin{Name: name, LUKSUUID: d.UUID(), Digest: hex.EncodeToString(sum)}, nil
	}
	return handoff.Pin{}, fmt.Errorf("pin %s: no slot fits the key", dev)
}

// newUUID returns a random UUID, RFC 9562 version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
