// Package secureboot makes keys of UEFI Secure Boot, signs what a firmware starts,
// and puts keys into the variables of a virtual machine's firmware.
//
//	s, err := secureboot.Open("keys/db.key", "keys/db.pem")
//	signed, err := s.Sign(uki)
//
// A firmware with these keys starts nothing that db's key has not signed. PK owns
// the machine, KEK may change db: UEFI 2.10, chapter 32.
package secureboot

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/foxboron/go-uefi/efi/signature"
	"github.com/foxboron/go-uefi/efi/util"
	"github.com/foxboron/go-uefi/efivar"
	"github.com/google/uuid"
)

// Variables are the three that NewKeys makes keys for. Each is signed by the one
// before it; PK by itself.
var variables = []struct {
	efivar.Efivar
	by string
}{
	{efivar.PK, "PK"}, {efivar.KEK, "PK"}, {efivar.Db, "KEK"},
}

// Ends of the names in a folder of keys: PK.key, KEK.auth, db.pem, ...
const (
	keySuffix  = ".key"  // private, PEM
	certSuffix = ".pem"  // certificate, PEM
	listSuffix = ".esl"  // EFI_SIGNATURE_LIST
	authSuffix = ".auth" // the same, signed for SetVariable: what firmware and systemd-boot enrol
)

// KeyFile and CertFile, of a folder of keys, sign images.
const (
	KeyFile  = "db" + keySuffix
	CertFile = "db" + certSuffix
)

const (
	// Firmware of the field verifies RSA with 2048 bits; more is not required by UEFI
	// 2.10, 32.4.1, and some takes no more.
	keyBits = 2048
	// No firmware looks at the time, and a machine must start in ten years too.
	validity = 20 * 365 * 24 * time.Hour
)

type pair struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// NewKeys makes PK, KEK and db, each with key, certificate, signature list and
// authenticated update, in a new folder.
func NewKeys(dir string) (err error) {
	pairs := map[string]pair{}
	files := map[string][]byte{}
	owner := uuid.New()
	for _, v := range variables {
		p, err := newPair("ward Secure Boot " + v.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		pairs[v.Name] = p
		list, err := signatureList(owner, p.cert)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		by := pairs[v.by]
		_, update, err := signature.SignEFIVariable(v.Efivar, list, by.key, by.cert)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		var auth bytes.Buffer
		update.Marshal(&auth)
		private, err := x509.MarshalPKCS8PrivateKey(p.key)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		files[v.Name+keySuffix] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
		files[v.Name+certSuffix] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
		files[v.Name+listSuffix] = list.Bytes()
		files[v.Name+authSuffix] = auth.Bytes()
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("%w\nhint: keys that exist are never replaced; name another folder", err)
	}
	for name, data := range files {
		mode := os.FileMode(0o644)
		if filepath.Ext(name) == keySuffix {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
	return nil
}

func newPair(name string) (pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, SignatureAlgorithm: x509.SHA256WithRSA,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{key, cert}, err
}

// signatureList is EFI_SIGNATURE_LIST with one X.509 certificate.
func signatureList(owner uuid.UUID, cert *x509.Certificate) (*signature.SignatureDatabase, error) {
	list := signature.NewSignatureDatabase()
	return list, list.Append(signature.CERT_X509_GUID, *util.StringToGUID(owner.String()), cert.Raw)
}
