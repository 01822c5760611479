package firstboot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const someConfig = `{"ignition":{"version":"3.5.0"}}`

// served is a machine whose kernel line points at a server.
func served(t *testing.T, line func(s *httptest.Server) string) (*Machine, *httptest.Server, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/config":
			io.WriteString(w, someConfig)
		case "/away":
			http.Redirect(w, r, "http://example.org/config", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	root, dir := openRoot(t)
	for _, d := range []string{"proc", "usr/lib/ward", "var/lib/ward"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "proc/cmdline"), []byte("quiet "+line(s)+"\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	return &Machine{root: root, log: slog.New(slog.DiscardHandler), now: time.Now, console: io.Discard}, s, dir
}

func fingerprint(s *httptest.Server) string {
	sum := sha256.Sum256(s.Certificate().Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestConfigByURL(t *testing.T) {
	for _, c := range []struct {
		name, want string // "" is success
		line       func(s *httptest.Server) string
		ca         bool // the image has the authority
	}{
		{"pinned by the kernel line", "", func(s *httptest.Server) string {
			return urlArg + s.URL + "/config " + caArg + fingerprint(s)
		}, false},
		{"pinned by the image", "", func(s *httptest.Server) string { return urlArg + s.URL + "/config" }, true},
		{"not pinned", "no authority is pinned", func(s *httptest.Server) string { return urlArg + s.URL + "/config" }, false},
		{"another pin", "has the pinned sha256", func(s *httptest.Server) string {
			return urlArg + s.URL + "/config " + caArg + "sha256:" + strings.Repeat("0", 64)
		}, false},
		{"a pin that is none", "is not sha256: and 64 hex digits", func(s *httptest.Server) string {
			return urlArg + s.URL + "/config " + caArg + "sha256:00"
		}, false},
		{"another name", "certificate", func(s *httptest.Server) string {
			return urlArg + strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/config " + caArg + fingerprint(s)
		}, false},
		{"plain http", "must be an https:// URL", func(s *httptest.Server) string {
			return urlArg + strings.Replace(s.URL, "https", "http", 1) + "/config"
		}, true},
		{"not there", "404", func(s *httptest.Server) string { return urlArg + s.URL + "/nothing" }, true},
		{"redirected away from https", "redirect away from https refused", func(s *httptest.Server) string { return urlArg + s.URL + "/away" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, s, dir := served(t, c.line)
			if c.ca {
				text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
				if err := os.WriteFile(filepath.Join(dir, CAPath), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			ctx := t.Context()
			raw, err := m.urlConfig(ctx)
			if c.want == "" {
				if err != nil || string(raw) != someConfig {
					t.Errorf("urlConfig() = %q, %v, want the config", raw, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("urlConfig() = %q, %v, want %q in the error", raw, err, c.want)
			}
		})
	}
}

// A configured machine starts although the server no longer answers rightly.
func TestConfigOfTheLastBoot(t *testing.T) {
	m, _, dir := served(t, func(s *httptest.Server) string { return urlArg + s.URL + "/nothing " + caArg + fingerprint(s) })
	if err := os.WriteFile(filepath.Join(dir, ConfigPath), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if raw, err := m.urlConfig(t.Context()); err != nil || string(raw) != "kept" {
		t.Errorf("urlConfig() = %q, %v, want what was kept", raw, err)
	}
}
