package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// LogServer receives syslog over TLS 1.2 or later (RFC 5425) from clients whose
// certificate our authority signed. It understands both framings of RFC 6587:
// octet counting and lines.
type LogServer struct {
	listener net.Listener
	done     sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{}
	file    *os.File
	count   int
	peers   map[string]int // common names, with how many connections
	refused []string       // why handshakes failed
	conns   map[net.Conn]bool
	text    []byte // the last received bytes, for Expect
}

const (
	logLineMax = 64 << 10 // bytes of one message
	logKeep    = 16 << 20 // bytes kept in memory
	logRefused = 100      // reasons kept
)

// StartLogServer listens on a free port of the loopback interface and writes
// every message as one line to file.
func StartLogServer(pair Pair, ca *Authority, file string) (*LogServer, error) {
	return StartLogServerAt("127.0.0.1:0", pair, ca, file)
}

// StartLogServerAt is StartLogServer on a given address: a server that comes back.
func StartLogServerAt(addr string, pair Pair, ca *Authority, file string) (*LogServer, error) {
	cert, err := pair.tls()
	if err != nil {
		return nil, fmt.Errorf("log server: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log server: %w", err)
	}
	listener, err := tls.Listen("tcp", addr, &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: ca.pool(), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("log server: %w", err)
	}
	s := &LogServer{listener: listener, file: f, changed: make(chan struct{}), peers: map[string]int{}, conns: map[net.Conn]bool{}}
	s.done.Go(s.accept)
	return s, nil
}

// Port is where it listens.
func (s *LogServer) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

func (s *LogServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.done.Go(func() {
			defer func() {
				conn.Close()
				s.mu.Lock()
				delete(s.conns, conn)
				s.mu.Unlock()
			}()
			s.serve(conn.(*tls.Conn))
		})
	}
}

func (s *LogServer) serve(conn *tls.Conn) {
	conn.SetDeadline(time.Now().Add(time.Minute))
	if err := conn.Handshake(); err != nil {
		s.mu.Lock()
		if len(s.refused) < logRefused {
			s.refused = append(s.refused, err.Error())
		}
		s.mu.Unlock()
		return
	}
	conn.SetDeadline(time.Time{})
	s.mu.Lock()
	s.peers[conn.ConnectionState().PeerCertificates[0].Subject.CommonName]++
	s.mu.Unlock()
	r := bufio.NewReaderSize(conn, logLineMax)
	for {
		message, err := frame(r)
		if len(message) > 0 {
			s.take(message)
		}
		if err != nil {
			return
		}
	}
}

// frame reads one message: "LENGTH MESSAGE", or a line.
func frame(r *bufio.Reader) ([]byte, error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] < '0' || first[0] > '9' {
		line, err := r.ReadSlice('\n')
		return bytes.Clone(bytes.TrimRight(line, "\r\n")), err
	}
	n := 0
	for {
		c, err := r.ReadByte()
		switch {
		case err != nil:
			return nil, err
		case c == ' ':
			message := make([]byte, n)
			_, err := io.ReadFull(r, message)
			return bytes.TrimRight(message, "\r\n"), err
		case c < '0' || c > '9':
			return nil, fmt.Errorf("length with %q in it", c)
		}
		if n = n*10 + int(c-'0'); n > logLineMax {
			return nil, fmt.Errorf("message of more than %d bytes", logLineMax)
		}
	}
}

func (s *LogServer) take(message []byte) {
	line := append(bytes.ReplaceAll(message, []byte("\n"), []byte("\\n")), '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.file.Write(line)
	s.text = append(s.text, line...)
	if over := len(s.text) - logKeep; over > 0 {
		s.text = append(s.text[:0], s.text[over:]...)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Count is how many messages arrived.
func (s *LogServer) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Peers are the common names that connected, and Refused why others could not.
func (s *LogServer) Peers() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers := map[string]int{}
	for name, n := range s.peers {
		peers[name] = n
	}
	return peers
}

// Refused is why handshakes failed, oldest first.
func (s *LogServer) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.refused...)
}

// Expect waits until a message holds all of texts and returns the message.
func (s *LogServer) Expect(ctx context.Context, texts ...string) (string, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		for line := range bytes.Lines(s.text) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !bytes.Contains(line, []byte(text)) }) {
				s.mu.Unlock()
				return string(bytes.TrimSpace(line)), nil
			}
		}
		count, refused := s.count, s.refused
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("log server: no message with %q among %d; refused: %q: %w", texts, count, refused, context.Cause(ctx))
		}
	}
}

// Close stops it and cuts every connection.
func (s *LogServer) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		conn.(*tls.Conn).NetConn().Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return errors.Join(err, s.file.Close())
}
