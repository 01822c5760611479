package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pin/tftp/v3"
)

// iPXE's binaries, by the names that Debian's package ipxe gives them.
const (
	loaderBIOS = "undionly.kpxe"
	loaderEFI  = "snponly.efi"
)

var errNoFile = errors.New("no such file")

// tftp serves the loaders and the script, read-only.
func (s *Server) tftp() error {
	conn, err := net.ListenPacket("udp", join(s.service.Address, s.service.TFTP))
	if err != nil {
		return err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return errors.New("tftp: not a UDP socket")
	}
	s.TFTPAddr = conn.LocalAddr().String()
	srv := tftp.NewServer(s.sendFile, nil)
	srv.SetTimeout(3 * time.Second)
	s.closers = append(s.closers, func() error { srv.Shutdown(); return nil })
	s.wg.Go(func() { _ = srv.Serve(udp) })
	return nil
}

func (s *Server) sendFile(name string, to io.ReaderFrom) error {
	name = strings.TrimPrefix(name, "/")
	var from string
	if out, ok := to.(tftp.OutgoingTransfer); ok {
		addr := out.RemoteAddr()
		from = addr.String()
	}
	data, err := s.tftpFile(name)
	if err != nil {
		s.service.Log.Warn("tftp", "from", from, "name", clean(fmt.Sprintf("%.200q", name)), "err", err)
		return err
	}
	s.service.Log.Info("tftp", "from", from, "name", name, "bytes", len(data))
	if out, ok := to.(tftp.OutgoingTransfer); ok {
		out.SetSize(int64(len(data)))
	}
	_, err = to.ReadFrom(bytes.NewReader(data))
	return err
}

func (s *Server) tftpFile(name string) ([]byte, error) {
	switch {
	case name == ScriptFile:
		return []byte(s.script()), nil
	case slices.Contains([]string{loaderBIOS, loaderEFI}, name) && s.service.Loaders != "":
		return os.ReadFile(filepath.Join(s.service.Loaders, name))
	}
	return nil, errNoFile
}
