package network

import (
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestParseIP(t *testing.T) {
	for _, c := range []struct {
		line  string
		addr  string
		gw    string
		iface string
		dns   int
	}{
		{"", "<nil>", "<nil>", "", 0}, {"dhcp", "<nil>", "<nil>", "", 0}, {"::::host:eth1:dhcp", "<nil>", "<nil>", "eth1", 0},
		{"192.0.2.7::192.0.2.1:255.255.255.0:host:eth0:none:192.0.2.53:192.0.2.54", "192.0.2.7/24", "192.0.2.1", "eth0", 2},
		{"192.0.2.7:::255.255.255.0", "192.0.2.7/24", "<nil>", "", 0},
	} {
		got, err := parseIP(c.line)
		if err != nil {
			t.Errorf("parseIP(%q): %v", c.line, err)
			continue
		}
		if got.addr.String() != c.addr || got.gateway.String() != c.gw || got.iface != c.iface || len(got.dns) != c.dns {
			t.Errorf("parseIP(%q) = %+v", c.line, got)
		}
	}
	for _, bad := range []string{"x", "1.2.3.4", "1.2.3.4:::255.0.255.0", "1.2.3.4:::255.0.0.0:::dhcp", "1.2.3.4::gw:255.0.0.0", ":::::eth0:bootp", strings.Repeat(":", 20)} {
		if _, err := parseIP(bad); err == nil || !strings.Contains(err.Error(), "ip="+bad) {
			t.Errorf("parseIP(%q) = %v, want an error that quotes it", bad, err)
		}
	}
}

func ack(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 9)), dhcpv4.WithNetmask(net.CIDRMask(24, 32))}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLeaseOf(t *testing.T) {
	l, err := leaseOf(ack(t, dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(1, 1, 1, 1), net.IPv4(2, 2, 2, 2), net.IPv4(3, 3, 3, 3), net.IPv4(4, 4, 4, 4))))
	if err != nil || l.addr.String() != "192.0.2.9/24" || l.gateway.String() != "192.0.2.1" || len(l.dns) != 3 {
		t.Errorf("leaseOf = %+v, %v", l, err)
	}
	for want, m := range map[string]*dhcpv4.DHCPv4{
		"subnet mask": ack(t, dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})),
		"address":     ack(t, dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))),
	} {
		if _, err := leaseOf(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("leaseOf = %v, want an error with %q", err, want)
		}
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(1, 1, 1, 1))).ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		if l, err := leaseOf(m); err == nil && (l.addr == nil || len(l.dns) > 3) {
			t.Errorf("lease %+v", l)
		}
	})
}

func FuzzParseIP(f *testing.F) {
	f.Add("192.0.2.7::192.0.2.1:255.255.255.0:host:eth0:none:192.0.2.53")
	f.Fuzz(func(t *testing.T, s string) {
		if st, err := parseIP(s); err == nil && st.addr != nil && st.addr.IP.To4() == nil {
			t.Errorf("parseIP(%q) = %+v", s, st)
		}
	})
}
