package luksheader

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// The JSON area. Names and types are those that luks.go reads, so that both see
// the same values; what luks.go ignores but would change what is mapped
// (integrity, requirements) is read here to be refused.
type metadata struct {
	Keyslots map[int]keyslot         `json:"keyslots"`
	Tokens   map[int]json.RawMessage `json:"tokens"`
	Segments map[int]segment         `json:"segments"`
	Digests  map[int]digest          `json:"digests"`
	Config   struct {
		Flags        []string        `json:"flags"`
		Requirements json.RawMessage `json:"requirements"`
	} `json:"config"`
}

type keyslot struct {
	Type    string `json:"type"`
	KeySize uint   `json:"key_size"`
	Af      struct {
		Type    string `json:"type"`
		Stripes uint   `json:"stripes"`
		Hash    string `json:"hash"`
	} `json:"af"`
	Area struct {
		Type       string      `json:"type"`
		Encryption string      `json:"encryption"`
		KeySize    uint        `json:"key_size"`
		Offset     json.Number `json:"offset"`
		Size       json.Number `json:"size"`
	} `json:"area"`
	Kdf struct {
		Type       string `json:"type"`
		Salt       string `json:"salt"`
		Hash       string `json:"hash"`
		Iterations uint   `json:"iterations"`
		Time       uint   `json:"time"`
		Memory     uint   `json:"memory"`
		Cpus       uint   `json:"cpus"`
	} `json:"kdf"`
	Priority *int `json:"priority"`
}

type segment struct {
	Type       string          `json:"type"`
	Offset     json.Number     `json:"offset"`
	IvTweak    json.Number     `json:"iv_tweak"`
	Size       string          `json:"size"`
	Encryption string          `json:"encryption"`
	SectorSize uint            `json:"sector_size"`
	Flags      []string        `json:"flags"`
	Integrity  json.RawMessage `json:"integrity"`
}

type digest struct {
	Type       string        `json:"type"`
	Keyslots   []json.Number `json:"keyslots"`
	Segments   []json.Number `json:"segments"`
	Hash       string        `json:"hash"`
	Iterations uint          `json:"iterations"`
	Salt       string        `json:"salt"`
	Digest     string        `json:"digest"`
}

// flags are the persistent activation flags that only change performance, or
// allow discards, which an operator has to ask for when formatting.
var flags = []string{"allow-discards", "same-cpu-crypt", "submit-from-crypt-cpus", "no-read-workqueue", "no-write-workqueue"}

// read2 judges the LUKS2 header: its first copy, or the second where the first is
// damaged, as after a loss of power while it was written (LUKS2 On-Disk Format,
// 2.1).
func read2(r io.ReaderAt, size int64, b []byte) (*Header, error) {
	area, damage := primary(r, size, int64(binary.BigEndian.Uint64(b[8:])))
	if errors.Is(damage, ErrRefused) {
		second, err := secondary(r, size)
		if err != nil {
			return nil, err
		}
		if second == nil {
			return nil, damage
		}
		area, damage = part{0, second}, fmt.Errorf("the first copy of the header is damaged, the second one was used: %w", damage)
	} else if damage != nil {
		return nil, damage
	}
	h, err := judge2(r, size, area)
	if h != nil {
		h.Damage = damage
	}
	return h, err
}

// primary reads the copy at the start.
func primary(r io.ReaderAt, size, hdrSize int64) (part, error) {
	if hdrSize < minHeaderBytes || hdrSize > maxHeaderBytes || hdrSize&(hdrSize-1) != 0 {
		return part{}, fmt.Errorf("%w: header size of %d bytes", ErrRefused, hdrSize)
	}
	if hdrSize > size {
		return part{}, fmt.Errorf("%w: header of %d bytes on a device of %d: truncated", ErrRefused, hdrSize, size)
	}
	area, err := readPart(r, 0, hdrSize)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return part{}, fmt.Errorf("%w: truncated", ErrRefused)
	}
	if err != nil {
		return part{}, err
	}
	return area, checksum(area.data)
}

// secondary looks for a whole second copy at each place that the format allows,
// and returns it as it would be at the start; nil when there is none. It lies
// where the first one ends.
func secondary(r io.ReaderAt, size int64) ([]byte, error) {
	be := binary.BigEndian
	for at := int64(minHeaderBytes); at <= maxHeaderBytes && at <= size-at; at *= 2 {
		area, err := readPart(r, at, 4096)
		if err != nil {
			return nil, err
		}
		b := area.data
		if !bytes.HasPrefix(b, []byte("SKUL\xba\xbe\x00\x02")) || int64(be.Uint64(b[8:])) != at || int64(be.Uint64(b[256:])) != at {
			continue
		}
		if area, err = readPart(r, at, at); err != nil {
			return nil, err
		}
		if b = area.data; checksum(b) != nil {
			continue
		}
		copy(b, "LUKS")
		be.PutUint64(b[256:], 0)
		copy(b[448:], sumOf(b))
		return b, nil
	}
	return nil, nil
}

