package pxe

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// dhcp answers as a proxy: another server gives addresses, this one adds where to
// boot from (PXE specification 2.1, section 2.2). It listens where it is told to and
// never gives an address itself.
func (s *Server) dhcp() error {
	conn, err := net.ListenPacket("udp4", join(s.service.Address, s.service.DHCP))
	if err != nil {
		return err
	}
	s.DHCPAddr = conn.LocalAddr().String()
	s.closers = append(s.closers, conn.Close)
	s.wg.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			s.answer(conn, from, buf[:n])
		}
	})
	return nil
}

func (s *Server) answer(conn net.PacketConn, from net.Addr, packet []byte) {
	reply, err := s.offer(packet)
	if err != nil {
		s.service.Log.Debug("dhcp", "from", from.String(), "err", err)
		return
	}
	to := from
	// Who has no address yet is answered by broadcast, RFC 2131, section 4.1.
	if udp, ok := from.(*net.UDPAddr); ok && udp.IP.IsUnspecified() {
		to = &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
	}
	if _, err := conn.WriteTo(reply.ToBytes(), to); err != nil {
		s.service.Log.Warn("dhcp", "to", to.String(), "err", err)
		return
	}
	s.service.Log.Info("dhcp", "mac", reply.ClientHWAddr.String(), "boot", reply.BootFileName)
}

// offer is the answer to one packet, which anybody may have sent.
func (s *Server) offer(packet []byte) (*dhcpv4.DHCPv4, error) {
	req, err := dhcpv4.FromBytes(packet)
	if err != nil {
		return nil, err
	}
	if req.OpCode != dhcpv4.OpcodeBootRequest || !strings.HasPrefix(req.ClassIdentifier(), "PXEClient") {
		return nil, errors.New("not from firmware that boots")
	}
	kind := dhcpv4.MessageTypeOffer
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck // the boot server's part, on port 4011
	default:
		return nil, fmt.Errorf("message %s", req.MessageType())
	}
	own := net.ParseIP(s.service.Public).To4()
	if own == nil {
		return nil, fmt.Errorf("%s is no IPv4 address", s.service.Public)
	}
	file, err := s.bootFile(req)
	if err != nil {
		return nil, err
	}
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(own),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(own)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")),
		// PXE_DISCOVERY_CONTROL 8: take the boot file of this answer, ask nobody else.
		dhcpv4.WithGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}),
	)
	if err != nil {
		return nil, err
	}
	reply.YourIPAddr = net.IPv4zero
	reply.BootFileName = file
	if uuid := req.GetOneOption(dhcpv4.OptionClientMachineIdentifier); uuid != nil {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, uuid))
	}
	return reply, nil
}

// bootFile is what a client loads next: iPXE the script, firmware an iPXE.
func (s *Server) bootFile(req *dhcpv4.DHCPv4) (string, error) {
	for _, class := range req.UserClass() {
		if class == "iPXE" {
			_, port, err := net.SplitHostPort(s.HTTPAddr)
			if err != nil {
				return "", errors.New("nothing serves HTTP")
			}
			return "http://" + net.JoinHostPort(s.service.Public, port) + "/" + ScriptFile, nil
		}
	}
	for _, a := range req.ClientArch() {
		switch a {
		case iana.INTEL_X86PC:
			return loaderBIOS, nil
		case iana.EFI_X86_64, iana.EFI_BC:
			return loaderEFI, nil
		}
	}
	return "", errors.New("no loader for this processor")
}
