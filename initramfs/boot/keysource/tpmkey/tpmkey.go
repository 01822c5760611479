// Package tpmkey keeps a key file sealed by the machine's TPM 2.0: it comes out
// only in this TPM and while the chosen PCRs have the values of the moment of
// sealing. The sealed object is a token in the LUKS2 header; it is of no use
// elsewhere.
//
//	values, err := tpmkey.Registers(tpm, []int{7, 11})       // in the initramfs
//	t, err := tpmkey.Seal(tpm, keyFile, []int{0}, values)    // later; then: cryptsetup token import
//	key, err := tpmkey.Unseal(tpm, t)                        // in the initramfs of the next boot
//
// PCR 7 is the state of Secure Boot, PCR 4 the boot loader, PCR 11 the UKI
// (systemd-stub); see https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry/.
package tpmkey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// TokenType is the type of the LUKS2 token.
const TokenType = "ward-tpm2"

// Device is the TPM's resource manager.
const Device = "/dev/tpmrm0"

// maxSealed is the most that a TPM seals, MAX_SYM_DATA of TPM 2.0 part 2.
const maxSealed = 128

// Token is the LUKS2 token, whose JSON `cryptsetup token import` takes.
type Token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"` // decimal numbers, as LUKS2 has them
	PCRs     []int    `json:"ward_pcrs"`
	// State is of which TPM and which values the key is sealed to, see [State].
	State   string `json:"ward_state,omitempty"`
	Public  []byte `json:"ward_public"`  // TPM2B_PUBLIC
	Private []byte `json:"ward_private"` // TPM2B_PRIVATE, encrypted by the TPM
}

// parse reads a token strictly enough that nothing but numbers and blobs reach
// the TPM.
func parse(data []byte) (Token, error) {
	var t Token
	if len(data) > 16<<10 {
		return t, fmt.Errorf("token of %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("token: %w", err)
	}
	if t.Type != TokenType {
		return t, fmt.Errorf("token: type %.20q, want %s", t.Type, TokenType)
	}
	if len(t.Keyslots) == 0 { // cryptsetup takes a removed key slot out of its tokens
		return t, errors.New("token: belongs to no key slot; the key file was changed since it was sealed")
	}
	return t, checkPCRs(t.PCRs)
}

func checkPCRs(pcrs []int) error {
	if len(pcrs) == 0 {
		return errors.New("pcrs: none; a key that is bound to no PCR comes out in any system")
	}
	for _, p := range pcrs {
		if p < 0 || p > 23 {
			return fmt.Errorf("pcrs: %d, want 0 to 23", p)
		}
	}
	return nil
}

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	mask := make([]byte, 3)
	for _, p := range pcrs {
		mask[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}
}

// parent makes the storage root key, which is the same each time: TCG TPM v2.0
// Provisioning Guidance, ECC P-256 in the owner hierarchy.
func parent(tpm transport.TPM) (tpm2.NamedHandle, func(), error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
	if err != nil {
		return tpm2.NamedHandle{}, nil, fmt.Errorf("storage root key: %w", err)
	}
	h := tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
	return h, func() { flush(tpm, rsp.ObjectHandle) }, nil
}

func flush(tpm transport.TPM, h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(tpm) // the resource manager does it on close
}

// policy starts a session that fits while the PCRs have the wanted values. Its
// salt encrypts what the TPM answers, so that the bus does not see the key. With
// values it is a trial, which only computes what a session would be that has them.
func policy(tpm transport.TPM, srk tpm2.NamedHandle, pcrs []int, values Values) (tpm2.Session, func() error, error) {
	opts := []tpm2.AuthOption{}
	var want tpm2.TPM2BDigest
	if values != nil {
		want.Buffer = values.digest()
		opts = append(opts, tpm2.Trial())
	} else {
		pub, err := tpm2.ReadPublic{ObjectHandle: srk.Handle}.Execute(tpm)
		if err != nil {
			return nil, nil, fmt.Errorf("storage root key: %w", err)
		}
		area, err := pub.OutPublic.Contents()
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(srk.Handle, *area))
	}
	sess, closer, err := tpm2.PolicySession(tpm, tpm2.TPMAlgSHA256, 16, opts...)
	if err != nil {
		return nil, nil, fmt.Errorf("session: %w", err)
	}
	if _, err := (tpm2.PolicyPCR{PolicySession: sess.Handle(), PcrDigest: want, Pcrs: selection(pcrs)}).Execute(tpm); err != nil {
		_ = closer()
		return nil, nil, fmt.Errorf("PCR policy: %w", err)
	}
	return sess, closer, nil
}