func judge2(r io.ReaderAt, size int64, area part) (*Header, error) {
	be := binary.BigEndian
	hdrSize := int64(len(area.data))
	text := area.data[4096:]
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return nil, fmt.Errorf("%w: the JSON area does not end", ErrRefused)
	}
	var m metadata
	if err := json.Unmarshal(text[:end], &m); err != nil {
		return nil, fmt.Errorf("%w: metadata: %v", ErrRefused, err)
	}
	h := &Header{Version: 2, UUID: cString(area.data[168:208]), Label: cString(area.data[24:72]), parts: []part{area}}
	var f faults
	if be.Uint64(area.data[256:]) != 0 {
		f.add("the primary header says that it lies at byte %d", be.Uint64(area.data[256:]))
	}
	if !isUUID(h.UUID) {
		f.add("UUID %q is none", h.UUID)
	}
	f.checkConfig(m)
	f.checkSegments(m, size)
	f.checkDigests(m)
	areas := f.checkSlots(h, m, hdrSize, size)
	if err := f.err(); err != nil {
		return nil, err
	}
	for _, a := range areas {
		p, err := readPart(r, a[0], a[1])
		if err != nil {
			return nil, fmt.Errorf("key material at byte %d: %w", a[0], err)
		}
		h.parts = append(h.parts, p)
	}
	for _, id := range slices.Sorted(maps.Keys(m.Tokens)) {
		var t struct{ Type string }
		if json.Unmarshal(m.Tokens[id], &t) == nil {
			h.Tokens = append(h.Tokens, Token{t.Type, m.Tokens[id]})
		}
	}
	sortSlots(h.Slots)
	return h, nil
}

// checksum compares the SHA-256 over the header with its own field zeroed. It
// finds damage; against forgery there are only the checks that follow.
func checksum(area []byte) error {
	if alg := cString(area[72:104]); alg != "sha256" {
		return fmt.Errorf("%w: checksum by %q, want sha256", ErrRefused, alg)
	}
	if !bytes.Equal(sumOf(area), area[448:480]) {
		return fmt.Errorf("%w: the header's checksum is wrong (damaged or truncated)", ErrRefused)
	}
	return nil
}

func sumOf(area []byte) []byte {
	sum := sha256.New()
	sum.Write(area[:448])
	sum.Write(make([]byte, 64))
	sum.Write(area[512:])
	return sum.Sum(nil)
}

func (f *faults) checkConfig(m metadata) {
	for _, flag := range m.Config.Flags {
		if !slices.Contains(flags, flag) {
			f.add("config: flag %q is not known", flag)
		}
	}
	// "online-reencrypt" and the like: the volume is not what it seems.
	switch s := string(bytes.ReplaceAll(m.Config.Requirements, []byte(" "), nil)); s {
	case "", "null", "[]", "{}", `{"mandatory":[]}`:
	default:
		f.add("config: requirements %.80q are not supported", s)
	}
}

func (f *faults) checkSegments(m metadata, size int64) {
	if len(m.Segments) != 1 {
		f.add("%d segments, want 1", len(m.Segments))
	}
	for _, id := range slices.Sorted(maps.Keys(m.Segments)) {
		s, where := m.Segments[id], fmt.Sprintf("segment %d", id)
		if s.Type != "crypt" {
			f.add("%s: type %q does not encrypt", where, s.Type)
			continue
		}
		f.checkCipher(where, s.Encryption, 64) // the key's size is that of the slots, checked there
		if s.SectorSize < 512 || s.SectorSize > 4096 || s.SectorSize&(s.SectorSize-1) != 0 {
			f.add("%s: sectors of %d bytes", where, s.SectorSize)
		}
		if len(s.Flags) > 0 {
			f.add("%s: flags %.80q are not supported", where, s.Flags)
		}
		if len(s.Integrity) > 0 && string(s.Integrity) != "null" {
			f.add("%s: integrity protection is not supported", where)
		}
		if tweak, err := s.IvTweak.Int64(); err != nil || tweak < 0 {
			f.add("%s: iv_tweak %q", where, s.IvTweak)
		}
		offset, err := s.Offset.Int64()
		if err != nil {
			f.add("%s: offset %q", where, s.Offset)
			continue
		}
		length := int64(512)
		if s.Size != "dynamic" {
			if length, err = strconv.ParseInt(s.Size, 10, 64); err != nil {
				f.add("%s: size %q", where, s.Size)
				continue
			}
		}
		f.checkRange(where, offset, length, size)
	}
}

func (f *faults) checkDigests(m metadata) {
	for _, id := range slices.Sorted(maps.Keys(m.Digests)) {
		d, where := m.Digests[id], fmt.Sprintf("digest %d", id)
		if d.Type != "pbkdf2" {
			f.add("%s: type %q", where, d.Type)
		}
		f.checkHash(where, d.Hash)
		if d.Iterations == 0 || d.Iterations > maxIterations {
			f.add("%s: %d iterations, at most %d are allowed", where, d.Iterations, maxIterations)
		}
		f.checkBase64(where+": salt", d.Salt, 1, maxSaltBytes)
		// Shorter than a hash it would be easy to match; longer, luks.go would read
		// past its own.
		f.checkBase64(where+": digest", d.Digest, 20, 64)
		if n := digestSize(d.Hash); n > 0 && base64.StdEncoding.DecodedLen(len(d.Digest)) > n+2 {
			f.add("%s: longer than %s", where, d.Hash)
		}
	}
}

