package network

import (
	"fmt"
	"net"
	"strings"
)

// static is an address from the kernel line; without addr it is DHCP.
type static struct {
	addr    *net.IPNet
	gateway net.IP
	dns     []net.IP
	iface   string // "" is any
}

// parseIP reads the value of ip=, the part of the kernel's own syntax that makes
// sense here (Documentation/admin-guide/nfs/nfsroot.rst):
//
//	ip=dhcp   ip=::::NAME:IFACE:dhcp   ip=ADDRESS::GATEWAY:NETMASK:NAME:IFACE:none[:DNS0[:DNS1]]
func parseIP(s string) (static, error) {
	if s == "" || s == "dhcp" || s == "on" || s == "any" {
		return static{}, nil
	}
	fault := func(what string) (static, error) { return static{}, fmt.Errorf("ip=%s: %s", s, what) }
	f := strings.Split(s, ":")
	if len(f) > 10 {
		return fault("too many fields")
	}
	f = append(f, make([]string, 10-len(f))...)
	st := static{iface: f[5]}
	if f[0] == "" {
		if f[6] != "" && f[6] != "dhcp" && f[6] != "on" && f[6] != "any" {
			return fault("without an address, autoconf must be dhcp")
		}
		return st, nil
	}
	ip, mask := net.ParseIP(f[0]).To4(), net.ParseIP(f[3]).To4()
	if ip == nil {
		return fault("the address is no IPv4 address")
	}
	if mask == nil {
		return fault("the netmask is none")
	}
	if ones, bits := net.IPMask(mask).Size(); bits == 0 || ones == 0 {
		return fault("the netmask is none")
	}
	if f[6] != "" && f[6] != "none" && f[6] != "off" {
		return fault("with an address, autoconf must be none")
	}
	st.addr = &net.IPNet{IP: ip, Mask: net.IPMask(mask)}
	for _, p := range []struct {
		text string
		set  func(net.IP)
	}{
		{f[2], func(ip net.IP) { st.gateway = ip }},
		{f[7], func(ip net.IP) { st.dns = append(st.dns, ip) }},
		{f[8], func(ip net.IP) { st.dns = append(st.dns, ip) }},
	} {
		if p.text == "" {
			continue
		}
		ip := net.ParseIP(p.text)
		if ip == nil {
			return fault(p.text + " is no address")
		}
		p.set(ip)
	}
	return st, nil
}
