package initramfs_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ward/builder/vm"
	"ward/initramfs/handoff"
)

// changeHeader changes the JSON text of the primary LUKS2 header and writes a
// right checksum, as somebody would who can write to the disk.
func changeHeader(t *testing.T, data []byte, change func(string) string) []byte {
	t.Helper()
	out := bytes.Clone(data)
	size := int(binary.BigEndian.Uint64(out[8:]))
	area := out[4096:size]
	text := string(area[:bytes.IndexByte(area, 0)])
	changed := change(text)
	if changed == text {
		t.Fatalf("nothing was changed in %s", text)
	}
	clear(area)
	copy(area, changed)
	clear(out[448:512])
	sum := sha256.Sum256(out[:size])
	copy(out[448:], sum[:])
	return out
}

// changeJSON is changeHeader on the decoded text.
func changeJSON(t *testing.T, data []byte, change func(m map[string]any)) []byte {
	t.Helper()
	return changeHeader(t, data, func(s string) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	})
}

// at walks down nested objects.
func at(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m = m[p].(map[string]any)
	}
	return m
}

// pins is the file of pins for a volume.
func pins(t *testing.T, uuid string, volumeKey []byte) map[string][]byte {
	t.Helper()
	mac := hmac.New(sha256.New, volumeKey)
	mac.Write([]byte(handoff.PinMessage))
	data, err := json.Marshal(handoff.Pins{Version: handoff.Version, Volumes: []handoff.Pin{
		{Name: "phi-data", LUKSUUID: uuid, Digest: hex.EncodeToString(mac.Sum(nil))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{strings.TrimPrefix(handoff.PinsPath, "/"): data}
}

// TestDoesNotOpen boots a machine for each thing that can be wrong. Each boots
// to its real init, without PHI, and says why.
func TestDoesNotOpen(t *testing.T) {
	k, other := newKeys(t), newKeys(t)
	good := luks(t, k)
	goodKey := map[string][]byte{"phi-data.key": k.file}
	img := buildInitramfs(t, config(handoff.Source{Type: "device", Label: handoff.KeyLabel, TimeoutMS: 4000}))
	for _, c := range []struct {
		name   string
		phi    []byte
		key    map[string][]byte // nil: no key device
		root   map[string][]byte
		state  handoff.State
		reason string
	}{
		{"wrong key", good, map[string][]byte{"phi-data.key": other.file}, nil, handoff.StateLocked, "the key opens none of the 1 slots"},
		{"no key device", good, nil, nil, handoff.StateLocked, "no file system with label WARD-KEY"},
		{"key device without the file", good, map[string][]byte{"other.key": k.file}, nil, handoff.StateLocked, "phi-data.key: no such file"},
		{"empty key file", good, map[string][]byte{"phi-data.key": {}}, nil, handoff.StateLocked, "key file of 0 bytes"},
		{"short key file", good, map[string][]byte{"phi-data.key": []byte("secret")}, nil, handoff.StateLocked, "key file of 6 bytes"},
		{"truncated header", func() []byte { d := bytes.Clone(good); clear(d[4096+500 : 1<<20]); return d }(), goodKey, nil, handoff.StateRefused, "checksum is wrong"},
		{"partition smaller than its header", good[:8<<10], goodKey, nil, handoff.StateRefused, "truncated"},
		{"null cipher of the data", changeJSON(t, good, func(m map[string]any) { at(m, "segments", "0")["encryption"] = "cipher_null-ecb" }), goodKey, nil, handoff.StateRefused, "segment 0: cipher \"cipher_null-ecb\" does not encrypt"},
		{"null cipher of a slot", changeJSON(t, good, func(m map[string]any) { at(m, "keyslots", "0", "area")["encryption"] = "cipher_null-ecb" }), goodKey, nil, handoff.StateRefused, "slot 0: cipher \"cipher_null-ecb\" does not encrypt"},
		{"argon2 with 1 TiB", changeJSON(t, good, func(m map[string]any) {
			at(m, "keyslots", "0")["kdf"] = map[string]any{"type": "argon2id", "time": 4, "memory": 1 << 30, "cpus": 4, "salt": at(m, "keyslots", "0", "kdf")["salt"]}
		}), goodKey, nil, handoff.StateRefused, "argon2id with 1073741824 KiB of memory"},
		{"another LUKS UUID than the pinned one", good, goodKey, pins(t, other.uuid, k.volume), handoff.StateRefused, "swapped volume: its LUKS UUID is " + k.uuid},
		{"another volume key than the pinned one", good, goodKey, pins(t, k.uuid, other.volume), handoff.StateRefused, "swapped volume: it has the right LUKS UUID and another volume key"},
		{"pins that cannot be read", good, goodKey, map[string][]byte{"etc/ward/pins.json": []byte("{")}, handoff.StateRefused, "pins: unexpected EOF"},
		{"blank", make([]byte, phiMiB<<20), goodKey, nil, handoff.StateBlank, "is blank"},
		{"blank where a volume is pinned", make([]byte, phiMiB<<20), goodKey, pins(t, k.uuid, k.volume), handoff.StateRefused, "swapped or wiped"},
		{"neither LUKS nor blank", append(make([]byte, 8<<20), []byte("somebody's data")...), goodKey, nil, handoff.StateRefused, "not blank: nothing is touched"},
	} {
		t.Run(c.name, func(t *testing.T) {
			phi := c.phi
			if n := len(phi) % 4096; n != 0 {
				phi = append(bytes.Clone(phi), make([]byte, 4096-n)...)
			}
			m := machine{initramfs: img, disk: disk(t, rootPart(rootFS(t, c.root)), phiPart(phi))}
			if c.key != nil {
				m.key = keyDevice(t, "ext4", c.key)
			}
			s, console := boot(t, m)
			expect(t, s, console, c.state, c.reason)
			for _, secret := range [][]byte{k.file, other.file} {
				if strings.Contains(console+s.Klog, hex.EncodeToString(secret[:8])) || strings.Contains(console, string(secret[:8])) {
					t.Error("the console or the kernel log holds key bytes")
				}
			}
		})
	}
}

// TestDuplicate attaches a copy of the disk with PHI.
func TestDuplicate(t *testing.T) {
	k := newKeys(t)
	phi := luks(t, k)
	key := keyDevice(t, "ext4", map[string][]byte{"phi-data.key": k.file})
	img := buildInitramfs(t, config())
	t.Run("of the volume", func(t *testing.T) {
		copied := part{"copy", "0fc63daf-8483-4772-8e79-3d69d8477de4", "22222222-52a1-4a6f-9f0e-8d5b7a3c6e04", phi}
		s, console := boot(t, machine{
			initramfs: img, key: key, disk: disk(t, rootPart(rootFS(t, nil)), phiPart(phi)),
			disks: []vm.Disk{{File: disk(t, copied), Format: "raw"}},
		})
		expect(t, s, console, handoff.StateRefused, "duplicate: ")
	})
	t.Run("of the whole disk", func(t *testing.T) {
		d := disk(t, rootPart(rootFS(t, nil)), phiPart(phi))
		s, console := boot(t, machine{initramfs: img, key: key, disk: d, bus: "nvme", disks: []vm.Disk{{File: d, Format: "raw", Bus: "nvme", ReadOnly: true}}})
		if s != nil {
			t.Error("the machine went on with one of two equal roots")
		}
		if want := "both have PARTUUID=" + rootPartUUID + ": detach the copy"; !strings.Contains(console, want) {
			t.Errorf("the console has no line with %q", want)
		}
	})
}

// TestHalt is the strict policy: no PHI, no machine.
func TestHalt(t *testing.T) {
	k := newKeys(t)
	c := config(handoff.Source{Type: "device", Label: handoff.KeyLabel, TimeoutMS: 1000})
	c.OnFailure = handoff.Halt
	img := buildInitramfs(t, c)
	d := disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k)))
	t.Run("without a key", func(t *testing.T) {
		s, console := boot(t, machine{initramfs: img, disk: d})
		if s != nil {
			t.Error("the machine went on")
		}
		for _, want := range []string{"phi-data is not open (locked)", "ward-init: halt: the policy is on_failure=halt and phi-data is locked"} {
			if !strings.Contains(console, want) {
				t.Errorf("the console has no line with %q", want)
			}
		}
	})
	t.Run("with the key", func(t *testing.T) {
		s, console := boot(t, machine{initramfs: img, disk: d, key: keyDevice(t, "ext4", map[string][]byte{"phi-data.key": k.file})})
		expect(t, s, console, handoff.StateOpened, "")
	})
}

// TestNoRoot has nothing to go on with: it says so and switches off, it does not
// panic or ask.
func TestNoRoot(t *testing.T) {
	s, console := boot(t, machine{
		initramfs: buildInitramfs(t, config()),
		disk:      disk(t, phiPart(make([]byte, 1<<20))),
		append:    "ward.timeout=3",
	})
	if s != nil {
		t.Error("the machine went on without root")
	}
	if want := fmt.Sprintf("ward-init: root: no device with PARTUUID=%s appeared in 3s", rootPartUUID); !strings.Contains(console, want) {
		t.Errorf("the console has no line %q", want)
	}
}
