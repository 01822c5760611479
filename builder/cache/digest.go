package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Sum is the SHA-256 of a file, in hex.
func Sum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, onlyReader{f}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// onlyReader hides WriteTo, so that CopyBuffer uses its large buffer.
type onlyReader struct{ io.Reader }

// block is the size of the pieces that digest looks at, in bytes.
const block = 64 << 10

var zeros [block]byte

// digest is the SHA-256 of a file's size and of each block that is not all
// zeros, with its offset. A disk image is mostly holes: hashing them as bytes
// would take most of a build's time. It does not depend on where the holes are.
func digest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	var number [8]byte
	put := func(n int64) {
		binary.LittleEndian.PutUint64(number[:], uint64(n))
		h.Write(number[:])
	}
	put(info.Size())
	buf := make([]byte, block)
	for at := int64(0); at < info.Size(); {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			break
		}
		if err != nil {
			return "", fmt.Errorf("%s: seek data: %w", name, err)
		}
		at = data / block * block
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			put(at)
			h.Write(buf[:n])
		}
		at += int64(n)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
