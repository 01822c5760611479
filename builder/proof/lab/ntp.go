package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"
)

// TimeServer answers NTP version 3 and 4 clients with the host's clock, RFC 5905.
type TimeServer struct {
	conn net.PacketConn
	done sync.WaitGroup
}

// StartTimeServer listens on a free UDP port of the loopback interface.
func StartTimeServer() (*TimeServer, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("time server: %w", err)
	}
	s := &TimeServer{conn: conn}
	s.done.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := ntpReply(buf[:n], time.Now()); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	})
	return s, nil
}

// Port is where it listens.
func (s *TimeServer) Port() int { return s.conn.LocalAddr().(*net.UDPAddr).Port }

// Close stops it.
func (s *TimeServer) Close() error {
	err := s.conn.Close()
	s.done.Wait()
	return err
}

// ntpReply answers a client's packet (mode 3), section 7.3; others get nothing.
func ntpReply(packet []byte, now time.Time) []byte {
	if len(packet) < 48 {
		return nil
	}
	version, mode := packet[0]>>3&7, packet[0]&7
	if mode != 3 || version < 3 || version > 4 {
		return nil
	}
	reply := make([]byte, 48)
	reply[0] = version<<3 | 4                 // no leap second announced, server
	reply[1] = 1                              // stratum: a reference clock
	reply[2] = packet[2]                      // poll
	reply[3] = 0xec                           // precision: 2^-20 s
	binary.BigEndian.PutUint32(reply[8:], 16) // root dispersion: 0.25 ms
	copy(reply[12:], "LOCL")
	putNTP(reply[16:], now.Add(-time.Second)) // when our clock was set
	copy(reply[24:32], packet[40:48])         // the client's transmit time
	putNTP(reply[32:], now)
	putNTP(reply[40:], time.Now())
	return reply
}

// ntpEpoch is 1900-01-01 in seconds before 1970.
const ntpEpoch = 2208988800

func putNTP(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+ntpEpoch))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}
