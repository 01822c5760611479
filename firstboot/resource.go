package firstboot

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/ignition/v2/config/v3_5/types"
	"github.com/vincent-petithory/dataurl"
)

const (
	maxResource  = 64 << 20 // of one file's contents, unpacked
	fetchTry     = 30 * time.Second
	fetchPatient = 3 * time.Minute // a network that comes up late is waited for
)

// fetcher reads the contents that a config points at.
type fetcher struct {
	client  *http.Client
	patient time.Duration
}

// newFetcher makes a fetcher that trusts the config's own authorities, or the
// system's when the config has none.
func newFetcher(c types.Config) (*fetcher, error) {
	f := &fetcher{patient: fetchPatient}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	for i, ca := range c.Ignition.Security.TLS.CertificateAuthorities {
		b, err := f.resource(context.Background(), ca)
		if err != nil {
			return nil, fmt.Errorf("config: ignition.security.tls.certificateAuthorities[%d]: %w", i, err)
		}
		if t.RootCAs == nil {
			t.RootCAs = x509.NewCertPool()
		}
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("config: ignition.security.tls.certificateAuthorities[%d]: no PEM certificate", i)
		}
	}
	f.client = httpsClient(t)
	return f, nil
}

// httpsClient speaks HTTPS only: a redirect to anything else is an error.
func httpsClient(t *tls.Config) *http.Client {
	return &http.Client{
		Timeout:   fetchTry,
		Transport: &http.Transport{TLSClientConfig: t, Proxy: nil, ResponseHeaderTimeout: fetchTry, ForceAttemptHTTP2: true},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" {
				return errors.New("redirect away from https refused")
			}
			if len(via) > 5 {
				return errors.New("more than 5 redirects")
			}
			return nil
		},
	}
}

// resource returns the contents of r, unpacked and compared with its hash. No
// error of it quotes contents: they may be secret.
func (f *fetcher) resource(ctx context.Context, r types.Resource) ([]byte, error) {
	if r.Source == nil || *r.Source == "" {
		return nil, nil
	}
	var b []byte
	var err error
	if strings.HasPrefix(*r.Source, "data:") {
		u, e := dataurl.DecodeString(*r.Source)
		if e != nil {
			return nil, errors.New("malformed data: URL")
		}
		b = u.Data
	} else if b, err = f.get(ctx, *r.Source, r.HTTPHeaders); err != nil {
		return nil, err
	}
	if r.Compression != nil && *r.Compression == "gzip" {
		if b, err = gunzip(b); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
	}
	// Ignition hashes what the file will hold, after decompression (spec: verification.hash).
	if h := r.Verification.Hash; h != nil && *h != "" {
		if err := verifyHash(b, *h); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// get fetches a URL; while the server does not answer it tries again.
func (f *fetcher) get(ctx context.Context, source string, headers types.HTTPHeaders) ([]byte, error) {
	u, err := url.Parse(source)
	if err != nil {
		return nil, errors.New("malformed URL")
	}
	ctx, cancel := context.WithTimeout(ctx, f.patient)
	defer cancel()
	wait := time.Second
	for {
		b, again, err := f.try(ctx, source, headers)
		if err == nil {
			return b, nil
		}
		if !again {
			return nil, fmt.Errorf("get %s: %w", u.Redacted(), err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("get %s: no answer within %s: %w", u.Redacted(), f.patient, err)
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		}
	}
}

func (f *fetcher) try(ctx context.Context, source string, headers types.HTTPHeaders) (b []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, false, errors.New("malformed URL")
	}
	for _, h := range headers {
		if h.Value != nil {
			req.Header.Set(h.Name, *h.Value)
		}
	}
	resp, err := f.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which can carry a token
		}
		return nil, mayPass(err), err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("server answers %s", resp.Status)
	}
	b, err = readLimited(resp.Body, maxResource)
	return b, true, err
}

// mayPass tells whether an error can go away by waiting: the network or the
// server is not up yet. A certificate or a redirect does not become right.
func mayPass(err error) bool {
	var op *net.OpError
	var name *net.DNSError
	return errors.As(err, &op) || errors.As(err, &name) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return readLimited(z, maxResource)
}

func readLimited(r io.Reader, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("more than %d bytes", max)
	}
	return b, err
}

// verifyHash compares b with "sha256-HEX" or "sha512-HEX".
func verifyHash(b []byte, want string) error {
	kind, hexsum, _ := strings.Cut(want, "-")
	var got string
	switch kind {
	case "sha256":
		s := sha256.Sum256(b)
		got = hex.EncodeToString(s[:])
	case "sha512":
		s := sha512.Sum512(b)
		got = hex.EncodeToString(s[:])
	default:
		return fmt.Errorf("verification.hash: %q is not sha256 or sha512", kind)
	}
	if !strings.EqualFold(got, hexsum) {
		return fmt.Errorf("contents have %s %s, the config says %s", kind, got, hexsum)
	}
	return nil
}
