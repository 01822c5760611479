package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/firstboot/escrow"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/tpmkey"
	"ward/initramfs/handoff"
	"ward/profiles"
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
	// Sealed says which key slot the TPM opens, and bound to what; empty: none.
	Sealed string `json:"sealed,omitempty"`
	// Reencrypting is how far a change of the volume key is, in percent; nil: there is none.
	Reencrypting *int `json:"reencrypting,omitempty"`
}

// volumeFlag is what a command in a hint needs to be about a volume; without it the
// commands of wardctl key are about the one that every machine has.
func volumeFlag(name string) string {
	if name == profiles.DataName {
		return ""
	}
	return " --volume " + name
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
	h, err := m.header(ctx, dev)
	if err != nil {
		return nil, err
	}
	for _, t := range h.Tokens {
		if t.Type == tpmkey.TokenType && len(t.Keyslots) > 0 {
			s.Sealed = fmt.Sprintf("slot %s, while the PCRs %v stay as they were", strings.Join(t.Keyslots, " "), t.PCRs)
		}
	}
	if h.busy() {
		share := h.progress(m.size(ctx, dev))
		s.Reencrypting = &share
	}
	for id, slot := range h.Keyslots {
		k := KeySlot{Slot: id, Use: "not ward's", KDF: slot.KDF.Type, Bits: slot.KeySize * 8}
		switch {
		case slot.Type == "reencrypt":
			k.Use = "plan of the reencryption"
		case h.busy() && slot.KDF.Type == "pbkdf2":
			k.Use = "key file, of one of the two volume keys"
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

// size is how many bytes a block device has, 0 if that cannot be told.
func (m *Machine) size(ctx context.Context, dev string) int64 {
	out, err := m.run(ctx, nil, "blockdev", "--getsize64", dev)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return n
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
	if err := m.settled(name); err != nil {
		return err
	}
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
	if busy, err := m.reencryption(name); err != nil {
		return err
	} else if busy != nil {
		return m.settled(name)
	}
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
	hint := "exchange the key device before the next boot, then destroy the old key file"
	if len(m.volumes()) > 1 { // all their key files are on one device
		hint = "before the next boot the key device must have this file, and for each other volume the one that opens it; then destroy the old key file"
	}
	fmt.Fprintf(out, "volume %s opens with the new key file (slot %s); the old one is removed\nhint: %s\n", name, freshSlot, hint)
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
