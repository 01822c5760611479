package secureboot

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/foxboron/go-uefi/authenticode"
)

// Signer signs what a firmware starts, with a key in a file or in a token.
type Signer struct {
	cert  *x509.Certificate
	key   crypto.Signer // nil: it is in a token
	token string        // URI of the key in it, RFC 7512
}

// Open reads a private key and its certificate, both PEM. Instead of a file the key
// may be the URI of one in a PKCS#11 token.
func Open(keyFile, certFile string) (*Signer, error) {
	cert, err := readCert(certFile)
	if err != nil {
		return nil, fmt.Errorf("secure boot certificate: %w", err)
	}
	if strings.HasPrefix(keyFile, tokenScheme) {
		if err := checkToken(keyFile); err != nil {
			return nil, fmt.Errorf("secure boot key: %w", err)
		}
		return &Signer{cert: cert, token: keyFile}, nil
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("secure boot key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("secure boot key: %s does not fit the certificate %s", keyFile, certFile)
	}
	return &Signer{cert: cert, key: key}, nil
}

// Fingerprint is the SHA-256 of the certificate's DER form.
func (s *Signer) Fingerprint() string {
	sum := sha256.Sum256(s.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Sign returns a PE file with a signature (Authenticode) at its end. The
// signature has the time in it, so two of the same file differ.
func (s *Signer) Sign(ctx context.Context, log *slog.Logger, image []byte) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	if _, ok := f.OptionalHeader.(*pe.OptionalHeader64); !ok { // debug/pe takes much for an object file
		return nil, errors.New("is no PE32+ file")
	}
	binary, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	if binary.Datadir.Size != 0 {
		return nil, errors.New("is signed already")
	}
	if s.key == nil {
		return s.signByToken(ctx, log, image)
	}
	if _, err := binary.Sign(s.key, s.cert); err != nil {
		return nil, err
	}
	return binary.Bytes(), nil
}

// SignFile signs a file into another one.
func (s *Signer) SignFile(ctx context.Context, log *slog.Logger, to, from string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	signed, err := s.Sign(ctx, log, image)
	if err != nil {
		return fmt.Errorf("sign %s: %w", from, err)
	}
	return os.WriteFile(to, signed, 0o644)
}

// maxPEM bounds a key or a certificate.
const maxPEM = 64 << 10

func readPEM(name, kind string) ([]byte, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w\nhint: `ward key secure-boot DIR` makes keys", err)
	} else if err != nil {
		return nil, err
	}
	if info.Size() > maxPEM {
		return nil, fmt.Errorf("%s: has %d bytes, more than %d", name, info.Size(), maxPEM)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%s: holds no PEM block", name)
	case strings.Contains(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "":
		return nil, fmt.Errorf("%s: is encrypted, which is not supported", name)
	case !strings.HasSuffix(block.Type, kind):
		return nil, fmt.Errorf("%s: holds a PEM block %s, want %s", name, block.Type, kind)
	}
	return block.Bytes, nil
}

func readCert(name string) (*x509.Certificate, error) {
	der, err := readPEM(name, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return cert, nil
}

func readKey(name string) (*rsa.PrivateKey, error) {
	der, err := readPEM(name, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: is no RSA key, and firmware verifies no other", name)
	}
	if bits := private.N.BitLen(); bits < keyBits {
		return nil, fmt.Errorf("%s: has %d bits, want %d", name, bits, keyBits)
	}
	return private, nil
}
