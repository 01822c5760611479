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

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// reencryption records a change of the volume key that has begun. While it is
// there, init refuses the volume, whose header names two keys or another one
// than the pin, and apply opens it through cryptsetup instead.
type reencryption struct {
	Volume    string    `json:"volume"`
	LUKSUUID  string    `json:"luks_uuid"`
	OldDigest string    `json:"old_digest"`   // keyed digest of the volume key that is replaced, from the pin
	Before    []string  `json:"slots_before"` // key slots at the beginning
	Started   time.Time `json:"started"`
}

// hotZone is the most data, in bytes, that cryptsetup reencrypts between two
// writes of the header (cryptsetup-reencrypt(8), --hotzone-size). By itself it
// takes all that its checksums have room for, some 250 MiB: whoever uses the
// volume waits for as much, and after a loss of power every sector of it is
// hashed before the volume opens.
const hotZone = "16777216"

func reencryptionPath(name string) string { return path.Join(StateDir, "reencrypting-"+name+".json") }

func (m *Machine) reencryption(name string) (*reencryption, error) {
	b, err := m.root.ReadFile(reencryptionPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var r reencryption
	return &r, decodeStrict(reencryptionPath(name), b, &r)
}

// settled refuses what must not happen while a volume's key is being changed.
func (m *Machine) settled(name string) error {
	r, err := m.reencryption(name)
	if err == nil && r != nil {
		err = errHint(fmt.Errorf("volume %s is being reencrypted", name), "wait for it: `wardctl key status%s` shows how far it is", volumeFlag(name))
	}
	if err != nil {
		return err
	}
	_, err = m.root.Stat(rotationPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err == nil {
		err = errHint(fmt.Errorf("a rotation of the key of volume %s was interrupted", name), "finish it first: `wardctl key rotate%s --new-key FILE`", volumeFlag(name))
	}
	return err
}

// BeginReencryption decides that a volume gets a new volume key and writes that
// down; [Machine.Reencrypt] does it. The key file stays what it is.
func (m *Machine) BeginReencryption(ctx context.Context, name string) error {
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return err
	}
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if r, err := m.reencryption(name); err != nil || r != nil {
		return err // begun already: go on with it
	}
	if err := m.settled(name); err != nil {
		return err
	}
	if !m.mapped(name) {
		return errHint(fmt.Errorf("volume %s is not open", name), "see `wardctl status`")
	}
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return err
	}
	key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil {
		return errHint(err, "the key file is needed, and stays the key of the volume")
	}
	defer key.Wipe()
	now, err := pinOf(dev, name, key)
	if err != nil {
		return fmt.Errorf("the key of source %s: %w", source, err)
	}
	if now != pin {
		return fmt.Errorf("volume %s is not the one that this machine pinned; nothing was changed", name)
	}
	r := reencryption{Volume: name, LUKSUUID: pin.LUKSUUID, OldDigest: pin.Digest, Started: m.now().UTC().Truncate(time.Second)}
	if r.Before, err = m.slots(ctx, dev); err != nil {
		return err
	}
	m.log.Warn("a volume gets a new volume key", "volume", name, "luks_uuid", pin.LUKSUUID)
	return writeJSON(m.root, reencryptionPath(name), r, 0o600)
}

// Reencrypt finishes every reencryption that was begun, while the volumes stay
// mounted. It may be interrupted at any instant, by a loss of power too:
// cryptsetup keeps a checksum of what it is about to overwrite in the header
// (cryptsetup-reencrypt(8), --resilience), and the next run goes on.
func (m *Machine) Reencrypt(ctx context.Context) error {
	failed := map[string]error{}
	// Again after each one: what is begun meanwhile finds the service running, and
	// nothing else would start it.
	for done := true; done; {
		done = false
		for _, v := range m.volumes() {
			if failed[v.Name] != nil {
				continue
			}
			r, err := m.reencryption(v.Name)
			if err == nil && r != nil {
				err = m.reencrypt(ctx, v, r)
				done = done || err == nil
			}
			if err != nil {
				failed[v.Name] = fmt.Errorf("reencrypt %s: %w", v.Name, err)
			}
		}
	}
	var errs []error
	for _, v := range m.volumes() {
		errs = append(errs, failed[v.Name])
	}
	return errors.Join(errs...)
}

