package control

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// A listener is a socket that may be open: protocol, port and the program's
// name as ss(8) prints it, cut to 15 characters by the kernel.
type listener struct {
	proto, port, program string
	loopback             bool // only there
}

// listeners may be open on every machine.
var listeners = []listener{
	{"tcp", "22", "sshd", false},
	{"tcp", "22", "systemd", false},         // ssh.socket, where a release activates sshd by it
	{"udp", "68", "systemd-network", false}, // DHCP
	{"udp", "546", "systemd-network", false},
	{"udp", "323", "chronyd", true}, // chronyc
	{"tcp", "53", "systemd-resolve", true},
	{"udp", "53", "systemd-resolve", true},
}

// ssUsers finds the program in users:(("sshd",pid=364,fd=3)).
var ssUsers = regexp.MustCompile(`users:\(\("([^"]*)"`)

// checkListening compares every listening socket with what may listen; extra are
// the profile's own, such as "tcp/443".
func checkListening(ctx context.Context, m *Machine, extra []string) (string, error) {
	out, err := m.Run(ctx, "ss", "--no-header", "--tcp", "--udp", "--listening", "--numeric", "--processes")
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(out) == "" {
		return "", fmt.Errorf("ss lists no socket at all, not even sshd's")
	}
	var faults []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		proto, local := f[0], f[4]
		colon := strings.LastIndexByte(local, ':')
		if colon < 0 {
			return "", fmt.Errorf("ss printed the address %q", local)
		}
		host, port := local[:colon], local[colon+1:]
		program := "?"
		if u := ssUsers.FindStringSubmatch(line); u != nil {
			program = u[1]
		}
		ok := slices.Contains(extra, proto+"/"+port) || slices.ContainsFunc(listeners, func(l listener) bool {
			return l.proto == proto && l.port == port && l.program == program && (!l.loopback || isLoopback(host))
		})
		if !ok {
			faults = append(faults, fmt.Sprintf("%s %s by %s", proto, local, program))
		}
	}
	slices.Sort(faults)
	return orFaults(faults, "only allowed sockets"), nil
}

// isLoopback reads the address of ss: "127.0.0.53%lo", "[::1]".
func isLoopback(host string) bool {
	host, _, _ = strings.Cut(strings.Trim(host, "[]"), "%")
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
