package firstboot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
	"ward/profiles/control"
)

// Certificate says that a volume was destroyed, for 45 CFR 164.310(d)(2)(i).
type Certificate struct {
	Version  int       `json:"version"`
	Machine  string    `json:"machine_id"`
	Host     string    `json:"host"`
	By       string    `json:"by"` // who asked for it
	Volume   string    `json:"volume"`
	LUKSUUID string    `json:"luks_uuid"`
	Serial   string    `json:"disk_serial"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Slots    []string  `json:"slots_destroyed"`
	Proof    []string  `json:"proof"` // what was tried before and afterwards, and how it ended
	Limits   string    `json:"limits"`
	Tool     string    `json:"tool"`
	// File is where the certificate lies, with the signature of the machine's host key beside it.
	File string `json:"-"`
}

// eraseLimits are what no program on the machine can vouch for.
const eraseLimits = "A copy of the header that was made before, and backups, are not destroyed by this; a disk may keep old blocks of a header that it has remapped."

// headerBytes is where a LUKS2 header of cryptsetup's default size ends: two
// copies of the header and all key slots.
const headerBytes = 16 << 20

// Erase destroys a volume for good: its key slots and both headers, then the
// partition is discarded, and it is proved that neither the key file nor a
// recovery key opens it. confirm must be the serial number of the volume's disk;
// by is who asked for it.
func (m *Machine) Erase(ctx context.Context, name, confirm, by string) (*Certificate, error) {
	v, pin, err := m.volumeNamed(name)
	if err != nil {
		return nil, err
	}
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if busy, err := m.reencryption(name); err != nil {
		return nil, err
	} else if busy != nil {
		return nil, m.settled(name)
	}
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
	c := &Certificate{Version: 1, Machine: m.appID(), Host: m.line("etc/hostname"), By: by, Volume: name, LUKSUUID: pin.LUKSUUID, Serial: serial,
		Started: m.now().UTC().Truncate(time.Second), Limits: eraseLimits, Tool: m.facts.Image.Tool}
	key, source, err := m.key(ctx, m.facts.Image.Init.Sources, v)
	if err != nil && !errors.Is(err, keysource.ErrNone) {
		return nil, err
	}
	if key != nil {
		defer key.Wipe()
	}
	// Logged and on the disk before anything is destroyed; rsyslog sends it at once.
	m.log.Warn("erasing a volume", "volume", name, "luks_uuid", pin.LUKSUUID, "serial", serial, "by", by)
	if _, err := m.run(ctx, nil, "journalctl", "--sync"); err != nil {
		return nil, fmt.Errorf("the record of the erasure is not on the disk: %w", err)
	}
	if err := m.release(ctx, v); err != nil {
		return nil, err
	}
	trial, err := m.openers(ctx, c, part, key, source)
	if err != nil {
		return nil, err
	}
	defer clear(trial)
	if c.Slots, err = m.slots(ctx, part); err != nil {
		return nil, err
	}
	// All key slots, without asking for any key: cryptsetup-erase(8).
	if _, err := m.run(ctx, nil, "cryptsetup", "erase", "--batch-mode", part); err != nil {
		return nil, err
	}
	left, err := m.slots(ctx, part)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("key slots %v are left", left)
	}
	c.Proof = append(c.Proof, "after: the header lists no key slot")
	if err := m.refused(ctx, c, part, "with the slots destroyed", key, trial); err != nil {
		return nil, err
	}
	if err := m.overwrite(ctx, c, part); err != nil {
		return nil, err
	}
	if err := m.refused(ctx, c, part, "with the header destroyed", key, trial); err != nil {
		return nil, err
	}
	tags, err := m.probe(ctx, part)
	if err != nil {
		return nil, err
	}
	if tags["TYPE"] != "" {
		return nil, fmt.Errorf("%s is still recognised as %s", part, tags["TYPE"])
	}
	c.Proof = append(c.Proof, "after: blkid recognises nothing on the partition")
	if err := m.forgetVolume(name); err != nil {
		return nil, err
	}
	c.Ended = m.now().UTC().Truncate(time.Second)
	return c, m.certify(ctx, c)
}

// release unmounts and unmaps a volume.
func (m *Machine) release(ctx context.Context, v handoff.Volume) error {
	if on, err := m.mounted(ctx, v.Mount); err != nil {
		return err
	} else if on {
		if _, err := m.run(ctx, nil, "systemctl", "stop", control.MountUnit(v.Mount)); err != nil {
			return errHint(err, "stop what uses %s, see `fuser -vm %s`; nothing was destroyed yet", v.Mount, v.Mount)
		}
	}
	if m.mapped(v.Name) {
		if _, err := m.run(ctx, nil, "systemctl", "stop", "systemd-cryptsetup@"+control.EscapeUnit(v.Name)+".service"); err != nil {
			return err
		}
	}
	if m.mapped(v.Name) {
		if _, err := m.run(ctx, nil, "cryptsetup", "close", v.Name); err != nil {
			return err
		}
	}
	return nil
}

// openers shows that what shall open nothing afterwards opens the volume now: the
// key file, and a recovery key that is made for this alone, because the bytes of
// the sealed one are with its officer. Without a key file neither can be shown.
func (m *Machine) openers(ctx context.Context, c *Certificate, part string, key *keysource.Key, source string) (trial []byte, err error) {
	if key == nil {
		c.Proof = append(c.Proof, "before: no source has the key file, so no key could be tried")
		return nil, nil
	}
	if ok, err := m.opens(ctx, part, "", key.Bytes()); err != nil {
		return nil, err
	} else if !ok {
		c.Proof = append(c.Proof, "before: the key file of source "+source+" does not open the volume")
		return nil, nil
	}
	trial = make([]byte, 32)
	rand.Read(trial)
	if err := m.addSlot(ctx, part, key, trial); err != nil {
		return nil, err
	}
	if ok, err := m.opens(ctx, part, "", trial); err != nil || !ok {
		return nil, errors.Join(err, errors.New("the recovery key that was made for the proof does not open the volume"))
	}
	c.Proof = append(c.Proof, "before: the key file opens the volume", "before: a recovery key, made for this proof, opens the volume")
	return trial, nil
}

// refused fails if one of the keys still opens the volume.
func (m *Machine) refused(ctx context.Context, c *Certificate, part, when string, key *keysource.Key, trial []byte) error {
	if key == nil {
		return nil
	}
	for _, k := range []struct {
		name  string
		bytes []byte
	}{{"the key file", key.Bytes()}, {"the recovery key", trial}} {
		if len(k.bytes) == 0 {
			continue
		}
		ok, err := m.opens(ctx, part, "", k.bytes)
		if ok {
			return fmt.Errorf("%s still opens the volume %s", k.name, when)
		}
		// Without a slot, or a header, cryptsetup has an error other than "no permission".
		c.Proof = append(c.Proof, fmt.Sprintf("after, %s: %s is refused (%s)", when, k.name, errOr(err, "no slot fits")))
	}
	return nil
}

// overwrite destroys both headers and the key slots with random bytes, sees that
// no block of them is as it was, and discards the partition.
func (m *Machine) overwrite(ctx context.Context, c *Certificate, part string) error {
	before, err := readHead(part)
	if err != nil {
		return err
	}
	if _, err := m.run(ctx, nil, "dd", "if=/dev/urandom", "of="+part, "bs=1M", "count=32", "conv=fsync,notrunc", "status=none"); err != nil {
		return err
	}
	after, err := readHead(part)
	if err != nil {
		return err
	}
	const block = 4096
	for at := 0; at+block <= len(before); at += block {
		if bytes.Equal(before[at:at+block], after[at:at+block]) {
			return fmt.Errorf("%s: byte %d of the header is as it was", part, at)
		}
	}
	c.Proof = append(c.Proof, fmt.Sprintf("after: each of the %d blocks of header and key slots was overwritten and read back", len(before)/block))
	if _, err := m.run(ctx, nil, "blkdiscard", "--force", part); err != nil {
		c.Proof = append(c.Proof, "after: the disk does not discard ("+firstLine(err.Error())+")")
		return nil
	}
	c.Proof = append(c.Proof, "after: the whole partition was discarded")
	return nil
}

func readHead(dev string) ([]byte, error) {
	f, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, headerBytes)
	_, err = io.ReadFull(f, b)
	return b, err
}

// certify keeps the certificate, signs it with the host key and sends it to the log.
func (m *Machine) certify(ctx context.Context, c *Certificate) error {
	name := path.Join(StateDir, "erased-"+c.LUKSUUID+".json")
	if err := writeJSON(m.root, name, c, 0o600); err != nil {
		return err
	}
	c.File = "/" + name
	m.log.Warn("a volume is erased", "volume", c.Volume, "luks_uuid", c.LUKSUUID, "serial", c.Serial, "by", c.By, "proof", strings.Join(c.Proof, "; "))
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := m.Send("certificate of destruction", c.File, append(b, '\n')); err != nil {
		return err
	}
	return m.Sign(ctx, "ward-erase", path.Join(m.root.Name(), name))
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
