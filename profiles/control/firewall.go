package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/machine"
)

// Firewall lets in SSH from the profile's networks and nothing else.
func Firewall(p *profiles.Profile, r distro.Release) Control {
	return Control{
		ID:    "firewall",
		Title: "nothing is reachable but SSH, and that only from the networks of the profile",
		Why:   "A service that nobody meant to publish is reachable as soon as it starts.",
		Refs:  []string{"45 CFR 164.312(e)(1)", "45 CFR 164.308(a)(4)(i)", "NIST 800-53 SC-7"},
		Settings: []Setting{
			setting{
				name: "ruleset",
				apply: func(ctx context.Context, t *Target) error {
					// At first boot the rules know the machine's own servers, and take
					// effect at once: nft -f replaces the ruleset in one transaction.
					changed, err := updateFile(t.Root, r.Nftables, firewallRules(p.Controls.Firewall, t.Machine), 0o644)
					if err != nil || !changed || t.Phase == Bake {
						return err
					}
					_, err = t.Run(ctx, "nft", "-f", "/"+r.Nftables)
					return err
				},
				want: "as the profile says",
				check: func(ctx context.Context, m *Machine) (string, error) {
					return checkRuleset(ctx, m, firewallRules(p.Controls.Firewall, m.Config))
				},
			},
			// The unit stands before network-pre.target: no packet before the rules.
			unit{"nftables.service", unitRunning},
			setting{name: "before the network", want: "network-pre.target", check: checkFirewallOrder},
		},
	}
}

// firewallRules renders the ruleset for nft(8). Machine is nil in an image.
//
// SSH is limited to the networks; answers to what the machine itself asked for
// come back; of ICMP only what a network needs to work (RFC 4890) and an echo now
// and then. With Egress the machine reaches DNS, time, updates, its log server
// and its backup repository; the ports of the last two are taken from the
// machine's file, and their addresses where the file has an address, since a name
// may mean another address tomorrow.
func firewallRules(f profiles.Firewall, m *machine.Machine) string {
	var b strings.Builder
	b.WriteString("# ward: firewall\nflush ruleset\n\ntable inet ward {\n")
	for _, family := range []struct {
		name, typ string
		is4       bool
	}{{"ssh4", "ipv4_addr", true}, {"ssh6", "ipv6_addr", false}} {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\tauto-merge\n", family.name, family.typ)
		if nets := networks(f.SSHFrom, family.is4); len(nets) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(nets, ", "))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString(`	chain input {
		type filter hook input priority filter; policy drop;
		iif lo accept
		ct state established,related accept
		ct state invalid drop
		tcp dport 22 ip saddr @ssh4 accept
		tcp dport 22 ip6 saddr @ssh6 accept
		icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
		icmp type echo-request limit rate 5/second accept
		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept
		icmpv6 type echo-request limit rate 5/second accept
		udp sport 67 udp dport 68 accept
		ip6 saddr fe80::/10 udp dport 546 accept
		limit rate 6/minute log prefix "ward-firewall: "
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
	chain output {
`)
	if !f.Egress {
		b.WriteString("\t\ttype filter hook output priority filter; policy accept;\n\t}\n}\n")
		return b.String()
	}
	b.WriteString(`		type filter hook output priority filter; policy drop;
		oif lo accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		udp dport { 53, 67, 123, 547 } accept
		tcp dport { 53, 80, 443 } accept
`)
	for _, e := range egress(m) {
		b.WriteString("\t\t" + e + " accept\n")
	}
	b.WriteString("\t\tlimit rate 6/minute log prefix \"ward-firewall-out: \"\n\t}\n}\n")
	return b.String()
}

// networks are those of one address family, in the order of the profile.
func networks(all []string, is4 bool) []string {
	var out []string
	for _, n := range all {
		if p, err := netip.ParsePrefix(n); err == nil && p.Addr().Is4() == is4 { // Load has refused what does not parse
			out = append(out, p.String())
		}
	}
	return out
}

