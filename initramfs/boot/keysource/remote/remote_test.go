package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/nistec"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

// clevisToken is what clevis 19 and tangd 11 made; the exchange key beside it was
// generated for this test and protects nothing.
func clevisToken(t testing.TB) luksheader.Token {
	t.Helper()
	jwe, err := os.ReadFile("testdata/clevis.json")
	if err != nil {
		t.Fatal(err)
	}
	return luksheader.Token{Type: "clevis", JSON: []byte(`{"type":"clevis","keyslots":["1"],"jwe":` + string(jwe) + `}`)}
}

const clevisSecret = "clevis-secret-of-at-least-thirty-two-bytes"

// tang is the server's side of the recovery, with the exchange key of testdata.
func tang(t *testing.T) http.Handler {
	t.Helper()
	data, err := os.ReadFile("testdata/exchange.jwk")
	if err != nil {
		t.Fatal(err)
	}
	var key struct {
		jwk
		D string `json:"d"`
	}
	if err := json.Unmarshal(data, &key); err != nil {
		t.Fatal(err)
	}
	d, err := b64.DecodeString(key.D)
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var k jwk
		if r.Method != http.MethodPost || r.URL.Path != "/rec/"+key.thumbprint() || json.NewDecoder(r.Body).Decode(&k) != nil {
			http.NotFound(w, r)
			return
		}
		p, err := k.point()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if p, err = nistec.NewP521Point().ScalarMult(p, d); err == nil {
			k, err = jwkOf(p)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		json.NewEncoder(w).Encode(k)
	})
}

func request(tokens ...luksheader.Token) keysource.Request {
	return keysource.Request{KeyFile: "phi-data.key", Tokens: tokens, Log: slog.New(slog.DiscardHandler)}
}

func TestTang(t *testing.T) {
	server := httptest.NewServer(tang(t))
	defer server.Close()
	var n fetcher
	key, err := n.fromTang(t.Context(), handoff.Source{URL: server.URL + "/"}, request(luksheader.Token{Type: "other"}, clevisToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	if string(key.Bytes()) != clevisSecret || !reflect.DeepEqual(key.Slots(), []int{1}) {
		t.Errorf("fromTang = %q for slots %v, want %q for [1]", key.Bytes(), key.Slots(), clevisSecret)
	}
	key.Wipe()
}

// TestTangIsBlinded: the server never sees the point of the token itself, and
// sees another one each time.
func TestTangIsBlinded(t *testing.T) {
	_, h, err := parseToken(clevisToken(t).JSON)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newRecovery(h)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newRecovery(h)
	if err != nil {
		t.Fatal(err)
	}
	if a.request.X == h.Epk.X || a.request.X == b.request.X {
		t.Error("the request is not blinded")
	}
}

func TestTangFails(t *testing.T) {
	good := tang(t)
	wrong := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // echoes the point
		io.Copy(w, r.Body)
	})
	change := func(old, new string) luksheader.Token {
		tok := clevisToken(t)
		var all map[string]any
		if err := json.Unmarshal(tok.JSON, &all); err != nil {
			t.Fatal(err)
		}
		jwe := all["jwe"].(map[string]any)
		head, err := b64.DecodeString(jwe["protected"].(string))
		if err != nil || !bytes.Contains(head, []byte(old)) {
			t.Fatalf("header %s has no %s", head, old)
		}
		jwe["protected"] = b64.EncodeToString(bytes.ReplaceAll(head, []byte(old), []byte(new)))
		tok.JSON, _ = json.Marshal(all)
		return tok
	}
	for _, c := range []struct {
		name   string
		server http.Handler
		token  luksheader.Token
		want   string
	}{
		{"no token", good, luksheader.Token{Type: "systemd-tpm2"}, "no token of clevis"},
		{"another server", wrong, clevisToken(t), "does not open the token"},
		{"no key there", http.NotFoundHandler(), clevisToken(t), "404 Not Found"},
		{"nonsense", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{}") }), clevisToken(t), "want EC on P-521"},
		{"other pin", good, change(`"pin":"tang"`, `"pin":"sss"`), "clevis pin \"sss\""},
		{"other cipher", good, change(`"enc":"A256GCM"`, `"enc":"A128GCM"`), "A128GCM"},
		{"other exchange key", good, change(`"kid":"n12v`, `"kid":"xxxx`), "no exchange key with the thumbprint"},
		{"changed header", good, change(`"pin":"tang"`, `"pin": "tang"`), "does not open the token"},
	} {
		server := httptest.NewServer(c.server)
		var n fetcher
		_, err := n.fromTang(t.Context(), handoff.Source{URL: server.URL}, request(c.token))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: fromTang = %v, want an error with %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), clevisSecret) {
			t.Errorf("%s: the error holds the secret", c.name)
		}
		server.Close()
	}
}

