package luksheader

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anatol/luks.go"
)

const volumeBytes = 20 << 20

// format makes a volume with cryptsetup. Each kind is made once.
func format(t testing.TB, args ...string) []byte {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	name := strings.Join(args, " ")
	if data, ok := made.volumes[name]; ok {
		return bytes.Clone(data)
	}
	dir := t.TempDir()
	path, key := filepath.Join(dir, "volume"), filepath.Join(dir, "key")
	for p, data := range map[string][]byte{path: make([]byte, volumeBytes), key: bytes.Repeat([]byte("k"), 64)} {
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	argv := append([]string{"luksFormat", "--batch-mode", "--uuid", "01234567-89ab-4cde-8f01-23456789abcd", "--key-file", key}, args...)
	if out, err := exec.Command("cryptsetup", append(argv, path)...).CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup %v: %v: %s", argv, err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	made.volumes[name] = data
	return bytes.Clone(data)
}

var made = struct {
	sync.Mutex
	volumes map[string][]byte
}{volumes: map[string][]byte{}}

var (
	v2 = []string{"--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	v1 = []string{"--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf-force-iterations", "1000"}
)

func TestReadAccepts(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		version int
		slot    Slot
		minimal bool
	}{
		{"LUKS2", v2, 2, Slot{ID: 0, KDF: "pbkdf2", Iterations: 1000}, true},
		{"LUKS1", v1, 1, Slot{ID: 0, KDF: "pbkdf2", Iterations: 1000}, true},
		{"argon2id", []string{"--type", "luks2", "--key-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "131072", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"}, 2,
			Slot{ID: 0, KDF: "argon2id", Time: 4, MemoryKiB: 131072, CPUs: 2}, false},
	} {
		h, err := Read(bytes.NewReader(format(t, c.args...)), volumeBytes)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if h.Version != c.version || h.UUID != "01234567-89ab-4cde-8f01-23456789abcd" || len(h.Slots) != 1 || h.Slots[0] != c.slot {
			t.Errorf("%s: %+v, want version %d with slot %+v", c.name, h, c.version, c.slot)
		}
		if got := h.Slots[0].Minimal(); got != c.minimal {
			t.Errorf("%s: Minimal() = %v, want %v", c.name, got, c.minimal)
		}
	}
}

// TestCopy: cryptsetup itself must be able to use the copy.
func TestCopy(t *testing.T) {
	for _, args := range [][]string{v1, v2} {
		h, err := Read(bytes.NewReader(format(t, args...)), volumeBytes)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		path, key := filepath.Join(dir, "copy"), filepath.Join(dir, "key")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := h.Copy(f); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(volumeBytes); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 64), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", key, path).CombinedOutput(); err != nil {
			t.Errorf("%s %s: cryptsetup does not open the copy: %v: %s", args[0], args[1], err, out)
		}
	}
}

// change applies f to the JSON text and makes the checksum right.
func change(t testing.TB, data []byte, f func(m map[string]any)) []byte {
	t.Helper()
	size := int(binary.BigEndian.Uint64(data[8:]))
	area := data[4096:size]
	var m map[string]any
	if err := json.Unmarshal(area[:bytes.IndexByte(area, 0)], &m); err != nil {
		t.Fatal(err)
	}
	f(m)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	clear(area)
	copy(area, text)
	return sum(data)
}

func sum(data []byte) []byte {
	size := int(binary.BigEndian.Uint64(data[8:]))
	clear(data[448:512])
	s := sha256.Sum256(data[:size])
	copy(data[448:], s[:])
	return data
}

func at(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m = m[p].(map[string]any)
	}
	return m
}

