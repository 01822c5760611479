package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/anatol/luks.go"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/keysource"
)

// Keys pass through libraries that copy them: into the pads of an HMAC, into the
// stack of a hash. The memory of a process that becomes another one is given
// back, not overwritten. So init searches its own memory for what is left, and
// overwrites that, before it goes.

// forms are the shapes in which eight bytes of a key lie in memory: as they are,
// as HMAC's inner and outer pad (RFC 2104), and each of them as the big-endian
// words that SHA-2 computes with.
var forms = []func(uint64) uint64{
	func(w uint64) uint64 { return w },
	func(w uint64) uint64 { return w ^ 0x3636363636363636 },
	func(w uint64) uint64 { return w ^ 0x5c5c5c5c5c5c5c5c },
}

var orders = []func(uint64) uint64{
	func(w uint64) uint64 { return w },
	func(w uint64) uint64 { // 32-bit words, SHA-256
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], w)
		return uint64(binary.BigEndian.Uint32(b[:])) | uint64(binary.BigEndian.Uint32(b[4:]))<<32
	},
	func(w uint64) uint64 { // 64-bit words, SHA-512
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], w)
		return binary.BigEndian.Uint64(b[:])
	},
}

// searcher finds aligned words that are part of a key. 64 random bits do not
// occur by chance, so that eight bytes are enough to know one. The words lie in
// a mapping of their own: on the heap the search would find itself, and end.
type searcher struct {
	mem   []byte
	words []uint64             // in mem
	maybe [1 << 16 / 64]uint64 // a bit for the low 16 bits of each word: what has none is passed over at once
}

func newSearcher(secrets []*keysource.Key) (*searcher, error) {
	n := 0
	for _, k := range secrets {
		n += len(k.Bytes()) / 8 * len(forms) * len(orders)
	}
	mem, err := unix.Mmap(-1, 0, max(n, 1)*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	s := &searcher{mem: mem, words: words(mem)[:0]}
	for _, k := range secrets {
		for b := k.Bytes(); len(b) >= 8; b = b[8:] {
			for _, f := range forms {
				for _, o := range orders {
					w := o(f(binary.LittleEndian.Uint64(b)))
					s.words = append(s.words, w)
					s.maybe[uint16(w)/64] |= 1 << (w % 64)
				}
			}
		}
	}
	return s, nil
}

// words is memory as 64-bit words; b starts at a multiple of eight.
func words(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8)
}

// holds tells whether an address is in the searcher's own memory.
func (s *searcher) holds(at uint64) bool {
	from := uint64(uintptr(unsafe.Pointer(&s.mem[0])))
	return at >= from && at < from+uint64(len(s.mem))
}

// find calls f with the index of each word of buf that is part of a key.
func (s *searcher) find(buf []uint64, f func(i int)) {
	for i, w := range buf {
		if w == 0 || s.maybe[uint16(w)/64]>>(w%64)&1 == 0 {
			continue
		}
		if slices.Contains(s.words, w) {
			f(i)
		}
	}
}

// close forgets what to search for.
func (s *searcher) close() {
	clear(s.mem)
	clear(s.maybe[:])
	_ = unix.Munmap(s.mem)
	s.mem, s.words = nil, nil
}

// wipeSecrets overwrites every copy of the keys in this process, and the keys.
func (m *machine) wipeSecrets() error {
	m.mu.Lock()
	secrets := m.secrets
	m.secrets = nil
	m.mu.Unlock()
	if len(secrets) == 0 {
		return nil
	}
	defer m.timing("wipe")()
	s, err := newSearcher(secrets)
	if err != nil {
		return err
	}
	defer s.close()
	for _, k := range secrets {
		k.Wipe()
	}
	n, err := s.wipeProcess()
	m.log.Debug("copies of keys are overwritten", "words", n)
	return err
}

// wipeProcess goes through the writable private memory of this process. Only
// pages that exist are read: the Go runtime reserves far more than it uses.
func (s *searcher) wipeProcess() (int, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer pagemap.Close()
	// Not in maps, which was read before, so that it does not find itself.
	buf, err := unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buf)
	defer clear(buf)
	total := 0
	for _, line := range strings.Split(string(maps), "\n") {
		var from, to uint64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil || perm != "rw-p" {
			continue
		}
		runs, err := present(pagemap, from, to)
		if err != nil {
			return total, err
		}
		for _, r := range runs {
			for at := r[0]; at < r[1]; at += uint64(len(buf)) {
				n, err := s.wipeAt(mem, buf[:min(r[1]-at, uint64(len(buf)))], at)
				if err != nil {
					return total, fmt.Errorf("own memory at %x: %w", at, err)
				}
				total += n
			}
		}
	}
	return total, nil
}

const pageSize = 4096

// present returns the parts of [from, to) that have pages, in memory or swap:
// bits 63 and 62 of Documentation/admin-guide/mm/pagemap.rst.
func present(pagemap io.ReaderAt, from, to uint64) ([][2]uint64, error) {
	entries := make([]byte, (to-from)/pageSize*8)
	if _, err := pagemap.ReadAt(entries, int64(from/pageSize*8)); err != nil {
		return nil, fmt.Errorf("pagemap: %w", err)
	}
	var runs [][2]uint64
	for i := 0; i+8 <= len(entries); i += 8 {
		if binary.LittleEndian.Uint64(entries[i:])>>62 == 0 {
			continue
		}
		at := from + uint64(i/8)*pageSize
		if n := len(runs); n > 0 && runs[n-1][1] == at {
			runs[n-1][1] += pageSize
			continue
		}
		runs = append(runs, [2]uint64{at, at + pageSize})
	}
	return runs, nil
}

// wipeAt reads one piece of memory and writes zeros over the words that it finds,
// and nothing else: the rest is in use, and has changed since it was read.
func (s *searcher) wipeAt(mem *os.File, part []byte, at uint64) (n int, err error) {
	got, err := mem.ReadAt(part, int64(at))
	if got < 8 {
		return 0, err
	}
	var zero [8]byte
	s.find(words(part[:got]), func(i int) {
		if address := at + uint64(i)*8; !s.holds(address) {
			if _, writeErr := mem.WriteAt(zero[:], int64(address)); writeErr != nil {
				err = writeErr
			}
			n++
		}
	})
	return n, err
}

// takeVolumeKey moves the volume key out of luks.go's volume, which keeps it to
// itself, into locked memory. The kernel gets it through a keyring, as from
// cryptsetup; as a part of a device-mapper table it would pass through buffers
// here and in the kernel that nobody wipes.
func takeVolumeKey(v *luks.Volume) (*keysource.Key, error) {
	f := reflect.ValueOf(v).Elem().FieldByName("key")
	if !f.IsValid() || f.Kind() != reflect.Slice || f.Type().Elem().Kind() != reflect.Uint8 {
		return nil, errors.New("luks.go has changed: a volume has no field key")
	}
	b := f.Bytes()
	if len(b) == 0 || bytes.Equal(b, make([]byte, len(b))) {
		return nil, errors.New("the volume key is empty")
	}
	return keysource.KeyOf(b)
}
