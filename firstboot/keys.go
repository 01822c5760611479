package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"ward/firstboot/escrow"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// KeySlot is one key slot of a volume.
type KeySlot struct {
	Slot string `json:"slot"`
	Use  string `json:"use"` // "key file", "recovery key", "not ward's"
	KDF  string `json:"kdf"`
	Bits int    `json:"bits"` // of the volume key
}

// KeyStatus is how a volume can be opened.
type KeyStatus struct {
	Volume   string    `json:"volume"`
	LUKSUUID string    `json:"luks_uuid"`
	Device   string    `json:"device"`
	Source   string    `json:"source"` // where the key file is found now; empty: nowhere
	Slots    []KeySlot `json:"slots"`
	Escrow   string    `json:"escrow"` // when the recovery key was sealed, and to how many
}

// volumeNamed returns one of the machine's volumes with its pin.
func (m *Machine) volumeNamed(name string) (handoff.Volume, handoff.Pin, error) {
	var names []string
	for _, v := range m.volumes() {
		names = append(names, v.Name)
		if v.Name != name {
			continue
		}
		pins, err := m.pins()
		if err != nil {
			return v, handoff.Pin{}, err
		}
		pin, ok := pins.Find(name)
		if !ok {
			return v, pin, errHint(fmt.Errorf("volume %s: this machine has made none yet", name), "see `wardctl status`")
		}
		return v, pin, nil
	}
	return handoff.Volume{}, handoff.Pin{}, errHint(fmt.Errorf("volume %q: there is none", name), "there are: %s", strings.Join(names, ", "))
}

// KeyStatus looks at a volume's key slots and really asks the key sources.
func (m *Machine) KeyStatus(ctx context.Context, name string) (*KeyStatus, error) {
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return nil, err
	}
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return nil, err
	}
	s := &KeyStatus{Volume: name, LUKSUUID: pin.LUKSUUID, Device: dev, Escrow: "none"}
	record, err := m.escrowRecord(name)
	if err != nil {
		return nil, err
	}
	if record != nil && record.Done {
		s.Escrow = fmt.Sprintf("sealed %s to %d recipients", record.Time.Format(time.DateOnly), len(record.Recipients))
	}
	key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err == nil {
		defer key.Wipe()
		s.Source = source
	} else if !errors.Is(err, keysource.ErrNone) {
		return nil, err
	}
	out, err := m.run(ctx, nil, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return nil, err
	}
	var h struct {
		Keyslots map[string]struct {
			KeySize int `json:"key_size"`
			KDF     struct {
				Type string `json:"type"`
			} `json:"kdf"`
		} `json:"keyslots"`
	}
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		return nil, fmt.Errorf("cryptsetup luksDump: %w", err)
	}
	for id, slot := range h.Keyslots {
		k := KeySlot{Slot: id, Use: "not ward's", KDF: slot.KDF.Type, Bits: slot.KeySize * 8}
		switch {
		case record != nil && record.Done && record.Slot == id:
			k.Use = "recovery key"
		case key != nil && slot.KDF.Type == "pbkdf2":
			if ok, err := m.opens(ctx, dev, id, key.Bytes()); err != nil {
				return nil, err
			} else if ok {
				k.Use = "key file"
			}
		case key == nil && slot.KDF.Type == "pbkdf2":
			k.Use = "a key file that is not here"
		}
		s.Slots = append(s.Slots, k)
	}
	slices.SortFunc(s.Slots, func(a, b KeySlot) int { return strings.Compare(a.Slot, b.Slot) })
	return s, nil
}

// opens tells whether a key fits a slot; slot "" is any.
func (m *Machine) opens(ctx context.Context, dev, slot string, key []byte) (bool, error) {
	argv := []string{"cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", "-"}
	if slot != "" {
		argv = append(argv, "--key-slot", slot)
	}
	_, err := m.run(ctx, key, append(argv, dev)...)
	if exitCode(err) == 2 { // no permission: cryptsetup(8), return codes
		return false, nil
	}
	return err == nil, err
}