func TestReadRefusesLUKS2(t *testing.T) {
	slot := func(m map[string]any) map[string]any { return at(m, "keyslots", "0") }
	argon := func(k, v string, n int) func(map[string]any) {
		return func(m map[string]any) {
			kdf := map[string]any{"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1, "salt": at(slot(m), "kdf")["salt"]}
			kdf[v] = n
			slot(m)["kdf"] = kdf
		}
	}
	for _, c := range []struct {
		name   string
		change func(m map[string]any)
		want   string
	}{
		{"null cipher of the data", func(m map[string]any) { at(m, "segments", "0")["encryption"] = "cipher_null-ecb" }, "segment 0: cipher \"cipher_null-ecb\" does not encrypt"},
		{"null cipher, capitals", func(m map[string]any) { at(m, "segments", "0")["encryption"] = "capi:ecb(cipher_null)-x" }, "does not encrypt"},
		{"null cipher of a slot", func(m map[string]any) { at(slot(m), "area")["encryption"] = "cipher_null-ecb" }, "slot 0: cipher"},
		{"cbc", func(m map[string]any) { at(m, "segments", "0")["encryption"] = "aes-cbc-essiv:sha256" }, "is not on the list"},
		{"serpent", func(m map[string]any) { at(m, "segments", "0")["encryption"] = "serpent-xts-plain64" }, "is not on the list"},
		{"AES-128", func(m map[string]any) { slot(m)["key_size"] = 32 }, "volume key of 256 bits"},
		{"AES-128 in the slot", func(m map[string]any) { at(slot(m), "area")["key_size"] = 32 }, "slot 0: key of 256 bits"},
		{"linear segment", func(m map[string]any) { at(m, "segments", "0")["type"] = "linear" }, "type \"linear\" does not encrypt"},
		{"two segments", func(m map[string]any) { at(m, "segments")["1"] = at(m, "segments", "0") }, "2 segments"},
		{"integrity", func(m map[string]any) { at(m, "segments", "0")["integrity"] = map[string]any{"type": "none"} }, "integrity"},
		{"segment outside", func(m map[string]any) { at(m, "segments", "0")["offset"] = "99999999999" }, "outside of the device"},
		{"negative offset", func(m map[string]any) { at(m, "segments", "0")["offset"] = "-4096" }, "outside of the device"},
		{"sector size", func(m map[string]any) { at(m, "segments", "0")["sector_size"] = 0 }, "sectors of 0 bytes"},
		{"1 TiB of memory", argon("kdf", "memory", 1<<30), "argon2id with 1073741824 KiB of memory, at most 4194304"},
		{"a million passes", argon("kdf", "time", 1_000_000), "1000000 passes"},
		{"a thousand threads", argon("kdf", "cpus", 1000), "1000 threads"},
		{"no threads", argon("kdf", "cpus", 0), "0 threads"},
		{"two billion iterations", func(m map[string]any) { at(slot(m), "kdf")["iterations"] = 2_000_000_000 }, "2000000000 iterations"},
		{"two billion iterations of the digest", func(m map[string]any) { at(m, "digests", "0")["iterations"] = 2_000_000_000 }, "digest 0: 2000000000 iterations"},
		{"unknown derivation", func(m map[string]any) { at(slot(m), "kdf")["type"] = "scrypt" }, "key derivation \"scrypt\""},
		{"sha1", func(m map[string]any) { at(slot(m), "kdf")["hash"] = "sha1" }, "hash \"sha1\" is not on the list"},
		{"one stripe", func(m map[string]any) { at(slot(m), "af")["stripes"] = 1 }, "with 1 stripes"},
		{"area in the header", func(m map[string]any) { at(slot(m), "area")["offset"] = "4096" }, "lies in the header"},
		{"area outside", func(m map[string]any) { at(slot(m), "area")["offset"] = "999999999488" }, "outside of the device"},
		{"short digest", func(m map[string]any) { at(m, "digests", "0")["digest"] = "AAAA" }, "digest 0: digest: 3 bytes"},
		{"long digest", func(m map[string]any) {
			at(m, "digests", "0")["digest"] = strings.Repeat("AAAA", 20)
		}, "longer than sha256"},
		{"no slot", func(m map[string]any) { m["keyslots"] = map[string]any{} }, "0 key slots"},
		{"slot without a digest", func(m map[string]any) { at(m, "digests", "0")["keyslots"] = []string{} }, "no key slot opens the segment"},
		{"being re-encrypted", func(m map[string]any) {
			at(m, "config")["requirements"] = map[string]any{"mandatory": []string{"online-reencrypt-v2"}}
		}, "requirements"},
		{"unknown flag", func(m map[string]any) { at(m, "config")["flags"] = []string{"no-journal"} }, "flag \"no-journal\""},
	} {
		data := change(t, format(t, v2...), c.change)
		_, err := Read(bytes.NewReader(data), volumeBytes)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Read = %v, want %v with %q", c.name, err, ErrRefused, c.want)
		}
	}
}

