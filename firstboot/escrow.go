package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/firstboot/escrow"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// EscrowDir holds the sealed recovery keys.
const EscrowDir = StateDir + "/escrow"

// escrowRecord says what belongs to a sealed recovery key.
type escrowRecord struct {
	Volume     string    `json:"volume"`
	LUKSUUID   string    `json:"luks_uuid"`
	Recipients []string  `json:"recipients"`
	Before     []string  `json:"slots_before"` // key slots that the volume had before
	Slot       string    `json:"slot,omitempty"`
	Done       bool      `json:"done"`
	Time       time.Time `json:"time"`
}

func escrowPath(name, ext string) string { return path.Join(EscrowDir, name+ext) }

// sealRecoveryKeys gives every volume a recovery key that only the profile's
// recipients can read. Without recipients there is none.
func (m *Machine) sealRecoveryKeys(ctx context.Context) error {
	recipients := m.facts.Profile.Controls.PHI.Recipients
	if len(recipients) == 0 {
		return nil
	}
	volumes, err := m.quietVolumes() // the end of a reencryption makes a recovery key anyway
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if err := m.sealRecoveryKey(ctx, v.Volume, v.pin, recipients); err != nil {
			return fmt.Errorf("recovery key of %s: %w", v.Name, err)
		}
	}
	return nil
}

func (m *Machine) escrowRecord(name string) (*escrowRecord, error) {
	b, err := m.root.ReadFile(escrowPath(name, ".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var r escrowRecord
	return &r, decodeStrict(escrowPath(name, ".json"), b, &r)
}

func (m *Machine) sealRecoveryKey(ctx context.Context, v handoff.Volume, pin handoff.Pin, recipients []string) error {
	old, err := m.escrowRecord(v.Name)
	if err != nil {
		return err
	}
	if old != nil && old.Done && old.LUKSUUID == pin.LUKSUUID && slices.Equal(old.Recipients, recipients) {
		return nil
	}
	key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if errors.Is(err, keysource.ErrNone) {
		// The volume is open, so nothing is lost; the next boot with the key does it.
		m.log.Warn("no recovery key yet", "volume", v.Name, "reason", err)
		return nil
	} else if err != nil {
		return err
	}
	defer key.Wipe()
	return m.addRecovery(ctx, v, pin, recipients, old, key)
}

// addRecovery adds a slot for a new recovery key and removes the slot of the one
// before. It may be interrupted at any instant: the record says which slots were
// there before, so that a half-made one is found and removed.
func (m *Machine) addRecovery(ctx context.Context, v handoff.Volume, pin handoff.Pin, recipients []string, old *escrowRecord, key *keysource.Key) error {
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return err
	}
	slots, err := m.slots(ctx, dev)
	if err != nil {
		return err
	}
	if err := m.root.MkdirAll(EscrowDir, 0o700); err != nil {
		return err
	}
	if old != nil && !old.Done && old.LUKSUUID == pin.LUKSUUID {
		for _, s := range slots {
			if !slices.Contains(old.Before, s) {
				if err := m.killSlot(ctx, dev, s, key); err != nil {
					return err
				}
			}
		}
		slots = old.Before
	}
	record := escrowRecord{Volume: v.Name, LUKSUUID: pin.LUKSUUID, Recipients: recipients, Before: slots, Time: m.now().UTC().Truncate(time.Second)}
	if old != nil && old.Done {
		record.Slot = old.Slot // of the key that the new one replaces
	}
	recovery := escrow.New(v.Name, pin.LUKSUUID, m.line("etc/hostname"), record.Time)
	defer recovery.Wipe()
	sealed, err := escrow.Seal(recovery, recipients)
	if err != nil {
		return err
	}
	if err := writeJSON(m.root, escrowPath(v.Name, ".json"), record, 0o600); err != nil {
		return err
	}
	// The sealed key is on the disk before the slot exists: there is never a slot
	// whose key nobody has.
	if _, err := writeFile(m.root, escrowPath(v.Name, ".new.age"), sealed, 0o600, 0, 0); err != nil {
		return err
	}
	if err := m.addSlot(ctx, dev, key, recovery.Key()); err != nil {
		return err
	}
	after, err := m.slots(ctx, dev)
	if err != nil {
		return err
	}
	replaced := record.Slot
	for _, s := range after {
		if !slices.Contains(slots, s) {
			record.Slot = s
		}
	}
	if record.Slot == replaced {
		return errors.New("cryptsetup added a key but the volume has no new slot")
	}
	if err := m.root.Rename(escrowPath(v.Name, ".new.age"), escrowPath(v.Name, ".age")); err != nil {
		return err
	}
	if replaced != "" && slices.Contains(after, replaced) {
		if err := m.killSlot(ctx, dev, replaced, key); err != nil {
			return err
		}
	}
	record.Done = true
	if err := writeJSON(m.root, escrowPath(v.Name, ".json"), record, 0o600); err != nil {
		return err
	}
	// The log server keeps a copy: it is readable to the recipients only.
	m.log.Info("recovery key sealed", "volume", v.Name, "slot", record.Slot, "recipients", len(recipients), "age", strings.ReplaceAll(string(sealed), "\n", "|"))
	return nil
}

// luksDevice finds the partition of a LUKS volume by its UUID.
func (m *Machine) luksDevice(uuid string) (string, error) {
	link := path.Join("dev/disk/by-uuid", strings.ToLower(uuid))
	if _, err := m.root.Stat(link); err != nil {
		return "", fmt.Errorf("volume %s: %w", uuid, err)
	}
	return path.Join(m.root.Name(), link), nil
}

// slots returns the numbers of a volume's key slots, in order.
func (m *Machine) slots(ctx context.Context, dev string) ([]string, error) {
	out, err := m.run(ctx, nil, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return nil, err
	}
	var h struct {
		Keyslots map[string]json.RawMessage `json:"keyslots"`
	}
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		return nil, fmt.Errorf("cryptsetup luksDump: %w", err)
	}
	var all []string
	for s := range h.Keyslots {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, fmt.Errorf("cryptsetup luksDump: key slot %q", s)
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all, nil
}

// addSlot adds a key to a volume that key opens. Both go to cryptsetup through
// one pipe: cryptsetup(8) reads --keyfile-size bytes of the first "-", and the
// rest is the new key.
func (m *Machine) addSlot(ctx context.Context, dev string, key *keysource.Key, secret []byte) error {
	both := slices.Concat(key.Bytes(), secret)
	defer clear(both)
	_, err := m.run(ctx, both, "cryptsetup", "luksAddKey", "--batch-mode",
		"--key-file", "-", "--keyfile-size", strconv.Itoa(len(key.Bytes())),
		"--new-keyfile-size", strconv.Itoa(len(secret)),
		// 64 MiB and 4 passes: the recovery key has 256 random bits already, and a
		// machine with little memory must be able to open its volume with it.
		"--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1", dev, "-")
	return err
}

func (m *Machine) killSlot(ctx context.Context, dev, slot string, key *keysource.Key) error {
	_, err := m.run(ctx, key.Bytes(), "cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", "-", dev, slot)
	return err
}
