package luksheader

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	luks1Active   = 0x00ac71f3
	luks1Inactive = 0x0000dead
)

// read1 judges a LUKS1 header: 592 bytes, big-endian, eight slots.
func read1(r io.ReaderAt, size int64, b []byte) (*Header, error) {
	be := binary.BigEndian
	h := &Header{Version: 1, UUID: cString(b[168:208])}
	var f faults
	cipher, mode := cString(b[8:40]), cString(b[40:72])
	keyBytes := int(be.Uint32(b[108:]))
	f.checkCipher("data", cipher+"-"+mode, keyBytes)
	// SHA-1 was the default of LUKS1 for years. As part of PBKDF2 and of the
	// splitter it is not broken, so that such a volume still opens.
	if hash := cString(b[72:104]); hash != "sha1" {
		f.checkHash("header", hash)
	}
	if !isUUID(h.UUID) {
		f.add("UUID %q is none", h.UUID)
	}
	if n := be.Uint32(b[164:]); n == 0 || n > maxIterations {
		f.add("digest: %d iterations", n)
	}
	payload := int64(be.Uint32(b[104:])) * 512
	f.checkRange("data", payload, 512, size)
	h.parts = []part{{0, b}}
	for i := range 8 {
		s := b[208+48*i:][:48]
		switch be.Uint32(s) {
		case luks1Inactive:
			continue
		case luks1Active:
		default:
			f.add("slot %d: neither active nor inactive", i)
			continue
		}
		n := be.Uint32(s[4:])
		if n == 0 || n > maxIterations {
			f.add("slot %d: pbkdf2 with %d iterations, at most %d are allowed", i, n, maxIterations)
		}
		if got := be.Uint32(s[44:]); got != stripes {
			f.add("slot %d: %d stripes, want %d", i, got, stripes)
		}
		h.Slots = append(h.Slots, Slot{ID: i, KDF: "pbkdf2", Iterations: int(n)})
		if len(f) > 0 {
			continue
		}
		offset, length := int64(be.Uint32(s[40:]))*512, int64(keyBytes)*stripes
		where := fmt.Sprintf("slot %d", i)
		if offset < int64(len(b)) {
			f.add("%s: key material at byte %d lies in the header", where, offset)
			continue
		}
		if f.checkRange(where, offset, length, min(size, payload)) {
			p, err := readPart(r, offset, length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			h.parts = append(h.parts, p)
		}
	}
	if len(h.Slots) == 0 {
		f.add("no active key slot")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	sortSlots(h.Slots)
	return h, nil
}
