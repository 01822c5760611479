package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/tpmkey"
	"ward/initramfs/handoff"
)

// TPMFunc opens the machine's TPM.
type TPMFunc func() (transport.TPMCloser, error)

func hostTPM() (transport.TPMCloser, error) { return linuxtpm.Open(tpmkey.Device) }

// sealToTPM seals each open volume's key file in the TPM, if the profile has the
// source tpm2: to what the PCRs held in the initramfs of this boot, so that the
// next boot of the same kernel image in the same state of Secure Boot opens the
// volume by itself. After a change another source opens it, and the key is sealed
// anew. A TPM that does not work is no reason to stop: the volume is open.
func (m *Machine) sealToTPM(ctx context.Context) error {
	sources := m.facts.Image.Init.Sources
	i := slices.IndexFunc(sources, func(s handoff.Source) bool { return s.Type == "tpm2" })
	if i < 0 {
		return nil
	}
	report, err := m.report()
	if err != nil {
		return err
	}
	volumes, err := m.quietVolumes()
	if err != nil {
		return err
	}
	for _, v := range volumes {
		var registers map[int]string
		if report != nil {
			registers = report.PCRs
		}
		if err := m.sealVolume(ctx, v.Volume, v.pin, sources[i].PCRs, registers); err != nil {
			m.log.Warn("the key is not sealed in the TPM", "volume", v.Name, "reason", err)
			fmt.Fprintf(m.console, "ward: the key of %s is not sealed in the TPM: %v\n", v.Name, err)
		}
	}
	return nil
}

// sealVolume seals the key file of one volume, unless what is sealed is as it would be.
func (m *Machine) sealVolume(ctx context.Context, v handoff.Volume, pin handoff.Pin, pcrs []int, registers map[int]string) error {
	if len(registers) == 0 {
		return errHint(errors.New("init has read no PCRs: the machine has no TPM 2.0 that answers"), "see `journalctl -b -k -g tpm`; another key source goes on to open the volume")
	}
	values, err := tpmkey.ParseValues(registers, pcrs)
	if err != nil {
		return fmt.Errorf("report of init: %w", err)
	}
	dev, err := m.luksDevice(pin.LUKSUUID)
	if err != nil {
		return err
	}
	h, err := m.header(ctx, dev)
	if err != nil {
		return err
	}
	tpm, err := m.tpm()
	if err != nil {
		return err
	}
	defer tpm.Close()
	state, err := tpmkey.State(tpm, values)
	if err != nil {
		return err
	}
	var old []string
	current := false
	for id, t := range h.Tokens {
		if t.Type == tpmkey.TokenType {
			old = append(old, id)
			current = t.State == state && len(t.Keyslots) > 0
		}
	}
	if current && len(old) == 1 {
		return nil
	}
	key, source, err := m.key(ctx, slices.DeleteFunc(slices.Clone(m.facts.Image.Init.Sources), func(s handoff.Source) bool { return s.Type == "tpm2" }), v)
	if errors.Is(err, keysource.ErrNone) {
		return errHint(err, "it is sealed on the next boot with one of these sources")
	} else if err != nil {
		return err
	}
	defer key.Wipe()
	slot, err := m.slotOf(ctx, dev, key.Bytes())
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(slot)
	if err != nil {
		return fmt.Errorf("the key of source %s does not open volume %s", source, v.Name)
	}
	token, err := tpmkey.Seal(tpm, key.Bytes(), []int{n}, values)
	if err != nil {
		return err
	}
	text, err := json.Marshal(token)
	if err != nil {
		return err
	}
	// First away with the old ones, which may be sealed to a state that is no longer
	// trusted. If the power goes in between, the source that has the key now has it then.
	slices.Sort(old)
	for _, id := range old {
		if _, err := m.run(ctx, nil, "cryptsetup", "token", "remove", "--token-id", id, dev); err != nil {
			return err
		}
	}
	if _, err := m.run(ctx, text, "cryptsetup", "token", "import", dev); err != nil {
		return err
	}
	m.log.Info("key sealed in the TPM", "volume", v.Name, "pcrs", fmt.Sprint(token.PCRs), "slot", n, "key_source", source)
	return nil
}
