package remote

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"filippo.io/nistec"
)

// maxToken is the most that is taken of a token; clevis writes about 3 KiB.
const maxToken = 64 << 10

var b64 = base64.RawURLEncoding

// jwk is an elliptic curve key, RFC 7517 and RFC 7518 6.2.
type jwk struct {
	Alg    string   `json:"alg,omitempty"`
	Crv    string   `json:"crv"`
	Kty    string   `json:"kty"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	KeyOps []string `json:"key_ops,omitempty"`
}

// token is what clevis leaves in a LUKS2 header, with the JWE of a passphrase,
// RFC 7516 7.2.2.
type token struct {
	Type     string        `json:"type"`
	Keyslots []json.Number `json:"keyslots"`
	JWE      struct {
		Protected    string `json:"protected"`
		EncryptedKey string `json:"encrypted_key"`
		IV           string `json:"iv"`
		Ciphertext   string `json:"ciphertext"`
		Tag          string `json:"tag"`
	} `json:"jwe"`
}

// header is the protected header of the JWE.
type header struct {
	Alg    string `json:"alg"`
	Enc    string `json:"enc"`
	Kid    string `json:"kid"` // thumbprint of the server's exchange key
	Epk    jwk    `json:"epk"`
	Clevis struct {
		Pin  string `json:"pin"`
		Tang struct {
			URL string `json:"url"`
			Adv struct {
				Keys []jwk `json:"keys"`
			} `json:"adv"`
		} `json:"tang"`
	} `json:"clevis"`
}

// parseToken reads a token and refuses what is not clevis with the pin "tang"
// and the algorithms that clevis uses.
func parseToken(data []byte) (token, header, error) {
	var t token
	var h header
	if len(data) > maxToken {
		return t, h, fmt.Errorf("token of %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, h, fmt.Errorf("token: %w", err)
	}
	text, err := b64.DecodeString(t.JWE.Protected)
	if err != nil {
		return t, h, fmt.Errorf("token: header: %w", err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return t, h, fmt.Errorf("token: header: %w", err)
	}
	if h.Clevis.Pin != "tang" {
		return t, h, fmt.Errorf("token: clevis pin %.20q, want tang", h.Clevis.Pin)
	}
	if h.Alg != "ECDH-ES" || h.Enc != "A256GCM" || t.JWE.EncryptedKey != "" {
		return t, h, fmt.Errorf("token: algorithms %.20q, %.20q, want ECDH-ES, A256GCM", h.Alg, h.Enc)
	}
	return t, h, nil
}

// coordinate is the length of a number of P-521.
const coordinate = 66

func (k jwk) point() (*nistec.P521Point, error) {
	if k.Kty != "EC" || k.Crv != "P-521" {
		return nil, fmt.Errorf("key %.10q on %.10q, want EC on P-521", k.Kty, k.Crv)
	}
	x, err1 := b64.DecodeString(k.X)
	y, err2 := b64.DecodeString(k.Y)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if len(x) != coordinate || len(y) != coordinate {
		return nil, fmt.Errorf("coordinates of %d and %d bytes, want %d", len(x), len(y), coordinate)
	}
	// SetBytes refuses what is not on the curve.
	return nistec.NewP521Point().SetBytes(slices.Concat([]byte{4}, x, y))
}

func jwkOf(p *nistec.P521Point) (jwk, error) {
	b := p.Bytes()
	if len(b) != 1+2*coordinate {
		return jwk{}, errors.New("the point at infinity")
	}
	return jwk{Alg: "ECMR", Crv: "P-521", Kty: "EC", X: b64.EncodeToString(b[1 : 1+coordinate]), Y: b64.EncodeToString(b[1+coordinate:]), KeyOps: []string{"deriveKey"}}, nil
}

// thumbprint is RFC 7638 with SHA-256; before clevis 17 it was SHA-1, which is
// no longer accepted.
func (k jwk) thumbprint() string {
	s := sha256.Sum256([]byte(fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y)))
	return b64.EncodeToString(s[:])
}

// exchangeKey is the server's key that the JWE was made for.
func (h header) exchangeKey() (jwk, error) {
	for _, k := range h.Clevis.Tang.Adv.Keys {
		if k.Alg == "ECMR" && k.thumbprint() == h.Kid {
			return k, nil
		}
	}
	return jwk{}, errors.New("token: the advertisement has no exchange key with the thumbprint of the JWE")
}

// recovery is McCallum-Relyea, as clevis and tang do it: the server multiplies a
// point that is blinded, so that neither it nor a listener learns the key.
// https://github.com/latchset/tang#recovery
type recovery struct {
	server  *nistec.P521Point // S
	blind   []byte            // e
	request jwk               // C + eG
}

func newRecovery(h header) (*recovery, error) {
	k, err := h.exchangeKey()
	if err != nil {
		return nil, err
	}
	s, err := k.point()
	if err != nil {
		return nil, fmt.Errorf("token: exchange key: %w", err)
	}
	c, err := h.Epk.point()
	if err != nil {
		return nil, fmt.Errorf("token: epk: %w", err)
	}
	n := elliptic.P521().Params().N
	e, err := rand.Int(rand.Reader, new(big.Int).Sub(n, big.NewInt(1)))
	if err != nil {
		return nil, err
	}
	e.Add(e, big.NewInt(1))
	r := &recovery{server: s, blind: e.FillBytes(make([]byte, coordinate))}
	eg, err := nistec.NewP521Point().ScalarBaseMult(r.blind)
	if err != nil {
		return nil, err
	}
	r.request, err = jwkOf(nistec.NewP521Point().Add(c, eg))
	return r, err
}

// finish takes the server's answer sC + sE and returns the shared secret sC,
// its x coordinate.
func (r *recovery) finish(answer jwk) ([]byte, error) {
	y, err := answer.point()
	if err != nil {
		return nil, err
	}
	n := elliptic.P521().Params().N
	minus := new(big.Int).Sub(n, new(big.Int).SetBytes(r.blind)).FillBytes(make([]byte, coordinate))
	es, err := nistec.NewP521Point().ScalarMult(r.server, minus)
	if err != nil {
		return nil, err
	}
	return nistec.NewP521Point().Add(y, es).BytesX()
}

// decrypt opens the JWE with the shared secret z: Concat KDF of RFC 7518 4.6,
// then AES-GCM.
func (t token) decrypt(z []byte) ([]byte, error) {
	const enc = "A256GCM"
	kdf := sha256.New()
	word := func(n int) { kdf.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	word(1)
	kdf.Write(z)
	word(len(enc))
	kdf.Write([]byte(enc))
	word(0) // no PartyUInfo
	word(0) // no PartyVInfo
	word(256)
	cek := kdf.Sum(nil)
	defer clear(cek)
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	var parts [3][]byte
	for i, s := range []string{t.JWE.IV, t.JWE.Ciphertext, t.JWE.Tag} {
		if parts[i], err = b64.DecodeString(s); err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
	}
	if len(parts[0]) != gcm.NonceSize() || len(parts[2]) != gcm.Overhead() {
		return nil, errors.New("token: length of iv or tag")
	}
	out, err := gcm.Open(nil, parts[0], slices.Concat(parts[1], parts[2]), []byte(t.JWE.Protected))
	if err != nil {
		return nil, errors.New("the server's answer does not open the token")
	}
	return out, nil
}
