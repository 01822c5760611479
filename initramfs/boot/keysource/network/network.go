// Package network brings up the network of an initramfs for the first key that is
// fetched over it, see package remote, and takes it down again.
//
//	n := network.FromLine(line) // the kernel line
//	more := n.Fetchers()
//	defer n.Down()
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/remote"
)

// Network is the network of an initramfs.
type Network struct {
	line string
	bond string
	vlan string

	mu    sync.Mutex
	up    bool
	links []netlink.Link
	stack stack
}

// New is a network to bring up when the first source needs it. ip is the value
// of the kernel line's ip=, "" for DHCP.
func New(ip string) *Network { return &Network{line: ip} }

// FromLine is New with ip=, bond= and vlan= of the kernel line.
func FromLine(line cmdline.Line) *Network {
	n := New("")
	n.line, _ = line.Get("ip")
	n.bond, _ = line.Get("bond")
	n.vlan, _ = line.Get("vlan")
	return n
}

// Fetchers are the sources beyond this network, for keysource.Request.More.
func (n *Network) Fetchers() map[string]keysource.Fetcher { return remote.Fetchers(n.Up) }

// Up configures the first interface that gets an address. It waits for links and
// answers until ctx ends. Once up it stays up for the other sources.
func (n *Network) Up(ctx context.Context, req keysource.Request) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up {
		return nil
	}
	static, err := parseIP(n.line)
	if err != nil {
		return err
	}
	made, err := parseStack(n.bond, n.vlan)
	if err != nil {
		return err
	}
	if top := made.top(); top != "" {
		if static.iface != "" && static.iface != top {
			return fmt.Errorf("ip=%s: the address belongs to %s, which bond= and vlan= make", n.line, top)
		}
		static.iface = top
	}
	if req.Module != nil {
		if err := req.Module("af_packet"); err != nil {
			return err
		}
	}
	n.stack = made
	if err := made.prepare(req); err != nil {
		return err
	}
	updates := make(chan netlink.LinkUpdate, 64)
	stop := make(chan struct{})
	defer close(stop)
	if err := netlink.LinkSubscribeWithOptions(updates, stop, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leases := make(chan lease)
	asked := map[int]bool{}
	var last error = errors.New("no network interface")
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return errors.New("network: no more news of interfaces")
			}
			attrs := u.Attrs()
			if u.Header.Type != unix.RTM_NEWLINK || attrs.Flags&net.FlagLoopback != 0 {
				continue
			}
			own := made.own(attrs.Name)
			if own {
				if err := made.grow(u.Link); err != nil {
					last = err
					continue
				}
			}
			if !own && (u.Type() != "device" || static.iface != "" && attrs.Name != static.iface) {
				continue
			}
			if attrs.Flags&net.FlagUp == 0 {
				if err := netlink.LinkSetUp(u.Link); err != nil {
					last = fmt.Errorf("%s: %w", attrs.Name, err)
				}
				n.links = append(n.links, u.Link)
				continue
			}
			if own && attrs.Name != static.iface {
				continue // it carries the one that gets the address
			}
			if !carrier(u.Link, u.Flags) || asked[attrs.Index] {
				last = fmt.Errorf("%s: no carrier", attrs.Name)
				continue
			}
			asked[attrs.Index] = true
			last = fmt.Errorf("%s: no answer to DHCP", attrs.Name)
			go ask(ctx, u.Link, static, leases)
		case l := <-leases:
			if l.err != nil {
				last = l.err
				continue
			}
			if err := l.apply(); err != nil {
				last = err
				continue
			}
			req.Log.Info("network is up", "interface", l.link.Attrs().Name, "address", l.addr.String(), "gateway", l.gateway.String())
			n.up = true
			return nil
		case <-ctx.Done():
			return fmt.Errorf("network: %w: %w", last, ctx.Err())
		}
	}
}

// lease is an address for an interface.
type lease struct {
	link    netlink.Link
	addr    *net.IPNet
	gateway net.IP
	dns     []net.IP
	err     error
}

// ask obtains a lease for a link, by DHCP unless there is a static address.
func ask(ctx context.Context, link netlink.Link, static static, out chan<- lease) {
	l := lease{link: link, addr: static.addr, gateway: static.gateway, dns: static.dns}
	if static.addr == nil {
		l = discover(ctx, link)
	}
	select {
	case out <- l:
	case <-ctx.Done():
	}
}

func discover(ctx context.Context, link netlink.Link) lease {
	name := link.Attrs().Name
	fail := func(err error) lease { return lease{link: link, err: fmt.Errorf("%s: DHCP: %w", name, err)} }
	client, err := nclient4.New(name, nclient4.WithRetry(20))
	if err != nil {
		return fail(err)
	}
	defer client.Close()
	got, err := client.Request(ctx)
	if err != nil {
		return fail(err)
	}
	l, err := leaseOf(got.ACK)
	if err != nil {
		return fail(err)
	}
	l.link = link
	return l
}

// leaseOf takes from a DHCP answer the few options that are used here, RFC 2132:
// subnet mask, router, domain name servers.
func leaseOf(ack *dhcpv4.DHCPv4) (lease, error) {
	mask := ack.SubnetMask()
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		return lease{}, fmt.Errorf("subnet mask %s", mask)
	}
	ip := ack.YourIPAddr.To4()
	if ip == nil || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
		return lease{}, fmt.Errorf("address %s", ack.YourIPAddr)
	}
	l := lease{addr: &net.IPNet{IP: ip, Mask: mask}}
	if r := ack.Router(); len(r) > 0 {
		l.gateway = r[0]
	}
	dns := ack.DNS()
	l.dns = slices.Clone(dns[:min(len(dns), 3)]) // MAXNS of resolv.conf(5)
	return l, nil
}

// apply gives the interface its address and writes resolv.conf(5).
func (l lease) apply() error {
	name := l.link.Attrs().Name
	if err := netlink.AddrReplace(l.link, &netlink.Addr{IPNet: l.addr}); err != nil {
		return fmt.Errorf("%s: address %s: %w", name, l.addr, err)
	}
	if l.gateway != nil {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.link.Attrs().Index, Gw: l.gateway}); err != nil {
			return fmt.Errorf("%s: gateway %s: %w", name, l.gateway, err)
		}
	}
	var b strings.Builder
	for _, d := range l.dns {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644)
}

// Down takes addresses and links away again, so that the system finds its
// interfaces as the kernel made them.
func (n *Network) Down(log *slog.Logger) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		addrs, err := netlink.AddrList(l, unix.AF_INET)
		if err != nil {
			log.Warn("network: "+err.Error(), "interface", l.Attrs().Name)
		}
		for _, a := range addrs {
			if err := netlink.AddrDel(l, &a); err != nil {
				log.Warn("network: "+err.Error(), "interface", l.Attrs().Name)
			}
		}
		if err := netlink.LinkSetDown(l); err != nil {
			log.Warn("network: "+err.Error(), "interface", l.Attrs().Name)
		}
	}
	if err := n.stack.remove(); err != nil {
		log.Warn("network: " + err.Error())
	}
	n.links, n.up, n.stack = nil, false, stack{}
}
