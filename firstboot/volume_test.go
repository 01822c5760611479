package firstboot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
	"ward/profiles"
)

const partUUID = "0b5f3b4a-6a63-4a70-8b5e-2f3a5b1c9d01"

// bench is a machine in a folder: its PHI partition is a plain file, on which
// the real cryptsetup works, and everything that needs device-mapper is acted.
type bench struct {
	*Machine
	t      *testing.T
	dir    string
	part   string
	report handoff.VolumeReport
	tags   map[string]string // of blkid for the partition, beside what the file itself shows
	calls  []string
	after  string // the first cryptsetup whose argv has this in it succeeds, and then the power is cut
	fail   string // the first program whose argv has this in it fails, once
	key    []byte
	noKey  bool
	power  bool      // programs run until the power is cut
	until  time.Time // when it is cut
	dead   bool      // it was cut
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root, dir := openRoot(t)
	b := &bench{t: t, dir: dir, key: make([]byte, 64)}
	rand.Read(b.key)
	b.part = filepath.Join(dir, "dev/vdx3")
	for _, d := range []string{"dev/disk/by-partuuid", "dev/disk/by-uuid", "dev/mapper", "run/ward", "var/lib/ward", "etc/ward"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(b.part)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close(), os.Symlink("../../vdx3", filepath.Join(dir, "dev/disk/by-partuuid", partUUID))); err != nil {
		t.Fatal(err)
	}
	b.tags = map[string]string{"PART_ENTRY_UUID": partUUID, "PART_ENTRY_NAME": "phi-data", "PART_ENTRY_TYPE": handoff.PHIType}
	b.report = handoff.VolumeReport{Name: "phi-data", PartUUID: partUUID, State: handoff.StateBlank}
	log := slog.New(slog.DiscardHandler)
	real := hostRun(log)
	b.Machine = &Machine{root: root, log: log, now: time.Now, console: io.Discard,
		facts: &facts{Release: distro.All[0], Profile: profiles.Profile{Controls: profiles.Controls{PHI: profiles.PHI{OnFailure: "degrade"}}}}}
	b.Machine.key = func(context.Context, []handoff.Source, handoff.Volume) (*keysource.Key, string, error) {
		if b.noKey {
			return nil, "", fmt.Errorf("phi-data.key: %w", keysource.ErrNone)
		}
		k, err := keysource.KeyOf(bytes.Clone(b.key))
		return k, "device", err
	}
	b.Machine.run = func(ctx context.Context, stdin []byte, argv ...string) (string, error) {
		line := strings.Join(argv, " ")
		b.calls = append(b.calls, line)
		if bytes.Contains([]byte(line), b.key[:8]) {
			t.Errorf("the key is an argument: %q", line)
		}
		if b.fail != "" && strings.Contains(line, b.fail) {
			b.fail = ""
			return "", errors.New("power cut")
		}
		mapper := filepath.Join(dir, "dev/mapper/phi-data")
		if b.dead {
			return "", errors.New("power cut")
		}
		if b.power {
			return b.powered(ctx, stdin, argv)
		}
		switch {
		case strings.HasPrefix(line, "cryptsetup repair"):
			return real(ctx, stdin, argv...)
		case strings.HasPrefix(line, "cryptsetup reencrypt"):
			return real(ctx, stdin, offline(argv)...)
		case strings.HasPrefix(line, "cryptsetup luks"), strings.HasPrefix(line, "cryptsetup token"), strings.HasPrefix(line, "cryptsetup open --test-passphrase"), strings.HasPrefix(line, "cryptsetup erase"):
			out, err := real(ctx, stdin, argv...)
			if b.after != "" && strings.Contains(line, b.after) {
				b.after = ""
				return "", errors.Join(err, errors.New("power cut"))
			}
			return out, err
		case strings.HasPrefix(line, "cryptsetup open"):
			// The real one proves that the key fits; only the mapping is acted.
			if _, err := real(ctx, stdin, append([]string{"cryptsetup", "open", "--test-passphrase"}, argv[2:len(argv)-1]...)...); err != nil {
				return "", err
			}
			return "", os.WriteFile(mapper, nil, 0o600)
		case strings.HasPrefix(line, "cryptsetup close"):
			return "", os.Remove(mapper)
		case argv[0] == "blkid" && slices.Contains(argv, "export"):
			var out strings.Builder
			for k, v := range b.tags {
				fmt.Fprintf(&out, "%s=%s\n", k, v)
			}
			low, err := real(ctx, nil, "blkid", "-p", "-o", "export", b.part)
			if err != nil && exitCode(err) != 2 {
				return "", err
			}
			return out.String() + low, nil
		case argv[0] == "blkid":
			return "ext4\n", nil
		case argv[0] == "mkfs.ext4", argv[0] == "blockdev":
			return "", nil
		}
		t.Errorf("unexpected program: %q", line)
		return "", errors.New("unexpected")
	}
	return b
}