// TestReadNamesEveryFault has two at once.
func TestReadNamesEveryFault(t *testing.T) {
	data := change(t, format(t, v2...), func(m map[string]any) {
		at(m, "segments", "0")["encryption"] = "cipher_null-ecb"
		at(m, "keyslots", "0", "kdf")["iterations"] = 0
	})
	_, err := Read(bytes.NewReader(data), volumeBytes)
	for _, want := range []string{"does not encrypt", "with 0 iterations"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read = %v, want an error with %q", err, want)
		}
	}
}

func TestReadRefusesBinary(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		change func([]byte) []byte
		kind   error
		want   string
	}{
		{"no magic", v2, func(b []byte) []byte { b[0] = 0; return b }, ErrNotLUKS, ""},
		{"nothing", v2, func(b []byte) []byte { return nil }, ErrNotLUKS, "less than"},
		{"version 3", v2, func(b []byte) []byte { b[7] = 3; return b }, ErrRefused, "version 3"},
		{"truncated", v2, func(b []byte) []byte { return b[:8192] }, ErrRefused, "truncated"},
		{"wiped half, and no second copy", v2, func(b []byte) []byte { clear(b[8192:16385]); b[4200]++; return b }, ErrRefused, "checksum is wrong"},
		{"both copies damaged", v2, func(b []byte) []byte { b[4200]++; b[16384+4200]++; return b }, ErrRefused, "checksum is wrong"},
		{"4 GiB of header, and no second copy", v2, func(b []byte) []byte { b[16384] = 0; binary.BigEndian.PutUint64(b[8:], 4<<30); return b }, ErrRefused, "header size"},
		{"no end of JSON", v2, func(b []byte) []byte { copy(b[4096:16384], bytes.Repeat([]byte(" "), 12288)); return sum(b) }, ErrRefused, "does not end"},
		{"no JSON", v2, func(b []byte) []byte { b[4096] = '}'; return sum(b) }, ErrRefused, "metadata: "},
		{"UUID", v2, func(b []byte) []byte { copy(b[168:], "../../etc/passwd\x00"); return sum(b) }, ErrRefused, "UUID \"../../etc/passwd\" is none"},
		{"secondary in the place of the primary", v2, func(b []byte) []byte { binary.BigEndian.PutUint64(b[256:], 16384); return sum(b) }, ErrRefused, "lies at byte 16384"},
		{"LUKS1 null cipher", v1, func(b []byte) []byte { copy(b[8:40], "cipher_null\x00"); copy(b[40:72], "ecb\x00"); return b }, ErrRefused, "does not encrypt"},
		{"LUKS1 AES-128", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[108:], 32); return b }, ErrRefused, "key of 256 bits"},
		{"LUKS1 iterations", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[212:], 0xffffffff); return b }, ErrRefused, "4294967295 iterations"},
		{"LUKS1 digest", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[164:], 0); return b }, ErrRefused, "digest: 0 iterations"},
		{"LUKS1 material outside", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[248:], 1<<30); return b }, ErrRefused, "outside of the device"},
		{"LUKS1 material in the header", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[248:], 0); return b }, ErrRefused, "lies in the header"},
		{"LUKS1 no slot", v1, func(b []byte) []byte { binary.BigEndian.PutUint32(b[208:], 0xdead); return b }, ErrRefused, "no active key slot"},
		{"LUKS1 md5", v1, func(b []byte) []byte { copy(b[72:104], "md5\x00"); return b }, ErrRefused, "hash \"md5\""},
	} {
		data := c.change(format(t, c.args...))
		_, err := Read(bytes.NewReader(data), int64(len(data)))
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Read = %v, want %v with %q", c.name, err, c.kind, c.want)
		}
	}
}

