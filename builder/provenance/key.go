package provenance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"aead.dev/minisign"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Files of signatures beside the statement.
const (
	MinisignFile = "provenance.json.minisig"
	EnvelopeFile = "provenance.intoto.jsonl"
)

// Signer signs statements.
type Signer interface {
	// Sign returns the content of File.
	Sign(ctx context.Context, statement []byte) ([]byte, error)
	Verifier
}

// Verifier checks signatures.
type Verifier interface {
	// File is where the signature lies.
	File() string
	Verify(ctx context.Context, statement, signature []byte) error
}

const keyHint = "\nhint: want a minisign key without a password (minisign -G -W) or an ECDSA P-256 key in PEM (openssl ecparam -name prime256v1 -genkey -noout)"

// ReadSigner reads a secret key of either kind.
func ReadSigner(file string) (Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	s, err := parseSigner(data)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w%s", file, err, keyHint)
	}
	return s, nil
}

func parseSigner(data []byte) (Signer, error) {
	if block, _ := pem.Decode(data); block != nil {
		key, err := parseECDSA(block)
		if err != nil {
			return nil, err
		}
		return ecdsaSigner{ecdsaVerifier{&key.PublicKey}, key}, nil
	}
	if minisign.IsEncrypted(data) {
		return nil, errors.New("is encrypted, which is not supported")
	}
	var key minisign.PrivateKey
	if err := key.UnmarshalText(data); err != nil {
		return nil, errors.New("is neither minisign's nor in PEM")
	}
	public, ok := key.Public().(minisign.PublicKey)
	if !ok {
		return nil, errors.New("has no public key")
	}
	return minisignSigner{minisignVerifier{public}, key}, nil
}

func parseECDSA(block *pem.Block) (*ecdsa.PrivateKey, error) {
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("is a %s", strings.ToLower(block.Type))
	}
	if err != nil {
		return nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("is not an ECDSA P-256 key")
	}
	return k, nil
}

// ReadVerifier reads a public key of either kind.
func ReadVerifier(file string) (Verifier, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	v, err := parseVerifier(data)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w\nhint: want a public key of minisign or an ECDSA P-256 one in PEM, such as cosign.pub", file, err)
	}
	return v, nil
}

func parseVerifier(data []byte) (Verifier, error) {
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("is a %s", strings.ToLower(block.Type))
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		k, ok := key.(*ecdsa.PublicKey)
		if !ok || k.Curve != elliptic.P256() {
			return nil, errors.New("is not an ECDSA P-256 key")
		}
		return ecdsaVerifier{k}, nil
	}
	var key minisign.PublicKey
	if err := key.UnmarshalText(bytes.TrimSpace(data)); err != nil {
		return nil, errors.New("is neither minisign's nor in PEM")
	}
	return minisignVerifier{key}, nil
}

type minisignVerifier struct{ public minisign.PublicKey }

type minisignSigner struct {
	minisignVerifier
	key minisign.PrivateKey
}

func (minisignVerifier) File() string { return MinisignFile }

// Sign signs the bytes of the statement as `minisign -S` does; the comments have no
// time, so that equal builds have equal signatures.
func (s minisignSigner) Sign(_ context.Context, statement []byte) ([]byte, error) {
	return minisign.SignWithComments(s.key, statement, "ward provenance", "signature of a ward image"), nil
}

func (v minisignVerifier) Verify(_ context.Context, statement, signature []byte) error {
	var sig minisign.Signature
	if err := sig.UnmarshalText(signature); err != nil {
		return errors.New("is not a signature of minisign")
	}
	if sig.KeyID != v.public.ID() {
		return fmt.Errorf("was made with the key %016X, not with %016X", sig.KeyID, v.public.ID())
	}
	if !minisign.Verify(v.public, statement, signature) {
		return errors.New("is not that of this provenance: one of them was changed")
	}
	return nil
}

type ecdsaVerifier struct{ public *ecdsa.PublicKey }

type ecdsaSigner struct {
	ecdsaVerifier
	key *ecdsa.PrivateKey
}

func (ecdsaVerifier) File() string { return EnvelopeFile }

// Sign puts the statement into a DSSE envelope, in one line.
func (s ecdsaSigner) Sign(ctx context.Context, statement []byte) ([]byte, error) {
	signer, err := dsse.NewEnvelopeSigner(ecdsaDSSE{s.public, s.key})
	if err != nil {
		return nil, err
	}
	e, err := signer.SignPayload(ctx, payloadType, statement)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(e)
	return append(b, '\n'), err
}

func (v ecdsaVerifier) Verify(ctx context.Context, statement, signature []byte) error {
	var e dsse.Envelope
	if err := json.Unmarshal(signature, &e); err != nil {
		return fmt.Errorf("is not an envelope of DSSE: %w", err)
	}
	if e.PayloadType != payloadType {
		return fmt.Errorf("is about a %q", e.PayloadType)
	}
	verifier, err := dsse.NewEnvelopeVerifier(ecdsaDSSE{public: v.public})
	if err != nil {
		return err
	}
	_, payload, err := verifier.VerifyAndDecode(ctx, &e)
	if err != nil {
		return fmt.Errorf("was not made with this key, or was changed: %w", err)
	}
	if !bytes.Equal(payload, statement) {
		return errors.New("is not that of this provenance: one of them was changed")
	}
	return nil
}

// ecdsaDSSE signs as cosign does: ASN.1 over the SHA-256 of the message.
type ecdsaDSSE struct {
	public *ecdsa.PublicKey
	key    *ecdsa.PrivateKey
}

func (d ecdsaDSSE) KeyID() (string, error)   { return dsse.SHA256KeyID(d.public) }
func (d ecdsaDSSE) Public() crypto.PublicKey { return d.public }

func (d ecdsaDSSE) Sign(_ context.Context, data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return ecdsa.SignASN1(rand.Reader, d.key, sum[:])
}

func (d ecdsaDSSE) Verify(_ context.Context, data, sig []byte) error {
	sum := sha256.Sum256(data)
	if !ecdsa.VerifyASN1(d.public, sum[:], sig) {
		return errors.New("the signature does not fit")
	}
	return nil
}
