package pxe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"ward/initramfs/netimage"
)

// Service says what to serve and where.
type Service struct {
	Dir       string // a set that Export wrote
	Cert, Key string // files of the server's certificate
	// Address is the one that everything listens on; Public is how machines reach it
	// (empty: Address).
	Address, Public string
	// Ports; 0 is any free one, negative is off.
	HTTP, HTTPS, TFTP, DHCP int
	// Loaders is the folder of iPXE's binaries for firmware that has no iPXE itself.
	Loaders string
	Append  []string // words added to the kernel line
	Log     *slog.Logger
}

// Server serves until Close.
type Server struct {
	HTTPAddr, HTTPSAddr, TFTPAddr, DHCPAddr string

	service Service
	root    *os.Root
	mu      sync.Mutex
	closers []func() error
	wg      sync.WaitGroup
}

// Start opens every port and serves. The error of a port that is taken is returned
// at once.
func Start(s Service) (_ *Server, err error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	srv := &Server{service: s, root: root}
	srv.closers = append(srv.closers, root.Close)
	defer func() {
		if err != nil {
			srv.Close()
		}
	}()
	if _, err := root.Stat(netimage.ManifestFile); err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: ward pxe export makes a set", s.Dir, err)
	}
	if s.Public == "" {
		srv.service.Public = s.Address
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("server's certificate: %w\nhint: ward key pxe makes one", err)
	}
	if s.HTTPS >= 0 {
		l, err := tls.Listen("tcp", join(s.Address, s.HTTPS), &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}})
		if err != nil {
			return nil, err
		}
		srv.HTTPSAddr = l.Addr().String()
		srv.http(l, http.HandlerFunc(srv.second))
	}
	if s.HTTP >= 0 {
		l, err := net.Listen("tcp", join(s.Address, s.HTTP))
		if err != nil {
			return nil, err
		}
		srv.HTTPAddr = l.Addr().String()
		srv.http(l, http.HandlerFunc(srv.first))
	}
	if s.TFTP >= 0 {
		if err := srv.tftp(); err != nil {
			return nil, err
		}
	}
	if s.DHCP >= 0 {
		if err := srv.dhcp(); err != nil {
			return nil, err
		}
	}
	return srv, nil
}

func join(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// Close stops everything at once; transfers are cut.
func (s *Server) Close() error {
	s.mu.Lock()
	closers := s.closers
	s.closers = nil
	s.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) http(l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 30 * time.Second,
		// A machine that does not trust this server says so here, in TLS's own words.
		ErrorLog: log.New(errorLog{s.service.Log}, "", 0),
	}
	s.closers = append(s.closers, srv.Close)
	s.wg.Go(func() { _ = srv.Serve(l) })
}

type errorLog struct{ log *slog.Logger }

func (e errorLog) Write(p []byte) (int, error) {
	e.log.Warn("connection", "err", clean(string(p)))
	return len(p), nil
}

// first serves what firmware and iPXE fetch: nothing that is secret, and nothing
// that the machine trusts for being from here.
func (s *Server) first(w http.ResponseWriter, r *http.Request) {
	switch name := strings.TrimPrefix(r.URL.Path, "/"); name {
	case ScriptFile:
		s.service.Log.Info("script", "from", r.RemoteAddr)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, s.script())
	case KernelFile, InitrdFile:
		s.file(w, r, name)
	default:
		http.NotFound(w, r)
	}
}

// script is the set's script with this server's address in it.
func (s *Server) script() string {
	_, port, _ := net.SplitHostPort(s.HTTPSAddr)
	var words []string
	if text, err := s.root.ReadFile(ScriptFile); err == nil {
		words = wordsOf(string(text))
	}
	return Script("https://"+net.JoinHostPort(s.service.Public, port)+"/", append(words, s.service.Append...))
}

// second serves what the installing machine fetches, and takes its reports.
func (s *Server) second(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case name == netimage.ReportPath && r.Method == http.MethodPost:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<10))
		if err != nil {
			http.Error(w, "too long", http.StatusRequestEntityTooLarge)
			return
		}
		s.service.Log.Info("machine", "from", r.RemoteAddr, "says", clean(string(body)))
		w.WriteHeader(http.StatusNoContent)
	case name == netimage.ManifestFile, name == netimage.SignatureFile, name == netimage.DiskFile,
		path.Dir(name) == machineDir && strings.HasSuffix(name, ".ign"):
		s.file(w, r, name)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) file(w http.ResponseWriter, r *http.Request, name string) {
	f, err := s.root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	s.service.Log.Info("file", "from", r.RemoteAddr, "name", name, "range", clean(r.Header.Get("Range")))
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// clean makes foreign text one line of a log.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

// Wait serves until ctx ends.
func (s *Server) Wait(ctx context.Context) error {
	<-ctx.Done()
	return s.Close()
}