// TestReadSecondCopy: what a loss of power does to the first copy of the header
// while it is written does not lose the volume. cryptsetup reads the copy that
// luks.go gets.
func TestReadSecondCopy(t *testing.T) {
	for name, damage := range map[string]func([]byte){
		"half of the JSON": func(b []byte) { clear(b[8192:16384]); b[4200]++ },
		"checksum":         func(b []byte) { b[448]++ },
		"size":             func(b []byte) { binary.BigEndian.PutUint64(b[8:], 4<<30) },
	} {
		t.Run(name, func(t *testing.T) {
			data := format(t, v2...)
			want, err := Read(bytes.NewReader(data), int64(len(data)))
			if err != nil || want.Damage != nil {
				t.Fatalf("Read = %v, damage %v", err, want.Damage)
			}
			damage(data)
			h, err := Read(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			if h.Damage == nil || !strings.Contains(h.Damage.Error(), "the second one was used") {
				t.Errorf("Read says of the damage: %v", h.Damage)
			}
			if h.UUID != want.UUID || !slices.Equal(h.Slots, want.Slots) {
				t.Errorf("Read = %+v from the second copy, want %+v", h, want)
			}
			file := filepath.Join(t.TempDir(), "header")
			f, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(h.Copy(f), f.Truncate(volumeBytes), f.Close()); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("cryptsetup", "luksUUID", file).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != want.UUID {
				t.Errorf("cryptsetup luksUUID of the copy: %v, %s", err, out)
			}
			if d, err := luks.OpenWithHeader(file, file); err != nil {
				t.Errorf("luks.go does not read the copy: %v", err)
			} else {
				d.Close()
			}
		})
	}
}

// TestOrder: the cheapest slot is tried first, whatever its number.
func TestOrder(t *testing.T) {
	data := change(t, format(t, v2...), func(m map[string]any) {
		text, err := json.Marshal(at(m, "keyslots", "0"))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"1", "2"} {
			var s map[string]any
			if err := json.Unmarshal(text, &s); err != nil {
				t.Fatal(err)
			}
			at(m, "keyslots")[id] = s
		}
		at(m, "keyslots", "0")["kdf"] = map[string]any{"type": "argon2id", "time": 4, "memory": 1 << 20, "cpus": 1, "salt": "AAAA"}
		at(m, "keyslots", "1", "kdf")["iterations"] = 5000
		at(m, "keyslots", "2")["priority"] = 0 // never by itself
		at(m, "digests", "0")["keyslots"] = []string{"0", "1", "2"}
	})
	h, err := Read(bytes.NewReader(data), volumeBytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Slots) != 2 || h.Slots[0].ID != 1 || h.Slots[1].ID != 0 {
		t.Errorf("slots are %+v, want 1 then 0", h.Slots)
	}
}

// FuzzRead changes text and first bytes of real headers; the checksum is made
// right, so that the input gets past it.
func FuzzRead(f *testing.F) {
	for _, args := range [][]string{v2, v1} {
		data := format(f, args...)
		f.Add(data[:4096], data[4096:16384])
	}
	f.Fuzz(func(t *testing.T, head, text []byte) {
		data := make([]byte, 1<<20)
		copy(data, head)
		if len(head) > 4096 {
			copy(data[4096:], make([]byte, len(data)-4096))
		}
		copy(data[4096:16384], text)
		if binary.BigEndian.Uint64(data[8:]) == 16384 {
			sum(data)
		}
		h, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if !isUUID(h.UUID) || len(h.Slots) == 0 {
			t.Errorf("accepted: %+v", h)
		}
		for _, s := range h.Slots {
			if s.MemoryKiB > MaxMemoryKiB || s.Iterations > maxIterations || s.Time > maxArgonTime {
				t.Errorf("accepted: %+v", s)
			}
		}
	})
}

// TestFuzzSeedGetsPast: the seeds of FuzzRead are not all refused at the door.
func TestFuzzSeedGetsPast(t *testing.T) {
	data := format(t, v2...)
	if _, err := Read(bytes.NewReader(sum(data)), volumeBytes); err != nil {
		t.Errorf("the seed is refused: %v", err)
	}
}
