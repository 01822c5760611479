package network

import (
	"testing"

	"ward/initramfs/boot/cmdline"
)

// Each of the three words of the kernel line comes to the network; none is DHCP.
func TestFromLine(t *testing.T) {
	for _, c := range []struct{ line, ip, bond, vlan string }{
		{"quiet", "", "", ""},
		{"ip=192.0.2.5::192.0.2.1:255.255.255.0 bond=bond0:a,b vlan=vlan5:bond0", "192.0.2.5::192.0.2.1:255.255.255.0", "bond0:a,b", "vlan5:bond0"},
	} {
		n := FromLine(cmdline.Parse(c.line))
		if n.line != c.ip || n.bond != c.bond || n.vlan != c.vlan {
			t.Errorf("FromLine(%q) has ip=%q bond=%q vlan=%q", c.line, n.line, n.bond, n.vlan)
		}
	}
}
