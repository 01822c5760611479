package tpmkey

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"ward/initramfs/handoff"
)

// Values are what PCRs hold, SHA-256 bank, by number.
type Values map[int][]byte

func (v Values) pcrs() []int { return slices.Sorted(maps.Keys(v)) }

// digest is what TPM2_PolicyPCR compares: TPM 2.0 part 3, 23.7.
func (v Values) digest() []byte {
	h := sha256.New()
	for _, p := range v.pcrs() {
		h.Write(v[p])
	}
	return h.Sum(nil)
}

// Text is the form in which init reports values; ParseValues reads it.
func (v Values) Text() map[int]string {
	text := map[int]string{}
	for p, b := range v {
		text[p] = hex.EncodeToString(b)
	}
	return text
}

// ParseValues reads the values of some PCRs, and wants them all.
func ParseValues(text map[int]string, pcrs []int) (Values, error) {
	v := Values{}
	for _, p := range pcrs {
		b, err := hex.DecodeString(text[p])
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("PCR %d: %q is no value of the SHA-256 bank", p, text[p])
		}
		v[p] = b
	}
	return v, checkPCRs(v.pcrs())
}

// Registers reads PCRs.
func Registers(tpm transport.TPM, pcrs []int) (Values, error) {
	v := Values{}
	for _, p := range pcrs {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection([]int{p})}.Execute(tpm)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", p, err)
		}
		if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, fmt.Errorf("PCR %d: the TPM has no SHA-256 bank", p)
		}
		v[p] = rsp.PCRValues.Digests[0].Buffer
	}
	return v, nil
}

// stateOf is a digest of the TPM's storage root key and of values: equal, if
// sealing again would change nothing.
func stateOf(srk tpm2.NamedHandle, values Values) string {
	h := sha256.New()
	h.Write(srk.Name.Buffer)
	h.Write(values.digest())
	return hex.EncodeToString(h.Sum(nil))
}

// State is Token.State of a key that were sealed to these values now.
func State(tpm transport.TPM, values Values) (string, error) {
	srk, done, err := parent(tpm)
	if err != nil {
		return "", err
	}
	defer done()
	return stateOf(srk, values), nil
}

// phasePCR is extended when the initramfs ends, as systemd does at each phase of a
// boot: a key that is sealed to it comes out in the initramfs alone, for nobody
// later, not for root either.
const phasePCR = 11

// leave extends phasePCR. What the event is called nobody reads.
func leave(tpm transport.TPM) error {
	_, err := tpm2.PCREvent{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(phasePCR), Auth: tpm2.PasswordAuth(nil)},
		EventData: tpm2.TPM2BEvent{Buffer: []byte("ward: the initramfs ends")},
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("extend PCR %d: %w", phasePCR, err)
	}
	return nil
}

// Leave reads the PCRs that the sources seal to, for what seals a key on this boot,
// and then closes what is sealed. Without a source tpm2 it does nothing.
func Leave(ctx context.Context, sources []handoff.Source, module func(string) error) (map[int]string, error) {
	var pcrs []int
	for _, s := range sources {
		if s.Type == "tpm2" {
			pcrs = append(pcrs, s.PCRs...)
		}
	}
	if len(pcrs) == 0 {
		return nil, nil
	}
	loadModules(module)
	type result struct {
		values Values
		err    error
	}
	done := make(chan result, 1)
	go func() { // a TPM does not hear of ctx
		tpm, err := linuxtpm.Open(Device)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer closeTPM(tpm)
		values, err := Registers(tpm, pcrs)
		if slices.Contains(pcrs, phasePCR) {
			err = errors.Join(err, leave(tpm))
		}
		done <- result{values, err}
	}()
	select {
	case r := <-done:
		return r.values.Text(), r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("TPM: %w", ctx.Err())
	}
}

// loadModules loads the drivers of TPMs. The one without hardware says ENODEV; the
// device tells.
func loadModules(module func(string) error) {
	if module == nil {
		return
	}
	for _, m := range []string{"tpm_tis", "tpm_crb"} {
		_ = module(m)
	}
}

func closeTPM(tpm transport.TPM) {
	if c, ok := tpm.(io.Closer); ok {
		c.Close()
	}
}
