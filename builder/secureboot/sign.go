package secureboot

import (
	"bytes"
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
	"os"
	"strings"

	"github.com/foxboron/go-uefi/authenticode"
)

// Signer signs what a firmware starts.
type Signer struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// Open reads a private key and its certificate, both PEM.
func Open(keyFile, certFile string) (*Signer, error) {
	if strings.HasPrefix(keyFile, "pkcs11:") {
		return nil, errors.New("secure boot key: a PKCS#11 token is not supported, the key must be a PEM file\n" +
			"hint: bake where the key may be read, such as a release machine without a network")
	}
	cert, err := readCert(certFile)
	if err != nil {
		return nil, fmt.Errorf("secure boot certificate: %w", err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("secure boot key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("secure boot key: %s does not fit the certificate %s", keyFile, certFile)
	}
	return &Signer{key, cert}, nil
}

// Fingerprint is the SHA-256 of the certificate's DER form.
func (s *Signer) Fingerprint() string {
	sum := sha256.Sum256(s.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Sign returns a PE file with a signature (Authenticode) at its end. The
// signature has the time in it, so two of the same file differ.
func (s *Signer) Sign(image []byte) ([]byte, error) {
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
	if _, err := binary.Sign(s.key, s.cert); err != nil {
		return nil, err
	}
	return binary.Bytes(), nil
}

// SignFile signs a file into another one.
func (s *Signer) SignFile(to, from string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	signed, err := s.Sign(image)
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
