package machine

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// rsaBits is the shortest RSA key for what must stay secret beyond 2030, NIST SP 800-57 part 1 rev. 5, table 2 and 4.
const rsaBits = 3072

// sshTypes are the keys that a person may log in with. DSA has 1024 bits; a
// certificate is vouched for by an authority that a machine does not have.
var sshTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA,
}

// sshKey reads one line of authorized_keys(5) and returns the key without its
// comment. Errors never repeat the line.
func sshKey(line string) (string, error) {
	switch {
	case strings.Contains(line, "PRIVATE KEY"):
		return "", errors.New("is a private key, which is no longer private; make a new pair")
	case strings.ContainsAny(strings.TrimRight(line, "\n"), "\n\r\x00"):
		return "", errors.New("is more than one line")
	case len(line) > 16<<10:
		return "", errors.New("is too long for a key")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", errors.New("is no public SSH key")
	}
	if len(options) > 0 {
		return "", errors.New("has options before the key, which are not taken over")
	}
	if !slices.Contains(sshTypes, key.Type()) {
		return "", fmt.Errorf("is a key of type %s, which is not accepted", key.Type())
	}
	if crypto, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < rsaBits {
			return "", fmt.Errorf("is an RSA key of %d bits, want %d or more, or ed25519", k.N.BitLen(), rsaBits)
		}
	}
	return string(key.Marshal()), nil
}

func (c check) logging(l *Logging) {
	c.hostPort("logging.server", l.Server)
	if l.Name != "" && !isHost(l.Name) {
		c.d.Fault("logging.name", "", "is %q, which is no host name", l.Name)
	}
	c.authority("logging.ca", l.CA)
	certs, err := certificates(l.Cert)
	if err != nil {
		c.d.Fault("logging.cert", "openssl x509 -in FILE -text shows what a file holds", "%v", err)
		return
	}
	c.validity("logging.cert", certs[0])
	if !strings.Contains(l.Key, "PRIVATE KEY") {
		c.d.Fault("logging.key", "PEM of an unencrypted private key", "is no private key")
		return
	}
	if _, err := tls.X509KeyPair([]byte(l.Cert), []byte(l.Key)); err != nil {
		c.d.Fault("logging.key", "give the key that the certificate was made for", "does not fit logging.cert: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return
	}
	switch k := certs[0].PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			c.d.Fault("logging.cert", "", "has an RSA key of %d bits, want 2048 or more", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Params().BitSize < 256 {
			c.d.Fault("logging.cert", "", "has an EC key of %d bits, want 256 or more", k.Params().BitSize)
		}
	}
	if usage := certs[0].ExtKeyUsage; len(usage) > 0 && !slices.Contains(usage, x509.ExtKeyUsageClientAuth) && !slices.Contains(usage, x509.ExtKeyUsageAny) {
		c.d.Fault("logging.cert", "the log server would refuse it", "is no certificate for a client (extended key usage)")
	}
}

// authority checks PEM with the certificates of one or more authorities.
func (c check) authority(at, text string) {
	certs, err := certificates(text)
	if err != nil {
		c.d.Fault(at, "", "%v", err)
		return
	}
	for _, cert := range certs {
		if !cert.IsCA {
			c.d.Fault(at, "give the one that signed the server's certificate", "holds a certificate that is no authority")
		}
		c.validity(at, cert)
	}
}

func (c check) validity(at string, cert *x509.Certificate) {
	if c.now.After(cert.NotAfter) {
		c.d.Fault(at, "have a new one signed", "holds a certificate that is over since %s", cert.NotAfter.UTC().Format(time.DateOnly))
	}
}

// certificates reads PEM that holds certificates and nothing else.
func certificates(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a PEM block %s, want CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no PEM block -----BEGIN CERTIFICATE-----")
	}
	if strings.Contains(string(rest), "-----BEGIN") {
		return nil, errors.New("ends in a PEM block that is cut off")
	}
	return certs, nil
}