// AddRecovery replaces the recovery key of a volume by a new one.
func (m *Machine) AddRecovery(ctx context.Context, name string) error {
	recipients := m.facts.Profile.Controls.PHI.Recipients
	if _, err := escrow.Recipients(recipients); err != nil {
		return errHint(fmt.Errorf("the profile has nobody to seal a recovery key to: %w", err), "set controls.phi.recipients in the profile and bake the image again")
	}
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return err
	}
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	old, err := m.escrowRecord(name)
	if err != nil {
		return err
	}
	key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return m.addRecovery(ctx, v, pin, recipients, old, key)
}

// rotation records a change of the key file that has begun.
type rotation struct {
	Volume  string   `json:"volume"`
	OldSlot string   `json:"old_slot"`
	Before  []string `json:"slots_before"`
}

func rotationPath(name string) string { return path.Join(StateDir, "rotation-"+name+".json") }

// Rotate gives a volume a new key file. newKey is a file with the new key on a
// device that will be the key source (made with `ward key new`); the old key
// comes from the present source. At every instant one of the two opens the
// volume: the new slot is added and proved before the old one is removed.
// Run again after an interruption it finishes; run with the new key as the
// present source it only removes what is left of the old.
func (m *Machine) Rotate(ctx context.Context, name, newKey string, out io.Writer) error {
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return err
	}
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return err
	}
	fresh, err := readKeyFile(newKey)
	if err != nil {
		return err
	}
	defer fresh.Wipe()
	freshSlot, err := m.slotOf(ctx, dev, fresh.Bytes())
	if err != nil {
		return err
	}
	var r rotation
	b, err := m.root.ReadFile(rotationPath(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if freshSlot != "" {
			return errHint(fmt.Errorf("%s opens volume %s already", newKey, name), "make a new key with `ward key new`")
		}
		old, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
		if err != nil {
			return errHint(err, "the key that opens the volume now is needed to add another")
		}
		defer old.Wipe()
		r = rotation{Volume: name}
		if r.OldSlot, err = m.slotOf(ctx, dev, old.Bytes()); err != nil {
			return err
		}
		if r.OldSlot == "" {
			return fmt.Errorf("the key of source %s does not open volume %s", source, name)
		}
		if r.Before, err = m.slots(ctx, dev); err != nil {
			return err
		}
		if err := writeJSON(m.root, rotationPath(name), r, 0o600); err != nil {
			return err
		}
		if err := m.addKeyFile(ctx, dev, old, fresh); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := decodeStrict(rotationPath(name), b, &r); err != nil {
			return err
		}
		if freshSlot == "" { // interrupted before the new slot was complete
			old, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
			if err != nil {
				return errHint(err, "a rotation was interrupted; the old key is still needed to finish it")
			}
			defer old.Wipe()
			if err := m.addKeyFile(ctx, dev, old, fresh); err != nil {
				return err
			}
		}
	}
	// Proof: the new key opens a slot, and it is not the old one.
	if freshSlot, err = m.slotOf(ctx, dev, fresh.Bytes()); err != nil {
		return err
	}
	if freshSlot == "" || freshSlot == r.OldSlot {
		return fmt.Errorf("the new key does not open volume %s; the old one still does", name)
	}
	slots, err := m.slots(ctx, dev)
	if err != nil {
		return err
	}
	if slices.Contains(slots, r.OldSlot) {
		if err := m.killSlot(ctx, dev, r.OldSlot, fresh); err != nil {
			return err
		}
	}
	if err := m.root.Remove(rotationPath(name)); err != nil {
		return err
	}
	m.log.Info("key rotated", "volume", name, "old_slot", r.OldSlot, "new_slot", freshSlot)
	fmt.Fprintf(out, "volume %s opens with the new key file (slot %s); the old one is removed\nhint: exchange the key device before the next boot, then destroy the old key file\n", name, freshSlot)
	return nil
}

