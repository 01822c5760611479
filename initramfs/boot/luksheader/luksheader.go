// Package luksheader reads a LUKS header and judges it before any key is asked
// for: only aes-xts with 256-bit strength, no null cipher anywhere, and key
// derivation that a machine can afford. It derives no key; luks.go does that,
// from the copy that Read has checked (Header.Copy), so that a device which
// answers differently the second time gains nothing.
//
// Sources: LUKS2 On-Disk Format Specification 1.1.1, LUKS On-Disk Format
// Specification 1.2.3 (both from the cryptsetup project).
package luksheader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrNotLUKS says that the device does not start with a LUKS header.
var ErrNotLUKS = errors.New("no LUKS header")

// ErrRefused marks a header that is not acceptable, whatever the key.
var ErrRefused = errors.New("header refused")

// Limits. cryptsetup itself makes at most 4 GiB of Argon2 memory and, by
// default, 1 GiB; the rest is generous against what its benchmark chooses.
const (
	MaxMemoryKiB   = 4 << 20 // Argon2 memory of one slot
	maxArgonTime   = 100
	maxArgonCPUs   = 16
	maxIterations  = 50_000_000 // PBKDF2
	maxSlots       = 32
	maxSaltBytes   = 256
	minHeaderBytes = 16 << 10
	maxHeaderBytes = 4 << 20
	stripes        = 4000
)

// Header is a header that has passed.
type Header struct {
	Version int // 1 or 2
	UUID    string
	Label   string
	Slots   []Slot // cheapest first: the order in which to try them
	Tokens  []Token
	Damage  error // of the first of LUKS2's two copies; nil: there is none

	parts []part // what Copy writes
}

// Slot is one key slot.
type Slot struct {
	ID         int
	KDF        string // "pbkdf2", "argon2i", "argon2id"
	Iterations int    // pbkdf2
	Time       int    // argon2
	MemoryKiB  int    // argon2
	CPUs       int    // argon2
}

// Token is LUKS2 metadata about how a slot's key is obtained.
type Token struct {
	Type string
	JSON []byte
}

type part struct {
	offset int64
	data   []byte
}

// Minimal tells whether a slot costs next to nothing, which is right for a key
// of 512 random bits: stretching adds nothing to it.
func (s Slot) Minimal() bool {
	return s.KDF == "pbkdf2" && s.Iterations <= 100_000 || s.KDF != "pbkdf2" && s.MemoryKiB <= 64<<10 && s.Time <= 8
}

// cost is a rough number of hash computations, to sort by.
func (s Slot) cost() int64 {
	if s.KDF == "pbkdf2" {
		return int64(s.Iterations)
	}
	return int64(s.MemoryKiB) * int64(s.Time) * 16 // a KiB is 16 Blake2 blocks
}

// Read reads and judges the header of a device of size bytes. The error wraps
// ErrNotLUKS or ErrRefused, or is one of reading; it names every fault.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	first := make([]byte, 4096)
	if _, err := r.ReadAt(first, 0); err != nil {
		if err == io.EOF {
			return nil, fmt.Errorf("%w: the device has less than %d bytes", ErrNotLUKS, len(first))
		}
		return nil, err
	}
	if !bytes.HasPrefix(first, []byte("LUKS\xba\xbe")) {
		return nil, ErrNotLUKS
	}
	switch v := binary.BigEndian.Uint16(first[6:]); v {
	case 1:
		return read1(r, size, first)
	case 2:
		return read2(r, size, first)
	default:
		return nil, fmt.Errorf("%w: LUKS version %d is not known", ErrRefused, v)
	}
}

// Copy writes what the header and its key slots hold to the same places of w.
func (h *Header) Copy(w io.WriterAt) error {
	for _, p := range h.parts {
		if _, err := w.WriteAt(p.data, p.offset); err != nil {
			return err
		}
	}
	return nil
}

// faults collects what is wrong with a header.
type faults []string

func (f *faults) add(format string, a ...any) { *f = append(*f, fmt.Sprintf(format, a...)) }

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, strings.Join(f, "; "))
}

// checkCipher judges the cipher of the data or of a slot's key material.
// Key size is in bytes; aes-xts uses half of it for each of its two keys, so 64
// is AES-256.
func (f *faults) checkCipher(where, spec string, keyBytes int) {
	switch {
	case strings.Contains(spec, "null"):
		f.add("%s: cipher %q does not encrypt", where, spec)
	case spec != "aes-xts-plain64":
		f.add("%s: cipher %q is not on the list (aes-xts-plain64)", where, spec)
	case keyBytes != 64:
		f.add("%s: key of %d bits, want 512 (AES-256 in XTS)", where, keyBytes*8)
	}
}

var hashes = []string{"sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "blake2b-512", "blake2s-256"}

func (f *faults) checkHash(where, name string) {
	if !slices.Contains(hashes, name) {
		f.add("%s: hash %q is not on the list (%s)", where, name, strings.Join(hashes, ", "))
	}
}

// checkRange tells whether [offset, offset+length) lies inside the device.
func (f *faults) checkRange(where string, offset, length, size int64) bool {
	if offset < 0 || length <= 0 || offset > size-length {
		f.add("%s: bytes %d to %d are outside of the device of %d bytes", where, offset, offset+length, size)
		return false
	}
	return true
}

func sortSlots(slots []Slot) {
	slices.SortFunc(slots, func(a, b Slot) int {
		if a.cost() != b.cost() {
			if a.cost() < b.cost() {
				return -1
			}
			return 1
		}
		return a.ID - b.ID
	})
}

func readPart(r io.ReaderAt, offset, length int64) (part, error) {
	p := part{offset, make([]byte, length)}
	_, err := r.ReadAt(p.data, offset)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// isUUID keeps what goes into names, logs and pins to hex digits and hyphens.
func isUUID(s string) bool {
	return len(s) == 36 && strings.Trim(s, "0123456789abcdef-") == ""
}
