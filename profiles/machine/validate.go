package machine

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/images/strict"
)

// check holds what needs more than a field's tag.
type check struct {
	m   *Machine
	d   *strict.Document
	now time.Time
}

func (c check) all() {
	if !isHost(c.m.Hostname) || len(c.m.Hostname) > 64 {
		c.d.Fault("hostname", "letters, digits and - in labels of at most 63, such as db1.example.org, together at most 64 (RFC 1123, hostname(7))",
			"is %q, which is no host name", c.m.Hostname)
	}
	if _, err := netip.ParseAddr(c.m.Hostname); err == nil || c.m.Hostname == "localhost" {
		c.d.Fault("hostname", "give the machine a name of its own", "is %q, which names no single machine", c.m.Hostname)
	}
	c.people()
	if c.m.Logging != nil {
		c.logging(c.m.Logging)
	}
	if c.m.Backup != nil {
		c.backup(c.m.Backup)
	}
	for i, s := range c.m.Time {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = s, "123" // ntp, RFC 5905
		}
		n, err := strconv.Atoi(port)
		if _, addrErr := netip.ParseAddr(host); addrErr != nil && !isHost(host) || err != nil || n < 1 || n > 65535 {
			c.d.Fault(fmt.Sprintf("time_servers[%d]", i), "such as time.example.org, 192.0.2.1 or [2001:db8::1]:1123", "is %q, which is no host name or address, with or without a port", s)
		}
	}
	if c.m.Network != nil {
		c.network(c.m.Network)
	}
}

// label is one part of a host name, RFC 1123 section 2.1.
var label = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

func isHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !label.MatchString(part) {
			return false
		}
	}
	return true
}

// loginName has no dot: sudo does not read a file of sudoers.d with one in its name.
var loginName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

var groupName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// reserved are accounts that distributions or ward make.
var reserved = []string{
	"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup", "list",
	"irc", "nobody", "sshd", "messagebus", "operator", "shutdown", "halt", "adm", "ftp", "tss", "polkitd", "chrony", "syslog",
	"aide", "dbus", "systemd-network", "systemd-resolve", "systemd-timesync", "systemd-coredump", "phi-service", "phi-access", "breakglass",
}

// shared are names of jobs and defaults. An account with such a name is used by
// more than one person sooner or later, and then no record says who it was.
var shared = []string{
	"admin", "administrator", "ansible", "clinic", "cloud-user", "debian", "demo", "deploy", "doctor", "doctors", "ec2-user",
	"emergency", "everyone", "frontdesk", "guest", "lab", "medic", "nurse", "nurses", "office", "patient", "pharmacy", "public",
	"reception", "rocky", "service", "shared", "staff", "support", "temp", "test", "ubuntu", "user", "users", "vagrant", "ward",
}

// asRoot are groups whose members become root without sudo's log, or read what only root may.
var asRoot = []string{"root", "sudo", "wheel", "admin", "shadow", "disk", "kmem", "docker", "lxd", "libvirt", "kvm"}

// crypted is a hash of crypt(5) by yescrypt or sha512crypt. Others are weaker,
// or not known to every release.
var crypted = regexp.MustCompile(`^(\$y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{0,86}\$[./A-Za-z0-9]{43}|\$6\$(rounds=[0-9]{4,9}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86})$`)

func (c check) people() {
	names, keys := map[string]int{}, map[string]int{}
	for i, p := range c.m.People {
		at := fmt.Sprintf("people[%d].", i)
		first, twice := names[p.Name]
		switch {
		case !loginName.MatchString(p.Name):
			c.d.Fault(at+"name", "a letter, then at most 31 of a-z, 0-9, _ and -", "is %q, which is no login name", p.Name)
		case slices.Contains(reserved, p.Name):
			c.d.Fault(at+"name", "give the person's own name", "is %q, which is a system account", p.Name)
		case slices.Contains(shared, p.Name):
			c.d.Fault(at+"name", "each person has an account of their own (45 CFR 164.312(a)(2)(i))", "is %q, which names no single person", p.Name)
		case twice:
			c.d.Fault(at+"name", "", "is %q, which is people[%d] already", p.Name, first)
		default:
			names[p.Name] = i
		}
		if strings.ContainsAny(p.FullName, ":,\n\r\x00") || strings.TrimSpace(p.FullName) != p.FullName {
			c.d.Fault(at+"full_name", "passwd(5) cannot hold it", "has a comma, a colon, a line break or a blank at its end")
		}
		for k, line := range p.SSHKeys {
			here := fmt.Sprintf("%sssh_keys[%d]", at, k)
			key, err := sshKey(line)
			if err != nil {
				c.d.Fault(here, "give the line of the .pub file; ssh-keygen -t ed25519 makes a pair", "%v", err)
				continue
			}
			if owner, used := keys[key]; used {
				c.d.Fault(here, "nobody shares a key", "is a key of people[%d] already", owner)
			}
			keys[key] = i
		}
		for k, g := range p.Groups {
			here := fmt.Sprintf("%sgroups[%d]", at, k)
			switch {
			case !groupName.MatchString(g):
				c.d.Fault(here, "", "is %q, which is no name of a group", g)
			case slices.Contains(asRoot, g):
				c.d.Fault(here, "write sudo: true, which is logged", "is %q, which is as good as root", g)
			case g == p.Name:
				c.d.Fault(here, "remove it", "is %q, the person's own group, which is made anyway", g)
			case slices.Index(p.Groups, g) < k:
				c.d.Fault(here, "remove one", "is %q again", g)
			}
		}
		if p.PasswordHash != "" && !crypted.MatchString(p.PasswordHash) {
			c.d.Fault(at+"password_hash", "mkpasswd -m yescrypt makes one", "is no hash of crypt(5) by yescrypt ($y$) or sha512 ($6$)")
		}
	}
}

// hostPort checks the address of a service.
func (c check) hostPort(at, value string) {
	host, port, err := net.SplitHostPort(value)
	n, convErr := strconv.Atoi(port)
	_, addrErr := netip.ParseAddr(host)
	if err != nil || convErr != nil || n < 1 || n > 65535 || addrErr != nil && !isHost(host) {
		c.d.Fault(at, "such as log.example.org:6514", "is %q, want a host and a port", value)
	}
}

func (c check) network(n *Network) {
	prefix, err := netip.ParsePrefix(n.Address)
	if err != nil {
		c.d.Fault("network.address", "such as 10.1.2.3/24", "is %q, want an address with the length of its network", n.Address)
	} else if prefix.Bits() < prefix.Addr().BitLen()-1 && prefix.Masked().Addr() == prefix.Addr() {
		c.d.Fault("network.address", "give the machine's own address", "is %q, which is the network itself", n.Address)
	}
	gateway, gwErr := netip.ParseAddr(n.Gateway)
	switch {
	case gwErr != nil:
		c.d.Fault("network.gateway", "", "is %q, which is no address", n.Gateway)
	case err == nil && !prefix.Contains(gateway) && !gateway.IsLinkLocalUnicast():
		c.d.Fault("network.gateway", "", "is %s, which is not in %s", gateway, prefix.Masked())
	case err == nil && gateway == prefix.Addr():
		c.d.Fault("network.gateway", "", "is the machine itself")
	}
	for i, s := range n.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			c.d.Fault(fmt.Sprintf("network.dns[%d]", i), "", "is %q, which is no address", s)
		}
	}
}
