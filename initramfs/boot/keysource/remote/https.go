package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// fromHTTPS gets the key file with GET. A URL that ends with "/" is a folder that
// has it. The server must show a certificate of the pinned authority; no other
// authority is known here. Redirects are not followed.
func (f fetcher) fromHTTPS(ctx context.Context, src handoff.Source, req keysource.Request) (*keysource.Key, error) {
	config, err := identity(ctx, src, req)
	if err != nil {
		return nil, err
	}
	client, err := pinnedClient(src, config)
	if err != nil {
		return nil, err
	}
	if err := f.up(ctx, req); err != nil {
		return nil, err
	}
	url := src.URL
	if strings.HasSuffix(url, "/") {
		url += req.KeyFile
	}
	var key *keysource.Key
	err = retry(ctx, func() error {
		get, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return final{err}
		}
		return do(client, get, func(r io.Reader) error {
			key, err = keysource.ReadKey(r)
			if err != nil {
				return final{err}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// identity is the client certificate of this machine, which a local source has.
func identity(ctx context.Context, src handoff.Source, req keysource.Request) ([]tls.Certificate, error) {
	if src.Identity == "" {
		return nil, nil
	}
	local := handoff.Source{Type: src.Identity}
	if src.Identity == "device" {
		local.Label = handoff.KeyLabel
	}
	req.KeyFile, req.Sources = handoff.IdentityFile, []handoff.Source{local}
	file, _, err := keysource.Fetch(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	defer file.Wipe()
	pair, err := tls.X509KeyPair(file.Bytes(), file.Bytes())
	if err != nil {
		return nil, fmt.Errorf("client certificate: %s: %w", handoff.IdentityFile, err)
	}
	return []tls.Certificate{pair}, nil
}

// pinnedClient trusts the source's authority only, and shows own. Without an
// authority (tang over http) there is no TLS at all.
func pinnedClient(src handoff.Source, own []tls.Certificate) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), Certificates: own}
	if src.CA != "" && !config.RootCAs.AppendCertsFromPEM([]byte(src.CA)) {
		return nil, errors.New("ca: no certificate in it")
	}
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config, DisableKeepAlives: true, Proxy: nil, ForceAttemptHTTP2: false,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// final marks an error that another try will not cure.
type final struct{ err error }

func (f final) Error() string { return f.err.Error() }
func (f final) Unwrap() error { return f.err }

// do sends a request and gives a body of status 200 to read.
func do(client *http.Client, req *http.Request, read func(io.Reader) error) error {
	resp, err := client.Do(req)
	if err != nil {
		var unknown x509.UnknownAuthorityError
		var host x509.HostnameError
		var invalid x509.CertificateInvalidError
		if errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) {
			return final{err}
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s %s: %s", req.Method, req.URL.Redacted(), resp.Status)
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout {
			return final{err}
		}
		return err
	}
	return read(resp.Body)
}

// Pauses between tries: a server that restarts is back after the third.
const (
	firstPause = 250 * time.Millisecond
	maxPause   = 8 * time.Second
)

// retry runs f until it succeeds, until its error is final, or until ctx ends;
// then the error is the last one of f.
func retry(ctx context.Context, f func() error) error {
	pause := firstPause
	for {
		err := f()
		var stop final
		if err == nil || errors.As(err, &stop) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(pause*2, maxPause)
	}
}