// digestSize is the length of a hash in bytes, 0 if it is not on the list.
func digestSize(hash string) int {
	switch hash {
	case "sha256", "sha3-256", "blake2s-256":
		return 32
	case "sha384", "sha3-384":
		return 48
	case "sha512", "sha3-512", "blake2b-512":
		return 64
	}
	return 0
}

func (f *faults) checkBase64(where, s string, least, most int) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		f.add("%s: not base64", where)
		return
	}
	if len(b) < least || len(b) > most {
		f.add("%s: %d bytes, want %d to %d", where, len(b), least, most)
	}
}

// checkSlots judges each slot, fills in h.Slots and returns offset and length of
// each slot's key material.
func (f *faults) checkSlots(h *Header, m metadata, hdrSize, size int64) [][2]int64 {
	if len(m.Keyslots) == 0 || len(m.Keyslots) > maxSlots {
		f.add("%d key slots, want 1 to %d", len(m.Keyslots), maxSlots)
		return nil
	}
	var areas [][2]int64
	for _, id := range slices.Sorted(maps.Keys(m.Keyslots)) {
		k, where := m.Keyslots[id], fmt.Sprintf("slot %d", id)
		if k.Type != "luks2" {
			f.add("%s: type %q", where, k.Type)
			continue
		}
		if k.Area.Type != "raw" || k.Af.Type != "luks1" || k.Af.Stripes != stripes {
			f.add("%s: area %q, splitter %q with %d stripes", where, k.Area.Type, k.Af.Type, k.Af.Stripes)
		}
		f.checkHash(where+": splitter", k.Af.Hash)
		f.checkCipher(where, k.Area.Encryption, int(min(k.Area.KeySize, 1<<16)))
		if k.KeySize != 64 {
			f.add("%s: volume key of %d bits, want 512 (AES-256 in XTS)", where, k.KeySize*8)
		}
		f.checkKDF(where, k)
		offset, err1 := k.Area.Offset.Int64()
		length, err2 := k.Area.Size.Int64()
		if err1 != nil || err2 != nil || offset%512 != 0 {
			f.add("%s: area at %q with %q bytes", where, k.Area.Offset, k.Area.Size)
			continue
		}
		if need := int64(64 * stripes); length < need {
			f.add("%s: area of %d bytes, want %d", where, length, need)
			continue
		}
		// Both header copies come first.
		if offset < 2*hdrSize {
			f.add("%s: area at byte %d lies in the header", where, offset)
			continue
		}
		if f.checkRange(where, offset, int64(64*stripes), size) {
			areas = append(areas, [2]int64{offset, 64 * stripes})
		}
		if k.Priority != nil && *k.Priority == 0 {
			continue // "ignore": only if named by hand
		}
		if covered(m, id) {
			h.Slots = append(h.Slots, Slot{ID: id, KDF: k.Kdf.Type, Iterations: int(k.Kdf.Iterations), Time: int(k.Kdf.Time), MemoryKiB: int(k.Kdf.Memory), CPUs: int(k.Kdf.Cpus)})
		}
	}
	if len(h.Slots) == 0 && len(*f) == 0 {
		f.add("no key slot opens the segment")
	}
	return areas
}

func (f *faults) checkKDF(where string, k keyslot) {
	f.checkBase64(where+": salt", k.Kdf.Salt, 1, maxSaltBytes)
	switch k.Kdf.Type {
	case "pbkdf2":
		f.checkHash(where, k.Kdf.Hash)
		if n := k.Kdf.Iterations; n == 0 || n > maxIterations {
			f.add("%s: pbkdf2 with %d iterations, at most %d are allowed", where, n, maxIterations)
		}
	case "argon2i", "argon2id":
		if n := k.Kdf.Memory; n < 8 || n > MaxMemoryKiB {
			f.add("%s: %s with %d KiB of memory, at most %d are allowed", where, k.Kdf.Type, n, MaxMemoryKiB)
		}
		if n := k.Kdf.Time; n == 0 || n > maxArgonTime {
			f.add("%s: %s with %d passes, at most %d are allowed", where, k.Kdf.Type, n, maxArgonTime)
		}
		if n := k.Kdf.Cpus; n == 0 || n > maxArgonCPUs {
			f.add("%s: %s with %d threads, at most %d are allowed", where, k.Kdf.Type, n, maxArgonCPUs)
		}
	default:
		f.add("%s: key derivation %q is not known", where, k.Kdf.Type)
	}
}

// covered tells whether a digest ties the slot to a segment.
func covered(m metadata, slot int) bool {
	for _, d := range m.Digests {
		if len(d.Segments) == 0 {
			continue
		}
		for _, k := range d.Keyslots {
			if n, err := k.Int64(); err == nil && n == int64(slot) {
				return true
			}
		}
	}
	return false
}
