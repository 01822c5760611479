package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"ward/profiles/machine"
)

// networkPath sorts before the image's file, which asks DHCP: systemd.network(5),
// the first file that matches an interface counts.
const networkPath = "etc/systemd/network/10-ward.network"

// networkFile is systemd.network(5) for a static address. Router advertisements
// would bring a second address and a second router.
func networkFile(n *machine.Network) string {
	var b strings.Builder
	b.WriteString("# Written by ward from the machine file.\n[Match]\nType=ether\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\n")
	fmt.Fprintf(&b, "Address=%s\nGateway=%s\n", n.Address, n.Gateway)
	for _, dns := range n.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", dns)
	}
	return b.String()
}

// network gives the machine the address of its file, or leaves it to DHCP.
func (m *Machine) network(ctx context.Context, n *machine.Network) error {
	var changed bool
	var err error
	if n == nil {
		switch err = m.root.Remove(networkPath); {
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		case err == nil:
			changed = true
		}
	} else {
		// networkd has an account of its own.
		changed, err = writeFile(m.root, networkPath, []byte(networkFile(n)), 0o644, 0, 0)
	}
	if err != nil || !changed || m.root.Name() != "/" { // a test's tree has no network
		return err
	}
	// It takes up what is new for the interfaces that are there: networkctl(1).
	_, err = m.run(ctx, nil, "networkctl", "reload")
	return err
}