// prepare runs the step as a boot does and returns what became of the volume.
func (b *bench) prepare() (VolumeState, error) {
	b.t.Helper()
	b.calls = nil
	r := handoff.Report{Version: handoff.Version, Volumes: []handoff.VolumeReport{b.report}}
	raw, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "run/ward/handoff.json"), raw, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.prepareVolumes(b.t.Context()); err != nil {
		return VolumeState{}, err
	}
	states, err := b.Volumes()
	if err != nil || len(states) != 1 {
		b.t.Fatalf("Volumes() = %v, %v, want one", states, err)
	}
	return states[0], nil
}

// reboot unmaps, as a power cut does.
func (b *bench) reboot() { os.Remove(filepath.Join(b.dir, "dev/mapper/phi-data")) }

func (b *bench) called(program string) bool {
	return slices.ContainsFunc(b.calls, func(c string) bool { return strings.HasPrefix(c, program) })
}

func (b *bench) head() []byte {
	b.t.Helper()
	f, err := os.Open(b.part)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(f, head); err != nil {
		b.t.Fatal(err)
	}
	return head
}

func TestFormatBlankVolume(t *testing.T) {
	b := newBench(t)
	st, err := b.prepare()
	if err != nil || !st.Ready {
		t.Fatalf("prepare() = %+v, %v, want ready", st, err)
	}
	pins, err := b.pins()
	if err != nil || len(pins.Volumes) != 1 {
		t.Fatalf("pins = %+v, %v, want one", pins, err)
	}
	k, _, _ := b.Machine.key(t.Context(), nil, handoff.Volume{})
	defer k.Wipe()
	again, err := pinOf(b.part, "phi-data", k)
	if err != nil || again != pins.Volumes[0] {
		t.Errorf("pinOf() = %+v, %v, want %+v", again, err, pins.Volumes[0])
	}
	out, err := hostRun(b.log)(t.Context(), nil, "cryptsetup", "luksDump", b.part)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Version:       \t2", "cipher: aes-xts-plain64", "Cipher key: 512 bits", "PBKDF:      pbkdf2", pins.Volumes[0].LUKSUUID} {
		if !strings.Contains(out, want) {
			t.Errorf("luksDump has no %q:\n%s", want, out)
		}
	}
	if in, err := b.intent("phi-data"); in != nil || err != nil {
		t.Errorf("intent = %+v, %v, want none after the end", in, err)
	}
	// The next boot: init opened it.
	head := b.head()
	b.report.State = handoff.StateOpened
	if st, err := b.prepare(); err != nil || !st.Ready || len(b.calls) > 0 {
		t.Errorf("second boot: %+v, %v, ran %q, want ready and nothing run", st, err, b.calls)
	}
	if !bytes.Equal(head, b.head()) {
		t.Error("the second boot changed the header")
	}
}

