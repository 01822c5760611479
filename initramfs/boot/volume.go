package boot

import (
	"bytes"
	"context"
	"crypto"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/anatol/luks.go"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

// refusal is a fault of the volume, not of its key: no other key would help.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

// volume finds and opens one PHI volume. It never writes to it.
func (m *machine) volume(v handoff.Volume) (r handoff.VolumeReport) {
	r = handoff.VolumeReport{Name: v.Name, State: handoff.StateLocked}
	defer func() {
		if p := recover(); p != nil {
			r.State, r.Reason = handoff.StateRefused, fmt.Sprintf("init is broken: %v", p)
		}
		if r.State == handoff.StateOpened {
			m.log.Info(v.Name+" is open", "device", r.Device, "key", r.KeySource)
			return
		}
		m.log.Error(v.Name + " is not open (" + string(r.State) + "): " + r.Reason)
	}()
	defer m.timing(v.Name)()
	limit := m.timeout(volumeTimeout)
	ctx, cancel := m.afterRoot(limit)
	defer cancel()
	found, err := m.disks.Wait(ctx, isVolume(v))
	if err != nil {
		r.State, r.Reason = handoff.StateAbsent, fmt.Sprintf("no partition %q of the PHI type appeared in %s after root", v.PartLabel, limit)
		return r
	}
	b := found[0]
	r.Device, r.PartUUID = b.Path, b.PartUUID
	if err := m.open(v, b, &r); err != nil {
		var no refusal
		if errors.As(err, &no) {
			r.State = handoff.StateRefused
		}
		r.Reason = err.Error()
		return r
	}
	if r.State != handoff.StateBlank {
		r.State = handoff.StateOpened
	}
	return r
}

// isVolume matches the partition of a volume: the type keeps other people's
// partitions out, the name tells several volumes apart.
func isVolume(v handoff.Volume) func(disks.Block) bool {
	return func(b disks.Block) bool { return b.PartType == handoff.PHIType && b.PartLabel == v.PartLabel }
}

// open takes one partition from header to mapping.
func (m *machine) open(v handoff.Volume, b disks.Block, r *handoff.VolumeReport) error {
	f, err := os.Open(b.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	h, err := luksheader.Read(f, size)
	if errors.Is(err, luksheader.ErrNotLUKS) {
		blank, scanErr := isBlank(f, size)
		if scanErr != nil {
			return scanErr
		}
		if !blank {
			return refusal{errors.New("there is no LUKS header, and the partition is not blank: nothing is touched")}
		}
		return m.blank(v, b, r)
	}
	if errors.Is(err, luksheader.ErrRefused) {
		return refusal{err}
	}
	if err != nil {
		return err
	}
	if h.Damage != nil {
		m.log.Warn(v.Name + ": " + h.Damage.Error())
	}
	r.LUKSUUID = h.UUID
	key, source, err := keysource.Fetch(context.Background(), keysource.Request{
		KeyFile: v.KeyFile, Sources: m.config.Sources, Disks: m.disks, Tokens: h.Tokens,
		Log: m.log, More: m.more, Module: m.modules.Load,
	})
	if err != nil {
		return err
	}
	m.keep(key)
	r.KeySource = source
	volume, err := m.unseal(v, b, h, key)
	if err != nil {
		return err
	}
	// Root holds the pins, and the cipher's modules are needed from here on.
	if err := m.rooted.wait(); err != nil {
		return errors.New("root is not mounted")
	}
	if err := m.checkIdentity(v, b, h, volume); err != nil {
		return refusal{err}
	}
	_ = m.crypto.wait() // its error is logged by mountAll; the mapping tells whether it matters
	volumeKey, err := takeVolumeKey(volume)
	if err != nil {
		return err
	}
	m.keep(volumeKey)
	if err := mapVolume(v.Name, volume, volumeKey); err != nil {
		return err
	}
	return announce(v.Name)
}

// keep remembers a key until wipeSecrets, which has to know what to search for.
func (m *machine) keep(k *keysource.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets = append(m.secrets, k)
}

// blankBytes is what must be zero to call a partition blank: LUKS2's header and
// key slots take 16 MiB.
const blankBytes = 16 << 20

func isBlank(r io.ReaderAt, size int64) (bool, error) {
	buf := make([]byte, 1<<20)
	zero := make([]byte, len(buf))
	for at := int64(0); at < min(size, blankBytes); {
		n, err := r.ReadAt(buf, at)
		if !bytes.Equal(buf[:n], zero[:n]) {
			return false, nil
		}
		at += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// blank decides whether a blank partition is one to format. If this machine
// knows a volume by that name, somebody has taken it away.
func (m *machine) blank(v handoff.Volume, b disks.Block, r *handoff.VolumeReport) error {
	if err := m.rooted.wait(); err != nil {
		return errors.New("root is not mounted")
	}
	if m.pinErr != nil {
		return refusal{m.pinErr}
	}
	if err := m.onlyVolume(v, b, ""); err != nil {
		return refusal{err}
	}
	if p, ok := m.pins.Find(v.Name); ok {
		return refusal{fmt.Errorf("the partition is blank, and this machine knows volume %s: swapped or wiped", p.LUKSUUID)}
	}
	r.State, r.Reason = handoff.StateBlank, "the partition is blank; it is formatted on first boot"
	return nil
}

// unseal derives the volume key. Only slots that a key file may open are tried:
// if there are cheap ones, those; a slot that is stretched for a person's
// passphrase costs a gigabyte and up to a minute and would not fit.
func (m *machine) unseal(v handoff.Volume, b disks.Block, h *luksheader.Header, key *keysource.Key) (*luks.Volume, error) {
	defer m.timing(v.Name + " unseal")()
	fd, err := unix.MemfdCreate("luks-header", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copy of the header: %w", err)
	}
	copyOf := os.NewFile(uintptr(fd), "luks-header")
	defer copyOf.Close()
	if err := h.Copy(copyOf); err != nil {
		return nil, fmt.Errorf("copy of the header: %w", err)
	}
	dev, err := luks.OpenWithHeader(b.Path, fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, refusal{err}
	}
	defer dev.Close()
	slots, skipped := choose(h.Slots, key.Slots(), availableKiB())
	for _, s := range slots {
		volume, err := dev.UnsealVolume(s.ID, key.Bytes())
		if errors.Is(err, luks.ErrPassphraseDoesNotMatch) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("slot %d: %w", s.ID, err)
		}
		return volume, nil
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("no slot can be tried: %s", strings.Join(skipped, ", "))
	}
	return nil, fmt.Errorf("the key opens none of the %d slots that were tried", len(slots))
}

// choose returns the slots to try, cheapest first, and why others are left out.
// known are those that the key's source says it is for.
func choose(slots []luksheader.Slot, known []int, freeKiB int) (try []luksheader.Slot, skipped []string) {
	if len(known) > 0 {
		slots = slices.DeleteFunc(slices.Clone(slots), func(s luksheader.Slot) bool { return !slices.Contains(known, s.ID) })
	} else {
		for _, s := range slots {
			if s.Minimal() {
				try = append(try, s)
			}
		}
	}
	if len(try) > 0 {
		return try, nil
	}
	for _, s := range slots {
		if s.MemoryKiB > freeKiB/2 {
			skipped = append(skipped, fmt.Sprintf("slot %d needs %d KiB of %d that are free", s.ID, s.MemoryKiB, freeKiB))
			continue
		}
		try = append(try, s)
	}
	return try, skipped
}

// availableKiB is MemAvailable of /proc/meminfo.
func availableKiB() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(data), "\n") {
		var n int
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}

// checkIdentity compares the volume with the pins: its UUID, and a digest under
// its key, which a volume made with the same key file by somebody else lacks.
func (m *machine) checkIdentity(v handoff.Volume, b disks.Block, h *luksheader.Header, volume *luks.Volume) error {
	if err := m.onlyVolume(v, b, h.UUID); err != nil {
		return err
	}
	if m.pinErr != nil {
		return m.pinErr
	}
	pin, ok := m.pins.Find(v.Name)
	if !ok {
		if m.hasPins {
			return fmt.Errorf("%s is not in %s", v.Name, handoff.PinsPath)
		}
		return nil
	}
	if pin.LUKSUUID != h.UUID {
		return fmt.Errorf("swapped volume: its LUKS UUID is %s, this machine knows %s", h.UUID, pin.LUKSUUID)
	}
	digest, err := volume.HMAC(crypto.SHA256, []byte(handoff.PinMessage))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(digest)), []byte(pin.Digest)) != 1 {
		return errors.New("swapped volume: it has the right LUKS UUID and another volume key")
	}
	return nil
}

// onlyVolume refuses a second partition for the volume, and a second volume with
// its LUKS UUID: a copy is attached, and which of them is the right one cannot
// be known.
func (m *machine) onlyVolume(v handoff.Volume, b disks.Block, luksUUID string) error {
	twins := m.disks.Find(func(o disks.Block) bool {
		return o.Name != b.Name && (isVolume(v)(o) || luksUUID != "" && o.FS == "crypto_LUKS" && strings.EqualFold(o.UUID, luksUUID))
	})
	if len(twins) == 0 {
		return nil
	}
	return fmt.Errorf("duplicate: %s and %s are both %s or have the same LUKS UUID: detach the copy", b.Path, twins[0].Path, v.PartLabel)
}
