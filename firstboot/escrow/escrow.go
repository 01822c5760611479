// Package escrow seals a volume's recovery key so that only the officers named
// in the profile can read it, and opens it again on an officer's own computer.
// The machine makes the key, adds it to the volume, seals it and forgets it.
//
//	r := escrow.New("phi-data", uuid, host, now)
//	sealed, err := escrow.Seal(r, []string{"age1..."})
//	r, err = escrow.Open(sealed, identities)
package escrow

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// maxSealed is the most that is read of a sealed key.
const maxSealed = 64 << 10

// Recovery is a recovery key and what it opens.
type Recovery struct {
	Version  int       `json:"version"`
	Volume   string    `json:"volume"`
	LUKSUUID string    `json:"luks_uuid"`
	Host     string    `json:"host"`
	Made     time.Time `json:"made"`
	// Passphrase is what cryptsetup asks for: 256 random bits in base32, in
	// groups that a person can read aloud.
	Passphrase string `json:"passphrase"`

	key []byte
}

// New makes a recovery key.
func New(volume, uuid, host string, now time.Time) *Recovery {
	var secret [32]byte
	rand.Read(secret[:])
	defer clear(secret[:])
	text := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret[:]))
	var groups []string
	for len(text) > 0 {
		n := min(4, len(text))
		groups = append(groups, text[:n])
		text = text[n:]
	}
	r := &Recovery{Version: 1, Volume: volume, LUKSUUID: uuid, Host: host, Made: now, Passphrase: strings.Join(groups, "-")}
	r.key = []byte(r.Passphrase)
	return r
}

// Key is what goes into the key slot. It must not be used after Wipe.
func (r *Recovery) Key() []byte { return r.key }

// Wipe overwrites the key; Go may have moved copies of the text.
func (r *Recovery) Wipe() {
	clear(r.key)
	r.Passphrase = ""
}

// String keeps a key out of logs by mistake.
func (r *Recovery) String() string { return "recovery key of " + r.Volume + " (hidden)" }

// Recipients parses age recipients, "age1...", and returns every fault.
func Recipients(texts []string) ([]age.Recipient, error) {
	var all []age.Recipient
	var errs []error
	for i, t := range texts {
		r, err := age.ParseRecipients(strings.NewReader(t + "\n"))
		if err != nil {
			errs = append(errs, fmt.Errorf("recipients[%d]: %w", i, err))
			continue
		}
		all = append(all, r...)
	}
	if len(all) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no recipients"))
	}
	return all, errors.Join(errs...)
}

// Seal encrypts a recovery key to recipients, as armored text: age-encryption.org/v1.
func Seal(r *Recovery, recipients []string) ([]byte, error) {
	to, err := Recipients(recipients)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out.Bytes(), nil
}

// Open decrypts a sealed recovery key with an officer's identities. It takes
// the armored text, also as one line of a log in which "|" stands for newline.
func Open(sealed []byte, identities ...age.Identity) (*Recovery, error) {
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("sealed key: %d bytes are more than %d", len(sealed), maxSealed)
	}
	text := strings.ReplaceAll(strings.TrimSpace(string(sealed)), "|", "\n") + "\n"
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), identities...)
	if err != nil {
		return nil, fmt.Errorf("sealed key: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxSealed))
	if err != nil {
		return nil, fmt.Errorf("sealed key: %w", err)
	}
	defer clear(plain)
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	var rec Recovery
	if err := d.Decode(&rec); err != nil {
		return nil, fmt.Errorf("sealed key: %w", err)
	}
	if rec.Version != 1 || rec.Passphrase == "" || rec.Volume == "" {
		return nil, fmt.Errorf("sealed key: version %d is not known, or it is not complete", rec.Version)
	}
	rec.key = []byte(rec.Passphrase)
	return &rec, nil
}