// slotOf returns the key file slot that a key opens, or "".
func (m *Machine) slotOf(ctx context.Context, dev string, key []byte) (string, error) {
	slots, err := m.slots(ctx, dev)
	if err != nil {
		return "", err
	}
	for _, s := range slots {
		if ok, err := m.opens(ctx, dev, s, key); err != nil || ok {
			return s, err
		}
	}
	return "", nil
}

// addKeyFile adds a slot for a key file, which is random enough not to be stretched.
func (m *Machine) addKeyFile(ctx context.Context, dev string, old, fresh *keysource.Key) error {
	both := slices.Concat(old.Bytes(), fresh.Bytes())
	defer clear(both)
	_, err := m.run(ctx, both, "cryptsetup", "luksAddKey", "--batch-mode", "--key-file", "-", "--keyfile-size", fmt.Sprint(len(old.Bytes())),
		"--new-keyfile-size", fmt.Sprint(len(fresh.Bytes())), "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", dev, "-")
	return err
}

func readKeyFile(name string) (*keysource.Key, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readLimited(f, keysource.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	k, err := keysource.KeyOf(b)
	if err != nil {
		return nil, errHint(fmt.Errorf("%s: %w", name, err), "make a key with `ward key new`")
	}
	return k, nil
}

// Certificate says that a volume was destroyed, for 45 CFR 164.310(d)(2)(i).
type Certificate struct {
	Version  int       `json:"version"`
	Machine  string    `json:"machine_id"`
	Host     string    `json:"host"`
	Volume   string    `json:"volume"`
	LUKSUUID string    `json:"luks_uuid"`
	Serial   string    `json:"disk_serial"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Slots    []string  `json:"slots_destroyed"`
	Proof    []string  `json:"proof"` // what was tried afterwards, and how it ended
	Tool     string    `json:"tool"`
}

// Erase destroys a volume for good: its key slots and both headers, then the
// partition is discarded, and it is proved that the key opens nothing. confirm
// must be the serial number of the volume's disk.
func (m *Machine) Erase(ctx context.Context, name, confirm string) (*Certificate, error) {
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return nil, err
	}
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return nil, err
	}
	part, err := resolve(dev)
	if err != nil {
		return nil, err
	}
	serial, err := m.serial(ctx, part)
	if err != nil {
		return nil, err
	}
	if serial != confirm {
		return nil, errHint(fmt.Errorf("--confirm is not the serial number of the disk with volume %s; nothing was changed", name),
			"`lsblk -o NAME,SERIAL` shows it; write it as it is")
	}
	c := &Certificate{Version: 1, Machine: m.appID(), Host: m.line("etc/hostname"), Volume: name, LUKSUUID: pin.LUKSUUID, Serial: serial,
		Started: m.now().UTC(), Tool: m.facts.Image.Tool}
	if c.Slots, err = m.slots(ctx, dev); err != nil {
		return nil, err
	}
	key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil && !errors.Is(err, keysource.ErrNone) {
		return nil, err
	}
	defer key.Wipe()
	m.log.Warn("erasing a volume", "volume", name, "luks_uuid", pin.LUKSUUID, "serial", serial)
	if on, err := m.mounted(ctx, v.Mount); err != nil {
		return nil, err
	} else if on {
		if _, err := m.run(ctx, nil, "systemctl", "stop", unitName(v.Mount, "mount")); err != nil {
			return nil, errHint(err, "stop what uses %s, see `fuser -vm %s`; nothing was destroyed yet", v.Mount, v.Mount)
		}
	}
	if m.mapped(name) {
		if _, err := m.run(ctx, nil, "systemctl", "stop", "systemd-cryptsetup@"+escapeUnit(name)+".service"); err != nil {
			return nil, err
		}
	}
	if m.mapped(name) {
		if _, err := m.run(ctx, nil, "cryptsetup", "close", name); err != nil {
			return nil, err
		}
	}
	// All key slots, without asking for any key: cryptsetup-erase(8).
	if _, err := m.run(ctx, nil, "cryptsetup", "erase", "--batch-mode", part); err != nil {
		return nil, err
	}
	if key != nil {
		ok, err := m.opens(ctx, part, "", key.Bytes())
		if ok {
			return nil, errors.New("the key file still opens the volume after its slots were erased")
		}
		// Without any slot cryptsetup answers with an error other than "no permission".
		c.Proof = append(c.Proof, fmt.Sprintf("the key file, tried after the slots were erased, is refused (%v)", errOr(err, "no slot fits")))
	}
	left, err := m.slots(ctx, part)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("key slots %v are left", left)
	}
	c.Proof = append(c.Proof, "the header lists no key slot, so no recovery key opens it either")
	// 16 MiB header and slots of LUKS2, and a discard of all the rest where the disk can.
	if _, err := m.run(ctx, nil, "dd", "if=/dev/urandom", "of="+part, "bs=1M", "count=32", "conv=fsync", "status=none"); err != nil {
		return nil, err
	}
	if _, err := m.run(ctx, nil, "blkdiscard", "--force", part); err != nil {
		c.Proof = append(c.Proof, "the disk does not discard; the header was overwritten with random bytes")
	} else {
		c.Proof = append(c.Proof, "the partition was overwritten at its beginning and discarded")
	}
	tags, err := m.probe(ctx, part)
	if err != nil {
		return nil, err
	}
	if tags["TYPE"] != "" {
		return nil, fmt.Errorf("%s is still recognised as %s", part, tags["TYPE"])
	}
	c.Proof = append(c.Proof, "blkid recognises nothing on the partition")
	if err := m.forgetVolume(name); err != nil {
		return nil, err
	}
	c.Ended = m.now().UTC()
	if err := writeJSON(m.root, path.Join(StateDir, "erased-"+pin.LUKSUUID+".json"), c, 0o600); err != nil {
		return nil, err
	}
	m.log.Warn("a volume is erased", "volume", name, "luks_uuid", pin.LUKSUUID, "serial", serial, "proof", strings.Join(c.Proof, "; "))
	return c, nil
}

func errOr(err error, otherwise string) string {
	if err != nil {
		return firstLine(err.Error())
	}
	return otherwise
}

// forgetVolume takes a destroyed volume out of the pins.
func (m *Machine) forgetVolume(name string) error {
	pins, err := m.pins()
	if err != nil {
		return err
	}
	pins.Volumes = slices.DeleteFunc(pins.Volumes, func(p handoff.Pin) bool { return p.Name == name })
	return writeJSON(m.root, clean(handoff.PinsPath), pins, 0o600)
}

// serial is the serial number of the disk that a partition is on. A virtual
// disk may have none; then the partition's UUID stands for it.
func (m *Machine) serial(ctx context.Context, part string) (string, error) {
	out, err := m.run(ctx, nil, "lsblk", "--noheadings", "--inverse", "--nodeps", "--output", "SERIAL", part)
	if err == nil && strings.TrimSpace(out) == "" {
		if out, err = m.run(ctx, nil, "lsblk", "--noheadings", "--nodeps", "--output", "PKNAME", part); err == nil {
			out, err = m.run(ctx, nil, "lsblk", "--noheadings", "--nodeps", "--output", "SERIAL", "/dev/"+strings.TrimSpace(out))
		}
	}
	if err != nil {
		return "", err
	}
	if s := strings.TrimSpace(out); s != "" {
		return s, nil
	}
	tags, err := m.probe(ctx, part)
	if err == nil && tags["PART_ENTRY_UUID"] == "" {
		err = fmt.Errorf("%s has neither a serial number nor a partition UUID", part)
	}
	return tags["PART_ENTRY_UUID"], err
}
