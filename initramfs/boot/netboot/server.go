package netboot

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"ward/initramfs/netimage"
)

const (
	// patience is how long a server may be away before the installation is given up;
	// stall is how long a transfer may stand still before it is begun anew.
	patience = 15 * time.Minute
	stall    = 30 * time.Second
	maxPause = 8 * time.Second
)

// server is where the image comes from.
type server struct {
	log    *slog.Logger
	base   *url.URL
	client *http.Client
	macs   []string
	serial string

	patience, stall, pause time.Duration
}

func newServer(log *slog.Logger, base, ca string) (*server, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("ward.url=%s: want https://HOST[:PORT]/", base)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("pinned authority: no certificate in it")
	}
	return &server{
		log: log, base: u, macs: macs(), serial: machineSerial("/sys"),
		patience: patience, stall: stall, pause: 250 * time.Millisecond,
		client: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, Proxy: nil,
				DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 20 * time.Second,
				DisableCompression: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// macs are the addresses of the machine's network cards.
func macs() []string {
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range links {
		if len(l.HardwareAddr) == 6 && l.Flags&net.FlagLoopback == 0 {
			out = append(out, l.HardwareAddr.String())
		}
	}
	return out
}

// machineSerial is the machine's serial number, SMBIOS type 1.
func machineSerial(sys string) string {
	b, err := os.ReadFile(sys + "/class/dmi/id/product_serial")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// final marks an error that another try will not cure.
type final struct{ err error }

func (f final) Error() string { return f.err.Error() }
func (f final) Unwrap() error { return f.err }

// manifest fetches the manifest and its signature, and verifies it.
func (s *server) manifest(ctx context.Context, publicKey string) (*netimage.Manifest, error) {
	text, err := s.small(ctx, netimage.ManifestFile, netimage.MaxManifest)
	if err != nil {
		return nil, err
	}
	sig, err := s.small(ctx, netimage.SignatureFile, netimage.MaxSignature)
	if err != nil {
		return nil, err
	}
	return netimage.Open(text, sig, publicKey)
}

// config fetches the machine's config, whose digest the manifest has.
func (s *server) config(ctx context.Context, me netimage.Machine) ([]byte, error) {
	b, err := s.small(ctx, me.Config, netimage.MaxConfig)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != me.SHA256 {
		return nil, fmt.Errorf("the config of %s was changed: it has sha256 %s, the manifest says %s", me.Name(), got, me.SHA256)
	}
	return b, nil
}

// small fetches a file that fits into memory.
func (s *server) small(ctx context.Context, name string, most int64) ([]byte, error) {
	var b []byte
	err := s.patiently(ctx, name, func(ctx context.Context, _ func()) error {
		body, err := s.get(ctx, name, 0)
		if err != nil {
			return err
		}
		defer body.Close()
		if b, err = io.ReadAll(io.LimitReader(body, most+1)); err != nil {
			return err
		}
		if int64(len(b)) > most {
			return final{fmt.Errorf("%s has more than %d bytes", name, most)}
		}
		return nil
	})
	return b, err
}

// stream gives each frame of the image to f, in order, and goes on where it was
// when the connection is lost.
func (s *server) stream(ctx context.Context, d netimage.Disk, f func(i int, frame []byte) error) error {
	return s.part(ctx, d, 0, len(d.Chunks), f)
}

// part is stream for the chunks from one to before another.
func (s *server) part(ctx context.Context, d netimage.Disk, from, to int, f func(i int, frame []byte) error) error {
	next := from
	var largest int64
	for _, c := range d.Chunks {
		largest = max(largest, c.Bytes)
	}
	buf := make([]byte, largest)
	shown := 0
	return s.patiently(ctx, d.File, func(ctx context.Context, progress func()) error {
		if next > from {
			s.log.Info("the transfer goes on", "chunk", next, "of", to)
		}
		body, err := s.get(ctx, d.File, d.Offset(next))
		if err != nil {
			return err
		}
		defer body.Close()
		for next < to {
			frame := buf[:d.Chunks[next].Bytes]
			if _, err := io.ReadFull(body, frame); err != nil {
				return fmt.Errorf("chunk %d: %w", next, err)
			}
			if err := f(next, frame); err != nil {
				return final{err}
			}
			next++
			progress()
			if tenth := (next - from) * 10 / (to - from); tenth > shown {
				shown = tenth
				s.log.Info("transfer", "percent", tenth*10)
			}
		}
		return nil
	})
}

// get begins to read a file at an offset.
func (s *server) get(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.JoinPath(name).String(), nil)
	if err != nil {
		return nil, final{err}
	}
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, judge(err)
	}
	if resp.StatusCode == want {
		return resp.Body, nil
	}
	resp.Body.Close()
	err = fmt.Errorf("%s: %s", req.URL.Redacted(), resp.Status)
	if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout {
		return nil, final{err}
	}
	return nil, err
}

// judge makes an error final that says who the server is, not that it is away.
func judge(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	if errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) {
		return final{fmt.Errorf("the server is not of the pinned authority: %w", err)}
	}
	return err
}

// patiently runs f until it succeeds or its error is final, or until the server
// has been away for too long. f calls progress when it has come further; its
// context ends when it has not for a while.
func (s *server) patiently(ctx context.Context, what string, f func(ctx context.Context, progress func()) error) error {
	last, pause := time.Now(), s.pause
	for {
		err := s.attempt(ctx, func(ctx context.Context, alive func()) error {
			return f(ctx, func() {
				alive()
				last, pause = time.Now(), s.pause
			})
		})
		var stop final
		if err == nil {
			return nil
		}
		if errors.As(err, &stop) {
			return stop.err
		}
		if away := time.Since(last); away > s.patience {
			return fmt.Errorf("%s: the server has been away for %s: %w", what, away.Round(time.Second), err)
		}
		s.log.Warn("will be tried again", "file", what, "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

func (s *server) attempt(ctx context.Context, f func(context.Context, func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.stall, func() { cancel(fmt.Errorf("nothing came for %s", s.stall)) })
	defer watch.Stop()
	err := f(ctx, func() { watch.Reset(s.stall) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// report tells the server's log what happens here. The installation does not
// depend on it.
func (s *server) report(text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	body := strings.NewReader(fmt.Sprintf("%s serial=%q: %.1500s", strings.Join(s.macs, ","), s.serial, text))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base.JoinPath(netimage.ReportPath).String(), body)
	if err != nil {
		return
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.log.Warn("the server does not take the report: " + err.Error())
		return
	}
	resp.Body.Close()
}
