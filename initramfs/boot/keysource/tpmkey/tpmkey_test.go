package tpmkey

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/tpmkey/tpmtest"
	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

// swtpm starts a software TPM with a fresh state.
func swtpm(t testing.TB) transport.TPM {
	tpm, _ := tpmtest.Start(t, t.TempDir())
	return tpm
}

var secret = bytes.Repeat([]byte("0123456789abcdef"), 4)

func extend(t *testing.T, tpm transport.TPM, pcr int) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func TestSealAndUnseal(t *testing.T) {
	tpm := swtpm(t)
	values, err := Registers(tpm, []int{11, 7})
	if err != nil {
		t.Fatal(err)
	}
	token, err := Seal(tpm, secret, []int{2}, values)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, secret[:16]) {
		t.Error("the token holds the key")
	}
	again, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := Unseal(tpm, again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.Bytes(), secret) || len(key.Slots()) != 1 || key.Slots()[0] != 2 {
		t.Errorf("Unseal = %q for slots %v, want the secret for slot 2", key.Bytes(), key.Slots())
	}
	key.Wipe()

	// Another PCR does not matter, one of the two does.
	extend(t, tpm, 12)
	if key, err := Unseal(tpm, again); err != nil {
		t.Errorf("Unseal after PCR 12 was extended = %v, want the key", err)
	} else {
		key.Wipe()
	}
	extend(t, tpm, 11)
	if _, err := Unseal(tpm, again); !errors.Is(err, tpm2.TPMRCPolicyFail) || !errors.Is(err, keysource.ErrSealed) || !strings.Contains(err.Error(), "one of the PCRs [7 11] has another value") {
		t.Errorf("Unseal after PCR 11 was extended = %v, want %v", err, tpm2.TPMRCPolicyFail)
	}

	// Whoever writes to the header cannot take the policy away: it is in the name
	// of the object that the TPM has signed with its own secret.
	weaker := again
	weaker.PCRs = []int{7}
	if _, err := Unseal(tpm, weaker); !errors.Is(err, tpm2.TPMRCPolicyFail) {
		t.Errorf("Unseal with fewer PCRs = %v, want %v", err, tpm2.TPMRCPolicyFail)
	}
	if _, err := Unseal(swtpm(t), again); err == nil || !strings.Contains(err.Error(), "not the TPM that sealed") {
		t.Errorf("Unseal in another TPM = %v, want an error that says so", err)
	}
}

// TestSealToFormerValues: what the system seals to comes out only where the PCRs
// have what they had in the initramfs, so not in the system itself.
func TestSealToFormerValues(t *testing.T) {
	dir := t.TempDir()
	tpm, off := tpmtest.Start(t, dir)
	values, err := Registers(tpm, []int{7, 11})
	if err != nil {
		t.Fatal(err)
	}
	if err := leave(tpm); err != nil {
		t.Fatal(err)
	}
	read, err := ParseValues(values.Text(), []int{7, 11})
	if err != nil {
		t.Fatal(err)
	}
	token, err := Seal(tpm, secret, []int{0}, read)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unseal(tpm, token); !errors.Is(err, keysource.ErrSealed) {
		t.Errorf("Unseal after the initramfs = %v, want %v", err, keysource.ErrSealed)
	}
	if state, err := State(tpm, values); err != nil || state != token.State {
		t.Errorf("State = %s, %v, want the token's %s", state, err, token.State)
	}
	// The next boot: the PCRs begin anew.
	off()
	tpm, _ = tpmtest.Start(t, dir)
	key, err := Unseal(tpm, token)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if !bytes.Equal(key.Bytes(), secret) {
		t.Error("Unseal gave another key")
	}
	other, err := State(swtpm(t), values)
	if err != nil || other == token.State {
		t.Errorf("State of another TPM = %s, %v, want another than %s", other, err, token.State)
	}
	for _, text := range []map[int]string{nil, {7: values.Text()[7]}, {7: "zz", 11: values.Text()[11]}} {
		if _, err := ParseValues(text, []int{7, 11}); err == nil || !strings.Contains(err.Error(), "is no value of the SHA-256 bank") {
			t.Errorf("ParseValues(%v) = %v, want an error that says which is none", text, err)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	tpm := swtpm(t)
	for _, c := range []struct {
		key    []byte
		values Values
		want   string
	}{
		{secret, nil, "pcrs: none"}, {secret, Values{24: nil}, "pcrs: 24"}, {secret[:31], Values{7: nil}, "key file of 31 bytes"}, {make([]byte, 129), Values{7: nil}, "key file of 129 bytes"},
	} {
		if _, err := Seal(tpm, c.key, nil, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Seal = %v, want an error with %q", err, c.want)
		}
	}
}

func TestFetcherRefuses(t *testing.T) {
	good, err := json.Marshal(Token{Type: TokenType, PCRs: []int{7}, Keyslots: []string{"0"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		src    handoff.Source
		tokens []luksheader.Token
		want   string
	}{
		{"no token", handoff.Source{}, []luksheader.Token{{Type: "clevis"}}, "no token ward-tpm2"},
		{"no JSON", handoff.Source{}, []luksheader.Token{{Type: TokenType, JSON: []byte("{")}}, "token: "},
		{"other PCRs than configured", handoff.Source{PCRs: []int{11, 7}}, []luksheader.Token{{Type: TokenType, JSON: good}}, "bound to PCRs [7], want [11 7]"},
		{"no PCRs", handoff.Source{}, []luksheader.Token{{Type: TokenType, JSON: []byte(`{"type":"ward-tpm2","keyslots":["0"]}`)}}, "pcrs: none"},
		{"slot is gone", handoff.Source{}, []luksheader.Token{{Type: TokenType, JSON: []byte(`{"type":"ward-tpm2","keyslots":[],"ward_pcrs":[7]}`)}}, "belongs to no key slot"},
	} {
		if _, err := Fetcher(t.Context(), c.src, keysource.Request{Tokens: c.tokens}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Fetcher = %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"ward-tpm2","keyslots":["0"],"ward_pcrs":[7],"ward_public":"AAA=","ward_private":"AAA="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		token, err := parse(data)
		if err != nil {
			return
		}
		selection(token.PCRs)
		_, _ = tpm2.Unmarshal[tpm2.TPM2BPublic](token.Public)
		_, _ = tpm2.Unmarshal[tpm2.TPM2BPrivate](token.Private)
	})
}
