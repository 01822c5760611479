package netimage

import (
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"
)

// Sign signs a manifest in minisign's format, so that `minisign -V` checks it too:
// Ed25519 over BLAKE2b of the file, and over the comment.
func Sign(secretKey, manifest []byte, comment string) ([]byte, error) {
	var key minisign.PrivateKey
	if err := key.UnmarshalText(secretKey); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return minisign.SignWithComments(key, manifest, strings.ReplaceAll(comment, "\n", " "), "signature of a ward network image"), nil
}

// NewKey makes a key pair in minisign's files' format.
func NewKey() (secret, public []byte, err error) {
	p, s, err := minisign.GenerateKey(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("signing key: %w", err)
	}
	if secret, err = s.MarshalText(); err != nil {
		return nil, nil, fmt.Errorf("signing key: %w", err)
	}
	if public, err = p.MarshalText(); err != nil {
		return nil, nil, fmt.Errorf("signing key: %w", err)
	}
	return secret, public, nil
}

// CheckPublicKey tells whether text is a public key of minisign.
func CheckPublicKey(text []byte) error {
	var key minisign.PublicKey
	if err := key.UnmarshalText(text); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	return nil
}

// ErrSignature says that a manifest is not signed by the pinned key.
var ErrSignature = errors.New("the manifest's signature is not of the pinned key")

// Open verifies a manifest's signature and then reads it.
func Open(manifest, signature []byte, publicKey string) (*Manifest, error) {
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(publicKey)); err != nil {
		return nil, fmt.Errorf("pinned public key: %w", err)
	}
	if len(manifest) > MaxManifest || len(signature) > MaxSignature {
		return nil, fmt.Errorf("%w: the files are too large", ErrSignature)
	}
	var sig minisign.Signature
	if err := sig.UnmarshalText(signature); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSignature, err)
	}
	if sig.KeyID != key.ID() {
		return nil, fmt.Errorf("%w: it is of key %X, pinned is %X", ErrSignature, sig.KeyID, key.ID())
	}
	if !minisign.Verify(key, manifest, signature) {
		return nil, fmt.Errorf("%w: manifest or signature was changed", ErrSignature)
	}
	return Decode(manifest)
}