// authority makes certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a authority) issue(t *testing.T) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}))
}

// mutual starts a server that wants a certificate of the authority.
func mutual(t *testing.T, a authority, h http.Handler) *httptest.Server {
	t.Helper()
	cert, key := a.issue(t)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

var secret = bytes.Repeat([]byte("0123456789abcdef"), 4)

func TestHTTPS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	var calls atomic.Int32
	server := mutual(t, a, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys/phi-data.key":
			w.Write(secret)
		case "/busy/phi-data.key":
			if calls.Add(1) < 3 {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return
			}
			w.Write(secret)
		case "/short":
			w.Write(secret[:5])
		case "/endless":
			w.Write(make([]byte, keysource.MaxBytes+1))
		case "/elsewhere":
			http.Redirect(w, r, "/keys/phi-data.key", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	cert, key := a.issue(t)
	source := handoff.Source{CA: a.pem, Identity: "ours"}
	// What the local sources have: the file with the client certificate, or another.
	identities := map[string]keysource.Fetcher{}
	for name, text := range map[string]string{"ours": cert + key, "no key": cert} {
		identities[name] = func(_ context.Context, _ handoff.Source, r keysource.Request) (*keysource.Key, error) {
			if r.KeyFile != handoff.IdentityFile {
				return nil, fmt.Errorf("asked for %s", r.KeyFile)
			}
			return keysource.KeyOf([]byte(text))
		}
	}
	for _, c := range []struct {
		name, path string
		change     func(*handoff.Source)
		want       string // part of the error, "" for the key
	}{
		{"a folder", "/keys/", nil, ""},
		{"a file", "/keys/phi-data.key", nil, ""},
		{"busy at first", "/busy/", nil, ""},
		{"not there", "/none", nil, "404 Not Found"},
		{"short", "/short", nil, "key file of 5 bytes"},
		{"endless", "/endless", nil, "more than 8192 bytes"},
		{"redirect", "/elsewhere", nil, "302 Found"},
		{"another authority", "/keys/", func(s *handoff.Source) { s.CA = other.pem }, "unknown authority"},
		{"no certificate of ours", "/keys/", func(s *handoff.Source) { s.Identity = "" }, "certificate required"},
		{"no authority in it", "/keys/", func(s *handoff.Source) { s.CA = "x" }, "ca: no certificate"},
		{"no key in it", "/keys/", func(s *handoff.Source) { s.Identity = "no key" }, "client certificate: client.pem: "},
		{"no certificate there", "/keys/", func(s *handoff.Source) { s.Identity = "fw_cfg" }, "client certificate: client.pem: no source has the key: fw_cfg: "},
	} {
		src := source
		src.URL = server.URL + c.path
		if c.change != nil {
			c.change(&src)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		var n fetcher
		req := request()
		req.More = identities
		k, err := n.fromHTTPS(ctx, src, req)
		cancel()
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: fromHTTPS = %v, want an error with %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !bytes.Equal(k.Bytes(), secret) {
			t.Errorf("%s: the key is %q", c.name, k.Bytes())
		}
		k.Wipe()
	}
	if calls.Load() != 3 {
		t.Errorf("the busy server was asked %d times, want 3", calls.Load())
	}
}

func TestRetry(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	refused := errors.New("connection refused")
	err := retry(ctx, func() error { return refused })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, refused) {
		t.Errorf("retry = %v, want both the end of time and the last error", err)
	}
	tries := 0
	err = retry(t.Context(), func() error { tries++; return final{refused} })
	if !errors.Is(err, refused) || tries != 1 {
		t.Errorf("retry of a final error = %v after %d tries, want one", err, tries)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(clevisToken(f).JSON)
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, h, err := parseToken(data)
		if err != nil {
			return
		}
		if r, err := newRecovery(h); err == nil {
			if _, err := r.finish(r.request); err == nil {
				_, _ = tok.decrypt(make([]byte, coordinate))
			}
		}
	})
}