// The power is cut before each program and before the pin; the next boot
// converges to one pinned volume, whatever init found.
func TestFormatInterrupted(t *testing.T) {
	n := 0
	for _, at := range []string{"cryptsetup luksFormat", "cryptsetup open", "mkfs.ext4", "blockdev"} {
		for _, state := range []handoff.State{handoff.StateBlank, handoff.StateLocked, handoff.StateRefused, handoff.StateOpened} {
			b := newBench(t)
			b.fail = at
			if _, err := b.prepare(); err == nil || !strings.Contains(err.Error(), "power cut") {
				t.Fatalf("cut at %s: %v, want the power cut", at, err)
			}
			b.reboot()
			b.report.State = state
			if state == handoff.StateOpened {
				if err := os.WriteFile(filepath.Join(b.dir, "dev/mapper/phi-data"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			st, err := b.prepare()
			if err != nil || !st.Ready {
				t.Errorf("cut at %s, then %s: %+v, %v, want ready", at, state, st, err)
			}
			if pins, err := b.pins(); err != nil || len(pins.Volumes) != 1 {
				t.Errorf("cut at %s, then %s: pins %+v, %v, want one", at, state, pins, err)
			}
			n++
		}
	}
	if n == 0 {
		t.Error("looked at nothing")
	}
}

// Between the pin and the removal of the intent nothing is formatted again.
func TestPinnedIsNeverFormatted(t *testing.T) {
	b := newBench(t)
	if st, err := b.prepare(); err != nil || !st.Ready {
		t.Fatal(st, err)
	}
	pins, _ := b.pins()
	in := intent{Name: "phi-data", PartUUID: partUUID, LUKSUUID: pins.Volumes[0].LUKSUUID, Started: time.Now()}
	if err := writeJSON(b.root, intentPath("phi-data"), in, 0o600); err != nil {
		t.Fatal(err)
	}
	head := b.head()
	b.report.State = handoff.StateOpened
	if st, err := b.prepare(); err != nil || !st.Ready || b.called("cryptsetup luksFormat") {
		t.Errorf("prepare() = %+v, %v, ran %q, want ready and no formatting", st, err, b.calls)
	}
	// A pinned volume whose partition reads as blank is a lost or swapped disk.
	b.report.State = handoff.StateBlank
	b.reboot()
	st, err := b.prepare()
	if err != nil || st.Ready || !strings.Contains(st.Reason, "this machine had a volume on it") {
		t.Errorf("prepare() = %+v, %v, want absent because the machine had a volume", st, err)
	}
	if !bytes.Equal(head, b.head()) {
		t.Error("the header was changed")
	}
}

// Whatever could hold data is never formatted.
func TestNotFormatted(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b *bench)
		want   string
	}{
		{"one byte in the head", func(b *bench) { b.poke(12345, 1) }, "byte 12345 is not zero"},
		{"one byte in the tail", func(b *bench) { b.poke(64<<20-1, 1) }, "byte 67108863 is not zero"},
		{"an ext4 file system", func(b *bench) { b.tool("mkfs.ext4", "-q", "-F", b.part) }, "it holds ext4"},
		{"a foreign LUKS volume", func(b *bench) {
			b.tool("cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", b.part+".key", b.part)
		}, "it holds crypto_LUKS"},
		{"another partition", func(b *bench) { b.tags["PART_ENTRY_NAME"] = "root" }, "is not the PHI partition"},
		{"another type", func(b *bench) { b.tags["PART_ENTRY_TYPE"] = handoff.RootType }, "is not the PHI partition"},
		{"no key", func(b *bench) { b.noKey = true }, "there is no key"},
		{"locked", func(b *bench) { b.report.State, b.report.Reason = handoff.StateLocked, "no slot fits" }, "locked: no slot fits"},
		{"refused", func(b *bench) { b.report.State, b.report.Reason = handoff.StateRefused, "cipher_null" }, "refused: cipher_null"},
		{"absent", func(b *bench) { b.report.State, b.report.Reason = handoff.StateAbsent, "no partition" }, "absent: no partition"},
		{"an intent for another partition", func(b *bench) {
			in := intent{Name: "phi-data", PartUUID: "11111111-6a63-4a70-8b5e-2f3a5b1c9d01", LUKSUUID: newUUID()}
			if err := writeJSON(b.root, intentPath("phi-data"), in, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}, "was interrupted, but the partition is now"},
		{"an intent, but foreign data since", func(b *bench) {
			in := intent{Name: "phi-data", PartUUID: partUUID, LUKSUUID: newUUID()}
			if err := writeJSON(b.root, intentPath("phi-data"), in, 0o600); err != nil {
				b.t.Fatal(err)
			}
			b.tool("mkfs.ext4", "-q", "-F", b.part)
		}, "which this machine did not write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			if err := os.WriteFile(b.part+".key", b.key, 0o600); err != nil {
				t.Fatal(err)
			}
			c.change(b)
			head := b.head()
			st, err := b.prepare()
			if err != nil || st.Ready || !strings.Contains(st.Reason, c.want) {
				t.Errorf("prepare() = %+v, %v, want absent because %q", st, err, c.want)
			}
			if st.Hint == "" {
				t.Error("no hint")
			}
			if b.called("cryptsetup luksFormat") || b.called("mkfs") || !bytes.Equal(head, b.head()) {
				t.Errorf("it was changed; ran %q", b.calls)
			}
		})
	}
}

func (b *bench) poke(at int64, c byte) {
	b.t.Helper()
	f, err := os.OpenFile(b.part, os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{c}, at)
	if err := errors.Join(err, f.Close()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tool(argv ...string) {
	b.t.Helper()
	if _, err := hostRun(b.log)(b.t.Context(), nil, argv...); err != nil {
		b.t.Fatal(err)
	}
}

func TestHaltWhenTheProfileSaysSo(t *testing.T) {
	b := newBench(t)
	b.noKey = true
	b.facts.Profile.Controls.PHI.OnFailure = handoff.Halt
	if _, err := b.prepare(); err == nil || !strings.Contains(err.Error(), "there is no key") {
		t.Errorf("prepare() = %v, want an error that says there is no key", err)
	}
}
