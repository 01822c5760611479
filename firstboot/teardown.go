package firstboot

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"ward/initramfs/boot/keysource"
)

// cryptsetup 2.6.1 ends a reencryption in several writes of the header: all data
// has the new key already when it destroys the old key slots one by one, and only
// the last write takes the requirement "online-reencrypt" away. When the power
// goes in between, it neither opens the volume ("No usable keyslot is available")
// nor resumes: it wants a key for the old volume key, which nothing uses any
// more. So ward writes that last header itself. The layout is that of the LUKS2
// On-Disk Format Specification 1.1.1, chapter 2.

// luks2Header is one copy of a header.
type luks2Header struct {
	offset int64
	binary []byte // 4096 bytes
	text   []byte // the JSON area, zeros at its end
}

const (
	luks2Binary   = 4096
	luks2Sum      = 448 // of the checksum, 64 bytes
	luks2MaxBytes = 4 << 20
)

var luks2Magic = map[bool][]byte{true: []byte("LUKS\xba\xbe"), false: []byte("SKUL\xba\xbe")}

func (h *luks2Header) sum() []byte {
	s := sha256.New()
	s.Write(h.binary[:luks2Sum])
	s.Write(make([]byte, 64))
	s.Write(h.binary[luks2Sum+64:])
	s.Write(h.text)
	return s.Sum(nil)
}

func (h *luks2Header) sequence() uint64 { return binary.BigEndian.Uint64(h.binary[16:]) }

// readLUKS2 reads the copy of a header at an offset, nil if there is no valid one.
func readLUKS2(r io.ReaderAt, offset int64, primary bool) (*luks2Header, error) {
	h := &luks2Header{offset: offset, binary: make([]byte, luks2Binary)}
	if _, err := r.ReadAt(h.binary, offset); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint64(h.binary[8:])
	if !bytes.HasPrefix(h.binary, luks2Magic[primary]) || binary.BigEndian.Uint16(h.binary[6:]) != 2 || size <= luks2Binary || size > luks2MaxBytes ||
		binary.BigEndian.Uint64(h.binary[256:]) != uint64(offset) || !bytes.HasPrefix(h.binary[72:], []byte("sha256\x00")) {
		return nil, nil
	}
	h.text = make([]byte, size-luks2Binary)
	if _, err := r.ReadAt(h.text, offset+luks2Binary); err != nil {
		return nil, err
	}
	if !bytes.Equal(h.sum(), h.binary[luks2Sum:luks2Sum+sha256.Size]) {
		return nil, nil
	}
	return h, nil
}

