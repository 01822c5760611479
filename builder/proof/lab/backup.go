package lab

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	restserver "github.com/restic/rest-server"
)

// BackupServer is restic's own REST server, over TLS and append-only: a machine
// that was broken into cannot delete its backups.
type BackupServer struct {
	server   *http.Server
	listener net.Listener
	done     sync.WaitGroup
	dir      string
}

// StartBackupServer keeps repositories below dir; the first part of the URL's
// path is the repository.
func StartBackupServer(pair Pair, dir string) (*BackupServer, error) {
	return StartBackupServerAt("127.0.0.1:0", pair, dir, 0)
}

// StartBackupServerAt is StartBackupServer on a given address, for a server that
// comes back, and with room for so many bytes; 0: for as many as the disk has.
func StartBackupServerAt(addr string, pair Pair, dir string, bytes int64) (*BackupServer, error) {
	cert, err := pair.tls()
	if err != nil {
		return nil, fmt.Errorf("backup server: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("backup server: %w", err)
	}
	listener, err := tls.Listen("tcp", addr, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, fmt.Errorf("backup server: %w", err)
	}
	// The library tells the standard logger about every repository; nothing else
	// of ours uses that logger.
	log.SetOutput(io.Discard)
	handler, err := restserver.NewHandler(&restserver.Server{Path: dir, NoAuth: true, AppendOnly: true, MaxRepoSize: bytes})
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("backup server: %w", err)
	}
	s := &BackupServer{listener: listener, dir: dir, server: &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
	}}
	s.done.Go(func() { s.server.Serve(listener) })
	return s, nil
}

// Port is where it listens.
func (s *BackupServer) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Dir has the repositories.
func (s *BackupServer) Dir() string { return s.dir }

// Close stops it.
func (s *BackupServer) Close() error {
	err := s.server.Close()
	s.done.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
