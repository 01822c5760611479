package firstboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/tpmkey"
	"ward/initramfs/boot/keysource/tpmkey/tpmtest"
	"ward/initramfs/handoff"
)

// chip is a software TPM that stays on while wardctl opens and closes it.
type chip struct{ transport.TPM }

func (chip) Close() error { return nil }

func newChip(t *testing.T) chip {
	t.Helper()
	tpm, _ := tpmtest.Start(t, t.TempDir())
	return chip{tpm}
}

// sealing is a bench with a volume, a TPM, and a profile that seals to PCR 7 and 11.
type sealing struct {
	*bench
	chip chip
	said bytes.Buffer // the console
}

func newSealing(t *testing.T) *sealing {
	b, _ := formatted(t)
	s := &sealing{bench: b, chip: newChip(t)}
	b.facts.Image.Init.Sources = []handoff.Source{{Type: "tpm2", PCRs: []int{7, 11}}, {Type: "device", Label: handoff.KeyLabel}}
	b.Machine.tpm = func() (transport.TPMCloser, error) { return s.chip, nil }
	b.Machine.console = &s.said
	s.booted(s.registers())
	return s
}

func (s *sealing) registers() map[int]string {
	s.t.Helper()
	v, err := tpmkey.Registers(s.chip, []int{7, 11})
	if err != nil {
		s.t.Fatal(err)
	}
	return v.Text()
}

// booted has init report these registers.
func (s *sealing) booted(registers map[int]string) {
	s.t.Helper()
	raw, err := json.Marshal(handoff.Report{Version: handoff.Version, PCRs: registers})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "run/ward/handoff.json"), raw, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// seal runs the step, and returns the tokens that the header has then.
func (s *sealing) seal() []tpmkey.Token {
	s.t.Helper()
	s.calls = nil
	s.said.Reset()
	if err := s.sealToTPM(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return s.tokens()
}

// tokens asks cryptsetup itself.
func (s *sealing) tokens() []tpmkey.Token {
	s.t.Helper()
	out, err := hostRun(s.log)(s.t.Context(), nil, "cryptsetup", "luksDump", "--dump-json-metadata", s.part)
	if err != nil {
		s.t.Fatal(err)
	}
	var h struct {
		Tokens map[string]tpmkey.Token `json:"tokens"`
	}
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		s.t.Fatal(err)
	}
	var all []tpmkey.Token
	for _, t := range h.Tokens {
		all = append(all, t)
	}
	return all
}

// unseals expects that the only token gives the key.
func (s *sealing) unseals(tokens []tpmkey.Token) {
	s.t.Helper()
	if len(tokens) != 1 {
		s.t.Fatalf("the header has %d tokens, want one: %s", len(tokens), s.said.String())
	}
	key, err := tpmkey.Unseal(s.chip, tokens[0])
	if err != nil {
		s.t.Fatal(err)
	}
	defer key.Wipe()
	if !bytes.Equal(key.Bytes(), s.key) || !s.fits(key.Bytes()) || len(key.Slots()) != 1 {
		s.t.Error("what comes out of the TPM is not the key file with its slot")
	}
}

func TestSealToTPM(t *testing.T) {
	s := newSealing(t)
	s.unseals(s.seal())
	if status, err := s.KeyStatus(t.Context(), "phi-data"); err != nil || status.Sealed != "slot 0, while the PCRs [7 11] stay as they were" {
		t.Errorf("KeyStatus = %+v, %v, want what the TPM opens", status, err)
	}
	// A second run finds it done: the header is not written on every boot.
	head := s.head()
	s.unseals(s.seal())
	if s.called("cryptsetup token") || !bytes.Equal(head, s.head()) {
		t.Errorf("a second run ran %q, want that it changes nothing", s.calls)
	}
	if bytes.Contains(head, s.key[:16]) {
		t.Error("the header holds the key")
	}

	// Another kernel image: the values of this boot are others, and so is the seal.
	values := s.registers()
	values[11] = strings.Repeat("ab", 32)
	s.booted(values)
	tokens := s.seal()
	if len(tokens) != 1 {
		t.Fatalf("the header has %d tokens, want one", len(tokens))
	}
	if _, err := tpmkey.Unseal(s.chip, tokens[0]); !errors.Is(err, keysource.ErrSealed) {
		t.Errorf("Unseal in another state = %v, want %v", err, keysource.ErrSealed)
	}

	// Back again, and the power goes between the old token and the new one.
	s.booted(s.registers())
	s.fail = "token import"
	if got := s.seal(); len(got) != 0 || !strings.Contains(s.said.String(), "is not sealed in the TPM: power cut") {
		t.Errorf("after the cut there are %d tokens, and the console says %q", len(got), s.said.String())
	}
	s.unseals(s.seal())

	// Another TPM with the same values.
	s.chip = newChip(t)
	s.booted(s.registers())
	s.unseals(s.seal())
}

// TestSealAfterRotation: the slot that the token names is removed with its key, so
// nobody may be given the old key; the new one is sealed on the next boot.
func TestSealAfterRotation(t *testing.T) {
	s := newSealing(t)
	s.unseals(s.seal())
	fresh := bytes.Repeat([]byte("fresh key "), 7)
	file := filepath.Join(t.TempDir(), "new.key")
	if err := os.WriteFile(file, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Rotate(t.Context(), "phi-data", file, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	tokens := s.tokens()
	if len(tokens) != 1 || len(tokens[0].Keyslots) != 0 {
		t.Errorf("tokens after the rotation = %+v, want one that belongs to no slot", tokens)
	}
	s.key = fresh
	if status, err := s.KeyStatus(t.Context(), "phi-data"); err != nil || status.Sealed != "" {
		t.Errorf("KeyStatus = %+v, %v, want that the TPM opens nothing", status, err)
	}
	s.unseals(s.seal())
}

func TestSealNot(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*sealing)
		want   string // on the console; empty: nothing
	}{
		{"no source tpm2", func(s *sealing) { s.facts.Image.Init.Sources = s.facts.Image.Init.Sources[1:] }, ""},
		{"volume is not open", func(s *sealing) { s.reboot() }, ""},
		{"no TPM", func(s *sealing) { s.booted(nil) }, "the machine has no TPM 2.0 that answers"},
		{"a register is missing", func(s *sealing) { s.booted(map[int]string{7: s.registers()[7]}) }, `PCR 11: "" is no value`},
		{"no other source has the key", func(s *sealing) { s.noKey = true }, "no source has the key"},
		{"key of another volume", func(s *sealing) { s.key = bytes.Repeat([]byte{7}, 64) }, "the key of source device does not open volume phi-data"},
		{"TPM away", func(s *sealing) {
			s.Machine.tpm = func() (transport.TPMCloser, error) { return nil, errors.New("no such device") }
		}, "no such device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSealing(t)
			c.change(s)
			tokens := s.seal() // and the step does not fail
			if len(tokens) != 0 || s.called("cryptsetup token") {
				t.Errorf("sealed: %d tokens, ran %q", len(tokens), s.calls)
			}
			if got := s.said.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("the console says %q, want %q", got, c.want)
			}
		})
	}
}
