package initramfs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ward/builder/vm"
	"ward/initramfs/handoff"
)

// issue makes a key pair and a certificate, by itself or by a parent.
func issue(t *testing.T, template *x509.Certificate, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	template.SerialNumber, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// keyServer serves a key file to who shows a certificate, which identity gives a
// machine; the first two requests find it busy.
func keyServer(t *testing.T, key []byte) (source handoff.Source, identity []string, asked *atomic.Int32) {
	t.Helper()
	ca, caKey, caPEM, _ := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "keys"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	_, _, certPEM, keyPEM := issue(t, &x509.Certificate{IPAddresses: []net.IP{net.ParseIP(vm.HostAddr)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	_, _, clientPEM, clientKeyPEM := issue(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey)
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	asked = &atomic.Int32{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys/phi-data.key" || len(r.TLS.PeerCertificates) == 0 {
			http.NotFound(w, r)
			return
		}
		if asked.Add(1) < 3 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.Write(key)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return handoff.Source{Type: "https", URL: "https://" + net.JoinHostPort(vm.HostAddr, u.Port()) + "/keys/", CA: caPEM, Identity: "fw_cfg"}, fwCfg(t, handoff.IdentityFile, []byte(clientPEM+clientKeyPEM)), asked
}

func TestHTTPSKey(t *testing.T) {
	k := newKeys(t)
	source, identity, asked := keyServer(t, k.file)
	d := disk(t, rootPart(rootFS(t, nil)), phiPart(luks(t, k)))
	for _, c := range []struct{ name, line string }{
		{"DHCP", ""},
		{"static address", "ip=10.0.2.99::10.0.2.2:255.255.255.0:::none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, console := boot(t, machine{initramfs: buildInitramfs(t, config(source)), disk: d, append: c.line, qemu: identity})
			if v := expect(t, s, console, handoff.StateOpened, ""); v.KeySource != "https" {
				t.Errorf("the key came from %q, want https", v.KeySource)
			}
		})
	}
	if asked.Load() < 4 {
		t.Errorf("the server was asked %d times, want two refusals and two keys", asked.Load())
	}
	t.Run("another authority", func(t *testing.T) {
		bad := source
		_, _, bad.CA, _ = issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "other"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
		s, console := boot(t, machine{initramfs: buildInitramfs(t, config(bad)), disk: d, qemu: identity})
		expect(t, s, console, handoff.StateLocked, "certificate signed by unknown authority")
	})
	t.Run("no certificate of its own", func(t *testing.T) {
		s, console := boot(t, machine{initramfs: buildInitramfs(t, config(source)), disk: d})
		expect(t, s, console, handoff.StateLocked, "https: client certificate: client.pem: no source has the key: fw_cfg: ")
	})
	t.Run("nobody answers", func(t *testing.T) {
		bad := source
		bad.URL, bad.TimeoutMS = "https://10.0.2.77/keys/", 6000
		start := time.Now()
		s, console := boot(t, machine{initramfs: buildInitramfs(t, config(bad)), disk: d, qemu: identity})
		v := expect(t, s, console, handoff.StateLocked, "https: no answer in 6s")
		if strings.Contains(v.Reason, "PRIVATE KEY") {
			t.Error("the reason holds the client's key")
		}
		t.Logf("boot without an answer took %s", time.Since(start).Round(time.Second))
	})
}