// Seal seals a key file of at most 128 bytes to values of PCRs (SHA-256 bank), as
// [Registers] has read them. They need not be the present ones: those of the
// initramfs are gone when the system runs. slots are the key slots that it opens.
func Seal(tpm transport.TPM, key []byte, slots []int, values Values) (Token, error) {
	pcrs := values.pcrs()
	if err := checkPCRs(pcrs); err != nil {
		return Token{}, err
	}
	if len(key) < keysource.MinBytes || len(key) > maxSealed {
		return Token{}, fmt.Errorf("key file of %d bytes, want %d to %d", len(key), keysource.MinBytes, maxSealed)
	}
	srk, done, err := parent(tpm)
	if err != nil {
		return Token{}, err
	}
	defer done()
	trial, closeTrial, err := policy(tpm, srk, pcrs, values)
	if err != nil {
		return Token{}, err
	}
	digest, err := tpm2.PolicyGetDigest{PolicySession: trial.Handle()}.Execute(tpm)
	_ = closeTrial()
	if err != nil {
		return Token{}, fmt.Errorf("PCR policy: %w", err)
	}
	srkPub, err := tpm2.ReadPublic{ObjectHandle: srk.Handle}.Execute(tpm)
	if err != nil {
		return Token{}, err
	}
	srkArea, err := srkPub.OutPublic.Contents()
	if err != nil {
		return Token{}, err
	}
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: srk.Handle, Name: srk.Name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptIn), tpm2.Salted(srk.Handle, *srkArea))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			// No UserWithAuth: the policy is the only way in.
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
			AuthPolicy:       digest.PolicyDigest,
		}),
	}.Execute(tpm)
	if err != nil {
		return Token{}, fmt.Errorf("seal: %w", err)
	}
	t := Token{Type: TokenType, PCRs: pcrs, State: stateOf(srk, values), Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate), Keyslots: []string{}}
	for _, s := range slots {
		t.Keyslots = append(t.Keyslots, strconv.Itoa(s))
	}
	return t, nil
}

// Unseal returns the sealed key file. An error that wraps tpm2.TPMRCPolicyFail
// means that a PCR has another value.
func Unseal(tpm transport.TPM, t Token) (*keysource.Key, error) {
	if err := checkPCRs(t.PCRs); err != nil {
		return nil, err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](t.Public)
	if err != nil {
		return nil, fmt.Errorf("token: public part: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](t.Private)
	if err != nil {
		return nil, fmt.Errorf("token: private part: %w", err)
	}
	srk, done, err := parent(tpm)
	if err != nil {
		return nil, err
	}
	defer done()
	object, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: srk.Handle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     *public, InPrivate: *private,
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("%w: this is not the TPM that sealed the key: %w", keysource.ErrSealed, err)
	}
	defer flush(tpm, object.ObjectHandle)
	sess, closeSess, err := policy(tpm, srk, t.PCRs, nil)
	if err != nil {
		return nil, err
	}
	defer closeSess()
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: sess}}.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, fmt.Errorf("%w: one of the PCRs %v has another value than when the key was sealed: %w", keysource.ErrSealed, t.PCRs, err)
	}
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	var slots []int
	for _, s := range t.Keyslots {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 32 {
			slots = append(slots, n)
		}
	}
	return keysource.KeyFor(rsp.OutData.Buffer, slots)
}

// Fetcher is the source "tpm2", for keysource.Request.More. If the source names
// PCRs, a token that is bound to others is refused: somebody has made it weaker.
func Fetcher(ctx context.Context, src handoff.Source, req keysource.Request) (*keysource.Key, error) {
	var tokens []Token
	var last error = errors.New("the volume has no token " + TokenType)
	for _, raw := range req.Tokens {
		if raw.Type != TokenType {
			continue
		}
		t, err := parse(raw.JSON)
		if err == nil && len(src.PCRs) > 0 && !slices.Equal(t.PCRs, slices.Sorted(slices.Values(src.PCRs))) {
			err = fmt.Errorf("token: bound to PCRs %v, want %v", t.PCRs, src.PCRs)
		}
		if err != nil {
			last = err
			continue
		}
		tokens = append(tokens, t)
	}
	if len(tokens) == 0 {
		return nil, last
	}
	loadModules(req.Module)
	type result struct {
		key *keysource.Key
		err error
	}
	done := make(chan result, 1)
	go func() { // a TPM can take seconds, and does not hear of ctx
		key, err := unsealAny(tokens)
		done <- result{key, err}
	}()
	select {
	case r := <-done:
		return r.key, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.key != nil {
				r.key.Wipe()
			}
		}()
		return nil, ctx.Err()
	}
}

func unsealAny(tokens []Token) (key *keysource.Key, err error) {
	tpm, err := linuxtpm.Open(Device)
	if err != nil {
		return nil, err
	}
	defer closeTPM(tpm)
	for _, t := range tokens {
		if key, err = Unseal(tpm, t); err == nil {
			return key, nil
		}
	}
	return nil, err
}
