package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func started(t *testing.T) (*Lab, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := Start(dir, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return l, dir
}

// dial connects to the log server as a machine would; change breaks something.
func dial(t *testing.T, l *Lab, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	own, err := l.Logging("machine.test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(own.Cert), []byte(own.Key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(own.CA)) {
		t.Fatal("the CA is no certificate")
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: own.Name}
	change(config)
	conn, err := tls.Dial("tcp", own.Server, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	// In TLS 1.3 the server's refusal of a client comes after the client's handshake.
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	return conn, nil
}

func TestLogServerTakesBothFramings(t *testing.T) {
	l, dir := started(t)
	conn, err := dial(t, l, func(*tls.Config) {})
	if err != nil {
		t.Fatal(err)
	}
	const counted = "<34>1 2026-01-01T00:00:00Z m app - - - counted\nin two lines"
	if _, err := fmt.Fprintf(conn, "<34>a line\n%d %s<34>another line\n", len(counted), counted); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, want := range []string{"<34>a line", `counted\nin two lines`, "<34>another line"} {
		if got, err := l.Logs.Expect(ctx, want); err != nil || !strings.HasSuffix(got, want) {
			t.Errorf("Expect(%q) = %q, %v", want, got, err)
		}
	}
	if n := l.Logs.Count(); n != 3 {
		t.Errorf("Count() = %d, want 3", n)
	}
	if p := l.Logs.Peers(); p["machine.test"] != 1 {
		t.Errorf("Peers() = %v, want machine.test", p)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "received.log")); err != nil || strings.Count(string(data), "\n") != 3 {
		t.Errorf("received.log = %q, %v", data, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Logs.Expect(short, "never sent"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "among 3") {
		t.Errorf("Expect() = %v, want a deadline", err)
	}
}

func TestLogServerRefuses(t *testing.T) {
	l, _ := started(t)
	stranger, err := NewAuthority("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stranger.Issue(Leaf{Names: []string{"machine.test"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pair.tls()
	if err != nil {
		t.Fatal(err)
	}
	late, err := l.CA.Issue(Leaf{Names: []string{"machine.test"}, Client: true, NotAfter: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	over, err := late.tls()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*tls.Config)
		server string // why, as the server says it; empty: it is the client that refuses
	}{
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, "didn't provide a certificate"},
		{"another authority's", func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }
		}, "unknown authority"},
		{"one that is over", func(c *tls.Config) { c.Certificates = []tls.Certificate{over} }, "expired"},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, "unsupported versions"},
		{"another server name", func(c *tls.Config) { c.ServerName = "elsewhere.test" }, ""},
	} {
		before := len(l.Logs.Refused())
		if _, err := dial(t, l, c.change); err == nil {
			t.Errorf("%s: got in", c.name)
			continue
		}
		var refused []string
		for range 100 {
			if refused = l.Logs.Refused(); len(refused) > before {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if len(refused) == before {
			t.Errorf("%s: the server noted nothing", c.name)
		} else if last := refused[len(refused)-1]; !strings.Contains(last, c.server) {
			t.Errorf("%s: the server noted %q, want %q", c.name, last, c.server)
		}
	}
	if n := l.Logs.Count(); n != 0 {
		t.Errorf("%d messages of strangers were taken", n)
	}
}

func TestFrameLimits(t *testing.T) {
	for in, want := range map[string]string{
		"99999999999 x":                   "more than",
		"12x ":                            "length with",
		"5 ab":                            "unexpected EOF",
		strings.Repeat("y", logLineMax+1): "buffer full",
	} {
		if _, err := frame(bufio.NewReaderSize(strings.NewReader(in), logLineMax)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("frame(%.20q) = %v, want %q", in, err, want)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add("a line\n5 hello7 goodbye")
	f.Add("0 \n\n00")
	f.Fuzz(func(t *testing.T, in string) {
		r := bufio.NewReaderSize(strings.NewReader(in), logLineMax)
		for n := 0; ; n++ {
			message, err := frame(r)
			if len(message) > logLineMax {
				t.Errorf("a message of %d bytes", len(message))
			}
			if err != nil {
				return
			}
			if n > len(in) {
				t.Fatal("more messages than bytes")
			}
		}
	})
}

func TestBackupServerIsAppendOnly(t *testing.T) {
	l, _ := started(t)
	pool := x509.NewCertPool()
	pool.AddCert(l.CA.Cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	place, ok := strings.CutPrefix(l.Repository("one").Repository, "rest:")
	if !ok {
		t.Fatalf("repository %q", l.Repository("one").Repository)
	}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/?create=true", "", http.StatusOK},
		{"POST", "/config", "a config", http.StatusOK},
		{"GET", "/config", "", http.StatusOK},
		{"DELETE", "/config", "", http.StatusForbidden},
		{"POST", "/config", "another config", http.StatusForbidden},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, place+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%s %s = %d %s, want %d", c.method, c.path, answer.StatusCode, body, c.want)
		}
	}
	if data, err := os.ReadFile(filepath.Join(l.Backup.Dir(), "one", "config")); err != nil || string(data) != "a config" {
		t.Errorf("config = %q, %v", data, err)
	}
	// Another authority's client does not talk to it.
	if _, err := http.Get(place + "/config"); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
}

func TestTimeServer(t *testing.T) {
	l, _ := started(t)
	conn, err := net.Dial("udp", l.TimeServers()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := make([]byte, 48)
	request[0] = 4<<3 | 3
	binary.BigEndian.PutUint64(request[40:], 0x0123456789abcdef)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	reply := make([]byte, 100)
	n, err := conn.Read(reply)
	if err != nil || n != 48 {
		t.Fatalf("reply of %d bytes, %v", n, err)
	}
	if reply[0] != 4<<3|4 || reply[1] != 1 || binary.BigEndian.Uint64(reply[24:]) != 0x0123456789abcdef {
		t.Errorf("reply % x", reply[:48])
	}
	sent := time.Unix(int64(binary.BigEndian.Uint32(reply[40:]))-ntpEpoch, int64(uint64(binary.BigEndian.Uint32(reply[44:]))*1e9>>32))
	if d := time.Since(sent); d < -time.Millisecond || d > 5*time.Second {
		t.Errorf("transmit time is %s away", d)
	}
	for name, bad := range map[string][]byte{"short": request[:47], "a server's": append([]byte{4<<3 | 4}, request[1:]...), "version 2": append([]byte{2<<3 | 3}, request[1:]...)} {
		if got := ntpReply(bad, time.Now()); got != nil {
			t.Errorf("%s packet: reply % x, want none", name, got)
		}
	}
}
