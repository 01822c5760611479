package pxe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"ward/initramfs/netimage"

	"aead.dev/minisign"
)

// Files of a folder of keys.
const (
	SecretFile = "sign.key"   // minisign's secret key; stays with who releases images
	PublicFile = "sign.pub"   // for `minisign -V -p`
	CAFile     = "ca.pem"     // pinned in the initramfs
	CertFile   = "server.pem" // of the server
	KeyFile    = "server.key"
)

// certificateTime is how long the server's certificate counts. The authority's own
// key is thrown away: a new server needs a new set, and nobody else can be one.
const certificateTime = 2 * 365 * 24 * time.Hour

// NewKeys makes a signing key, an authority and a server's certificate for the
// given names and addresses, in a new folder.
func NewKeys(dir string, hosts []string) (err error) {
	if len(hosts) == 0 {
		return errors.New("no name and no address of the server is given")
	}
	secret, public, err := netimage.NewKey()
	if err != nil {
		return err
	}
	files, err := certificates(hosts)
	if err != nil {
		return err
	}
	files[SecretFile], files[PublicFile] = append(secret, '\n'), append(public, '\n')
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("%w\nhint: keys that exist are never replaced; name another folder", err)
	}
	for name, data := range files {
		mode := os.FileMode(0o600)
		if name == PublicFile || name == CAFile || name == CertFile {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
	return nil
}

func certificates(hosts []string) (map[string][]byte, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca, err := template("ward network installation")
	if err != nil {
		return nil, err
	}
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := template(hosts[0])
	if err != nil {
		return nil, err
	}
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return map[string][]byte{
		CAFile: block("CERTIFICATE", caDER), CertFile: block("CERTIFICATE", der), KeyFile: block("PRIVATE KEY", private),
	}, nil
}

// template begins a day ago: a new machine's clock may be behind.
func template(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(certificateTime),
	}, nil
}

// publicOf is the public key that belongs to a secret one.
func publicOf(secret []byte) (string, error) {
	if minisign.IsEncrypted(secret) {
		return "", errors.New("the signing key is encrypted, which is not supported here")
	}
	var key minisign.PrivateKey
	if err := key.UnmarshalText(secret); err != nil {
		return "", err
	}
	public, ok := key.Public().(minisign.PublicKey)
	if !ok {
		return "", errors.New("the signing key has no public key")
	}
	text, err := public.MarshalText()
	return string(text), err
}