// WaitReencrypted waits until the service has done it.
func (m *Machine) WaitReencrypted(ctx context.Context, name string) error {
	for {
		if r, err := m.reencryption(name); err != nil || r == nil {
			return err
		}
		p, err := m.unit(ctx, "ward-reencrypt.service")
		if err != nil {
			return err
		}
		if s := p["ActiveState"]; s == "failed" || s == "inactive" {
			// It may have ended between the two looks.
			if r, err := m.reencryption(name); err != nil || r == nil {
				return err
			}
			return errHint(fmt.Errorf("the reencryption of volume %s has stopped, and the volume stays readable", name),
				"`journalctl -u ward-reencrypt` says why; then `systemctl start ward-reencrypt`")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (m *Machine) reencrypt(ctx context.Context, v handoff.Volume, r *reencryption) error {
	dev, err := m.luksDevice(r.LUKSUUID)
	if err != nil {
		return err
	}
	key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil {
		return errHint(err, "a reencryption goes on as soon as the key is there; until then the volume stays readable")
	}
	defer key.Wipe()
	if _, err := m.cleanUp(ctx, dev, key); err != nil {
		return err
	}
	h, err := m.header(ctx, dev)
	if err != nil {
		return err
	}
	if !h.busy() {
		pin, err := pinOf(dev, v.Name, key)
		if err != nil {
			return err
		}
		if pin.Digest != r.OldDigest {
			return m.finishReencryption(ctx, v, r, dev, key)
		}
		if err := m.initReencryption(ctx, v, r, dev, key, h); err != nil {
			return err
		}
	}
	m.log.Info("reencryption goes on", "volume", v.Name)
	// No lock: it may take hours, in which people's access must still be changed.
	if _, err := m.run(unlimited(ctx), key.Bytes(), "cryptsetup", "reencrypt", "--batch-mode", "--resume-only",
		"--hotzone-size", hotZone, "--active-name", v.Name, "--key-file", "-", dev); err != nil {
		return err
	}
	return m.finishReencryption(ctx, v, r, dev, key)
}

// initReencryption makes the new volume key and writes the plan into the header.
func (m *Machine) initReencryption(ctx context.Context, v handoff.Volume, r *reencryption, dev string, key *keysource.Key, h *luksMetadata) error {
	// What an interrupted beginning left: a slot of a volume key that nothing uses.
	for id := range h.Keyslots {
		if !slices.Contains(r.Before, id) {
			if err := m.killSlot(ctx, dev, id, key); err != nil {
				return err
			}
		}
	}
	slot, err := m.slotOf(ctx, dev, key.Bytes())
	if err != nil {
		return err
	}
	if slot == "" {
		return errors.New("the key file opens no slot")
	}
	// Only the slot of the key file is carried over. The recovery key's own bytes
	// are not here; a new one is made at the end.
	_, err = m.run(ctx, key.Bytes(), "cryptsetup", "reencrypt", "--batch-mode", "--init-only", "--active-name", v.Name, "--key-file", "-",
		"--key-slot", slot, "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", dev)
	return err
}

// finishReencryption pins the new volume key and makes a new recovery key.
func (m *Machine) finishReencryption(ctx context.Context, v handoff.Volume, r *reencryption, dev string, key *keysource.Key) error {
	unlock, err := m.waitLock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	pin, err := pinOf(dev, v.Name, key)
	if err != nil {
		return err
	}
	if pin.Digest == r.OldDigest || pin.LUKSUUID != r.LUKSUUID {
		return fmt.Errorf("cryptsetup ended well, but the volume has the key that it had before")
	}
	pins, err := m.pins()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pins.Volumes, func(p handoff.Pin) bool { return p.Name == v.Name })
	if i < 0 {
		return fmt.Errorf("%s has no entry for the volume", handoff.PinsPath)
	}
	pins.Volumes[i] = pin
	if err := writeJSON(m.root, clean(handoff.PinsPath), pins, 0o600); err != nil {
		return err
	}
	if recipients := m.facts.Profile.Controls.PHI.Recipients; len(recipients) > 0 {
		old, err := m.escrowRecord(v.Name)
		if err != nil {
			return err
		}
		left, err := m.slots(ctx, dev)
		if err != nil {
			return err
		}
		// The slot of the recovery key before went with the old volume key.
		if old != nil && old.Done && !slices.Contains(left, old.Slot) {
			old = nil
		}
		if err := m.addRecovery(ctx, v, pin, recipients, old, key); err != nil {
			return fmt.Errorf("recovery key: %w", err)
		}
	}
	if err := m.root.Remove(reencryptionPath(v.Name)); err != nil {
		return err
	}
	m.log.Warn("the volume has a new volume key", "volume", v.Name, "luks_uuid", r.LUKSUUID, "began", r.Started)
	return syncDir(m.root, StateDir)
}

// reopen opens a volume whose reencryption was interrupted, which init refuses:
// it cannot map a volume with two keys. cryptsetup first repairs what was being
// written when the power went.
func (m *Machine) reopen(ctx context.Context, v handoff.Volume, part string, r *reencryption) error {
	dev, err := m.device(part)
	if err != nil {
		return err
	}
	tags, err := m.probe(ctx, dev)
	if err != nil {
		return err
	}
	if tags["TYPE"] != "crypto_LUKS" || !strings.EqualFold(tags["UUID"], r.LUKSUUID) {
		return &absent{fmt.Sprintf("volume %s was being reencrypted, and %s now holds %s %s", r.LUKSUUID, dev, tags["TYPE"], tags["UUID"]),
			"attach the disk that this machine was started with"}
	}
	h, err := m.header(ctx, dev)
	if err != nil {
		return err
	}
	if err := h.acceptable(); err != nil {
		return &absent{"the header of an interrupted reencryption is refused: " + err.Error(), hintFor(handoff.StateRefused)}
	}
	key, _, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil {
		return &absent{"the volume was being reencrypted, and its key cannot be had: " + err.Error(), hintFor(handoff.StateLocked)}
	}
	defer key.Wipe()
	m.log.Warn("opening a volume whose reencryption was interrupted", "volume", v.Name)
	if _, err := m.cleanUp(ctx, dev, key); err != nil {
		return &absent{err.Error(), "nothing is lost; keep the disk as it is, and ask for help with `cryptsetup luksDump " + dev + "`"}
	}
	// What was being written when the power went is repaired from the checksums in
	// the header; on a header that needs no repair this changes nothing.
	if _, err := m.run(ctx, key.Bytes(), "cryptsetup", "repair", "--batch-mode", "--key-file", "-", dev); err != nil {
		m.log.Warn("repair of an interrupted reencryption", "volume", v.Name, "err", err) // opening tries it again
	}
	return m.openVolume(ctx, v, dev, key)
}

// luksMetadata is what ward reads of the JSON in a LUKS2 header.
type luksMetadata struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		KDF     struct {
			Type string `json:"type"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Tokens map[string]struct {
		Type     string   `json:"type"`
		Keyslots []string `json:"keyslots"`
		PCRs     []int    `json:"ward_pcrs"`  // of a tpmkey.Token, and
		State    string   `json:"ward_state"` // what they held
	} `json:"tokens"`
	Segments map[string]struct {
		Type       string   `json:"type"`
		Size       string   `json:"size"`
		Encryption string   `json:"encryption"`
		Flags      []string `json:"flags"`
	} `json:"segments"`
	Config struct {
		Requirements struct {
			Mandatory []string `json:"mandatory"`
		} `json:"requirements"`
	} `json:"config"`
}

func (m *Machine) header(ctx context.Context, dev string) (*luksMetadata, error) {
	out, err := m.run(ctx, nil, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return nil, err
	}
	var h luksMetadata
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		return nil, fmt.Errorf("cryptsetup luksDump: %w", err)
	}
	return &h, nil
}

// busy tells whether a reencryption is under way: LUKS2 On-Disk Format, 3.8.
func (h *luksMetadata) busy() bool {
	return slices.ContainsFunc(h.Config.Requirements.Mandatory, func(s string) bool { return strings.HasPrefix(s, "online-reencrypt") })
}

// acceptable wants every part of the data encrypted as ward does it, and nothing
// in the header but a reencryption whose metadata is authenticated (v2, which
// CVE-2021-4122 led to).
func (h *luksMetadata) acceptable() error {
	for _, r := range h.Config.Requirements.Mandatory {
		if r != "online-reencrypt-v2" {
			return fmt.Errorf("requirement %q", r)
		}
	}
	n := 0
	for id, s := range h.Segments {
		if s.Type != "crypt" || s.Encryption != "aes-xts-plain64" {
			return fmt.Errorf("segment %s is %s by %q", id, s.Type, s.Encryption)
		}
		n++
	}
	if n == 0 {
		return errors.New("it has no segment")
	}
	return nil
}

// progress is the share of the data that has the new key, in percent; direction
// is forward, so it is what lies in the first segment until its end is dynamic.
func (h *luksMetadata) progress(total int64) int {
	n, err := strconv.ParseInt(h.Segments["0"].Size, 10, 64)
	if err != nil || total <= 0 || len(h.Segments) < 4 {
		return 0
	}
	return int(min(n*100/total, 100))
}
