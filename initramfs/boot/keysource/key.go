// Package keysource fetches the key file of a volume from the first place that
// has it. init uses it to open volumes, wardctl to format one on first boot.
//
//	key, source, err := keysource.Fetch(ctx, keysource.Request{
//		KeyFile: "phi-data.key", Sources: config.Sources, Disks: set, Log: log,
//	})
//	defer key.Wipe()
//
// A source only reads; none asks a person, and none writes to where the key came
// from. Sources that need a network or a TPM are in packages of their own, so
// that an init without them stays small: see Request.More.
package keysource

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

// A key file has at least 32 bytes, because its slot is not stretched, and at
// most 8 KiB, cryptsetup's limit for key files that it makes itself.
const (
	MinBytes = handoff.MinKey
	MaxBytes = handoff.MaxKey
)

// bufferBytes is the mapping of a key: whole pages, also for direct reads.
const bufferBytes = 16 << 10

// Key is a key file's content in memory that is locked (no swap), left out of
// core dumps and not part of the Go heap, which moves and copies.
type Key struct {
	mem   []byte
	n     int
	slots []int
}

// NewKey returns an empty key with room for MaxBytes.
func NewKey() (*Key, error) {
	mem, err := unix.Mmap(-1, 0, bufferBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memory for a key: %w", err)
	}
	if err := unix.Mlock(mem); err != nil {
		_ = unix.Munmap(mem)
		return nil, fmt.Errorf("lock memory for a key: %w", err)
	}
	// Best effort: kernels without these still have the lock.
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	_ = unix.Madvise(mem, unix.MADV_WIPEONFORK)
	return &Key{mem: mem}, nil
}

// KeyOf copies b into a new key and wipes b.
func KeyOf(b []byte) (*Key, error) {
	defer clear(b)
	if err := checkLength(len(b)); err != nil {
		return nil, err
	}
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	k.n = copy(k.mem, b)
	return k, nil
}

// KeyFor is KeyOf for a key that is known to belong to some slots of the volume;
// they are tried first, whatever they cost.
func KeyFor(b []byte, slots []int) (*Key, error) {
	k, err := KeyOf(b)
	if err == nil {
		k.slots = slots
	}
	return k, err
}

// ReadKey reads a key file to its end.
func ReadKey(r io.Reader) (*Key, error) {
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	n, err := io.ReadFull(r, k.mem[:MaxBytes+1])
	switch {
	case err == nil:
		err = fmt.Errorf("key file of more than %d bytes", MaxBytes)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err = checkLength(n)
	}
	if err != nil {
		k.Wipe()
		return nil, err
	}
	k.n = n
	return k, nil
}

func checkLength(n int) error {
	if n < MinBytes || n > MaxBytes {
		return fmt.Errorf("key file of %d bytes, want %d to %d", n, MinBytes, MaxBytes)
	}
	return nil
}

// Bytes is the key itself, not a copy. It must not be used after Wipe.
func (k *Key) Bytes() []byte { return k.mem[:k.n:k.n] }

// Slots are the key slots that the key is for, nil if its source does not know.
func (k *Key) Slots() []int { return k.slots }

// Wipe overwrites and returns the memory. A nil or wiped key is fine.
func (k *Key) Wipe() {
	if k == nil || k.mem == nil {
		return
	}
	clear(k.mem)
	_ = unix.Munmap(k.mem)
	k.mem, k.n = nil, 0
}

// String and Format keep a key out of logs by mistake.
func (k *Key) String() string   { return "key (hidden)" }
func (k *Key) GoString() string { return k.String() }