// egress are nft matches for the servers of the machine's file.
func egress(m *machine.Machine) []string {
	if m == nil {
		return nil
	}
	var out []string
	add := func(proto, host, port string) {
		match := proto + " dport " + port
		if a, err := netip.ParseAddr(host); err == nil {
			match = map[bool]string{true: "ip", false: "ip6"}[a.Is4()] + " daddr " + a.String() + " " + match
		}
		if !slices.Contains(out, match) {
			out = append(out, match)
		}
	}
	if m.Logging != nil {
		if host, port, err := net.SplitHostPort(m.Logging.Server); err == nil {
			add("tcp", host, port)
		}
	}
	if m.Backup != nil {
		if host, port, ok := repositoryServer(m.Backup.Repository); ok {
			add("tcp", host, port)
		}
	}
	for _, server := range m.Time {
		if host, port, err := net.SplitHostPort(server); err == nil {
			add("udp", host, port)
		}
	}
	return out
}

// repositoryServer finds the server in a repository of restic(1): sftp:user@host:/path,
// sftp://user@host:port/path, rest:https://host:port/path, s3:https://host/bucket.
func repositoryServer(repository string) (host, port string, ok bool) {
	kind, rest, found := strings.Cut(repository, ":")
	if !found {
		return "", "", false
	}
	if kind == "sftp" && !strings.HasPrefix(rest, "//") {
		host, _, found = strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], ":")
		return strings.Trim(host, "[]"), "22", found && host != ""
	}
	if kind == "sftp" {
		rest = "sftp:" + rest
	}
	if kind == "s3" && !strings.Contains(rest, "://") {
		rest = "https://" + rest
	}
	u, err := url.Parse(rest)
	if err != nil || u.Hostname() == "" {
		return "", "", false
	}
	port = u.Port()
	if port == "" {
		port = map[string]string{"sftp": "22", "http": "80", "https": "443"}[u.Scheme]
	}
	return u.Hostname(), port, port != ""
}

// listInEmptyNetwork loads rules in a network namespace of its own, which has
// none, and prints them as the kernel has them.
const listInEmptyNetwork = `nft -f - && nft -j list ruleset`

// checkRuleset compares the rules that the kernel filters with now with the
// kernel's own reading of what the profile asks for.
func checkRuleset(ctx context.Context, m *Machine, rules string) (string, error) {
	out, err := m.Run(ctx, "nft", "-j", "list", "ruleset")
	if err != nil {
		return "", err
	}
	got, err := rulesetLines(out)
	if err != nil {
		return "", err
	}
	out, err = m.RunInput(ctx, rules, "unshare", "--net", "sh", "-c", listInEmptyNetwork)
	if err != nil {
		return "", fmt.Errorf("load the profile's rules to compare with: %w", err)
	}
	want, err := rulesetLines(out)
	if err != nil {
		return "", err
	}
	if len(want) == 0 {
		return "", fmt.Errorf("the profile's rules came back empty")
	}
	var faults []string
	for _, w := range want {
		if !slices.Contains(got, w) {
			faults = append(faults, "missing: "+w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			faults = append(faults, "more: "+g)
		}
	}
	if len(faults) == 0 && !slices.Equal(got, want) {
		faults = append(faults, "another order")
	}
	return orFaults(faults, "as the profile says"), nil
}

// rulesetLines reads libnftables-json(5): one line for each table, set, chain and
// rule, without handles, which are numbers of the moment, and without the metadata.
func rulesetLines(out string) ([]string, error) {
	var list struct {
		Nftables []map[string]map[string]any `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read what nft -j printed: %w", err)
	}
	if len(list.Nftables) == 0 {
		return nil, fmt.Errorf("nft -j printed no list")
	}
	var lines []string
	for _, item := range list.Nftables {
		for kind, body := range item {
			if kind == "metainfo" {
				continue
			}
			delete(body, "handle")
			text, err := json.Marshal(body) // sorts the keys
			if err != nil {
				return nil, err
			}
			lines = append(lines, kind+" "+string(text))
		}
	}
	return lines, nil
}

// checkFirewallOrder asks systemd what the unit that loads the rules comes before.
func checkFirewallOrder(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "systemctl", "show", "--property=Before", "nftables.service")
	if err != nil {
		return "", err
	}
	before := strings.Fields(properties(out)["Before"])
	if slices.Contains(before, "network-pre.target") {
		return "network-pre.target", nil
	}
	return strings.Join(before, " "), nil
}