// latestLUKS2 reads the newer of the two copies that is valid, as cryptsetup does.
func latestLUKS2(r io.ReaderAt) (*luks2Header, error) {
	first, err := readLUKS2(r, 0, true)
	if err != nil {
		return nil, err
	}
	var second *luks2Header
	for size := int64(16 << 10); size <= luks2MaxBytes && second == nil; size *= 2 {
		if second, err = readLUKS2(r, size, false); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	switch {
	case first == nil && second == nil:
		return nil, errors.New("no valid LUKS2 header")
	case first == nil || second != nil && second.sequence() > first.sequence():
		return second, nil
	}
	return first, nil
}

// writeLUKS2 writes both copies with other JSON, one after the other: while one
// is written, the other is whole.
func writeLUKS2(f *os.File, from *luks2Header, text []byte) error {
	if len(text) >= len(from.text) {
		return fmt.Errorf("%d bytes of JSON in an area of %d", len(text), len(from.text))
	}
	size := int64(luks2Binary + len(from.text))
	for _, primary := range []bool{true, false} {
		h := &luks2Header{binary: bytes.Clone(from.binary), text: make([]byte, len(from.text))}
		if !primary {
			h.offset = size
		}
		copy(h.text, text)
		copy(h.binary, luks2Magic[primary])
		binary.BigEndian.PutUint64(h.binary[16:], from.sequence()+1)
		rand.Read(h.binary[104:168]) // the salt, which only makes the two copies differ
		binary.BigEndian.PutUint64(h.binary[256:], uint64(h.offset))
		clear(h.binary[luks2Sum : luks2Sum+64])
		copy(h.binary[luks2Sum:], h.sum())
		if _, err := f.WriteAt(slices.Concat(h.binary, h.text), h.offset); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// luksObjects is the JSON of a header with what ward does not change left as it is.
type luksObjects struct {
	Keyslots map[string]json.RawMessage `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]json.RawMessage `json:"segments"`
	Digests  map[string]map[string]any  `json:"digests"`
	Config   map[string]json.RawMessage `json:"config"`
}

// finished returns the JSON of the header without the reencryption, when all data
// has the new key and only cryptsetup's cleaning up is not done; and the key slot
// that is left. Any other header it refuses.
func (o *luksObjects) finished(h *luksMetadata) (text []byte, slot string, err error) {
	data := 0
	for _, s := range h.Segments {
		if !slices.ContainsFunc(s.Flags, func(f string) bool { return f == "backup-previous" || f == "backup-final" }) {
			data++
		}
	}
	if s := h.Segments["0"]; data != 1 || s.Size != "dynamic" || len(s.Flags) > 0 {
		return nil, "", errors.New("not all data has the new key")
	}
	final := ""
	for id, s := range h.Segments {
		if slices.Contains(s.Flags, "backup-final") {
			final = id
		}
	}
	for id, d := range o.Digests {
		segments, keyslots := words(d["segments"]), words(d["keyslots"])
		if !slices.Contains(segments, "0") {
			continue
		}
		// Before the first block is written, the data has the digest of the old key.
		if final != "" && !slices.Contains(segments, final) {
			return nil, "", errors.New("no data has the new key yet")
		}
		if len(keyslots) != 1 || h.Keyslots[keyslots[0]].Type != "luks2" {
			return nil, "", fmt.Errorf("key slots %q open the data, want one", keyslots)
		}
		slot = keyslots[0]
		d["segments"] = []string{"0"}
		o.Digests = map[string]map[string]any{id: d}
		break
	}
	if slot == "" {
		return nil, "", errors.New("no digest belongs to the data")
	}
	o.Keyslots = map[string]json.RawMessage{slot: o.Keyslots[slot]}
	o.Segments = map[string]json.RawMessage{"0": o.Segments["0"]}
	o.Tokens = map[string]json.RawMessage{}
	o.Config = maps.Clone(o.Config)
	delete(o.Config, "requirements")
	text, err = json.Marshal(o)
	return text, slot, err
}

func words(v any) []string {
	list, _ := v.([]any)
	var all []string
	for _, w := range list {
		if s, ok := w.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// cleanUp ends a reencryption that was interrupted after its last block. It
// changes nothing in any other case, and tells whether it did.
func (m *Machine) cleanUp(ctx context.Context, dev string, key *keysource.Key) (done bool, err error) {
	h, err := m.header(ctx, dev)
	if err != nil || !h.busy() {
		return false, err
	}
	// cryptsetup can go on in all other states.
	if ok, err := m.opens(ctx, dev, "", key.Bytes()); err == nil && ok {
		return false, nil
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	from, err := latestLUKS2(f)
	if err != nil {
		return false, fmt.Errorf("%s: %w", dev, err)
	}
	var o luksObjects
	if err := json.Unmarshal(bytes.TrimRight(from.text, "\x00"), &o); err != nil {
		return false, fmt.Errorf("%s: header: %w", dev, err)
	}
	old := o.Keyslots
	text, slot, err := o.finished(h)
	if err != nil {
		return false, fmt.Errorf("%s: the reencryption cannot be ended: %w", dev, err)
	}
	m.log.Warn("ending a reencryption that was interrupted after its last block", "device", dev, "slot", slot)
	if err := writeLUKS2(f, from, text); err != nil {
		return false, fmt.Errorf("%s: write the header: %w", dev, err)
	}
	if ok, err := m.opens(ctx, dev, slot, key.Bytes()); err != nil || !ok {
		// The header of before names slots that are destroyed: nothing is lost by this one.
		return false, errors.Join(err, fmt.Errorf("%s: the key file does not open slot %s", dev, slot))
	}
	return true, wipeSlots(f, old, slot)
}

// wipeSlots overwrites the areas of all key slots but one.
func wipeSlots(f *os.File, slots map[string]json.RawMessage, but string) error {
	for id, raw := range slots {
		if id == but {
			continue
		}
		var s struct {
			Area struct {
				Offset string `json:"offset"`
				Size   string `json:"size"`
			} `json:"area"`
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		offset, err1 := strconv.ParseInt(s.Area.Offset, 10, 64)
		size, err2 := strconv.ParseInt(s.Area.Size, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("area of slot %s: %w", id, err)
		}
		if offset < 2*luks2Binary || size <= 0 || offset+size > headerBytes {
			return fmt.Errorf("area of slot %s is at %d with %d bytes", id, offset, size)
		}
		noise := make([]byte, size)
		rand.Read(noise)
		if _, err := f.WriteAt(noise, offset); err != nil {
			return err
		}
	}
	return f.Sync()
}
