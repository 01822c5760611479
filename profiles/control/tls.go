package control

import (
	"context"
	"fmt"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// TLS sets the oldest version that any program on the machine speaks.
func TLS(p *profiles.Profile, r distro.Release) Control {
	t := p.Controls.TLS
	return Control{
		ID:    "tls",
		Title: "no program speaks a TLS version older than the profile's, or a weak group",
		Why:   "TLS 1.0 and 1.1 are withdrawn (RFC 8996), and whoever sits on the line chooses the weakest that both sides speak.",
		Refs: []string{
			"45 CFR 164.312(e)(1)", "45 CFR 164.312(e)(2)(i)", "45 CFR 164.312(e)(2)(ii)",
			"NIST 800-53 SC-8(1)", "NIST SP 800-52r2",
		},
		Settings: []Setting{
			setting{
				name: "openssl server", apply: func(ctx context.Context, target *Target) error {
					if r.TLSPolicy == "crypto-policies" {
						return applyCryptoPolicies(ctx, target, t.MinVersion)
					}
					return applyOpenSSL(target, t.MinVersion)
				},
				want:  tlsWant("a client", t.MinVersion),
				check: tlsCheck("server", t.MinVersion),
			},
			setting{name: "openssl client", want: tlsWant("a server", t.MinVersion), check: tlsCheck("client", t.MinVersion)},
			drop{
				name: "gnutls", path: "etc/gnutls/config", content: gnutlsConfig(t.MinVersion),
				want: tlsWant("a server", t.MinVersion), check: tlsCheck("gnutls", t.MinVersion),
			},
			drop{
				name: "DH groups", path: "etc/ssl/ward-ffdhe3072.pem", content: ffdhe3072,
				want: "1024 bits refused, own group 2048 or more", check: checkDH,
			},
		},
	}
}

// Versions that must be refused, by the profile's minimum.
func refusedVersions(min string) []string {
	if min == "1.3" {
		return []string{"1.1", "1.2"}
	}
	return []string{"1.1"}
}

func tlsWant(who, min string) string {
	return who + " with TLS " + strings.Join(refusedVersions(min), " and ") + " is refused, with " + min + " served"
}

const opensslConf = "etc/ssl/openssl.cnf"

// applyOpenSSL adds the system default to openssl.cnf, which has no drop-in
// folder. A section that is named again continues the first (config(5ssl)), so
// what the distribution has stays. Level 2 refuses keys and groups below 2048
// bits and SHA-1 signatures (SSL_CTX_set_security_level(3ssl)).
func applyOpenSSL(t *Target, min string) error {
	old, err := t.Root.ReadFile(opensslConf)
	if err != nil {
		return fmt.Errorf("read %s: %w\nhint: the image needs the openssl package", opensslConf, err)
	}
	init := ""
	for line := range strings.Lines(string(old)) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "openssl_conf" {
			init = strings.TrimSpace(value)
			break
		}
	}
	if init == "" {
		return fmt.Errorf("%s names no openssl_conf section, so nothing added to it would count", opensslConf)
	}
	block := fmt.Sprintf(`[%s]
ssl_conf = ward_ssl

[ward_ssl]
system_default = ward_tls

[ward_tls]
MinProtocol = TLSv%s
CipherString = DEFAULT:@SECLEVEL=2
`, init, min)
	return writeFile(t.Root, opensslConf, withBlock(string(old), "tls", block), 0o644)
}

// withBlock appends a block of ward's to a file that has no drop-in folder, or
// replaces the one of the same control.
func withBlock(content, id, block string) string {
	begin, end := "# ward: "+id+" begin\n", "# ward: "+id+" end\n"
	if before, rest, ok := strings.Cut(content, begin); ok {
		if _, after, ok := strings.Cut(rest, end); ok {
			content = strings.TrimSuffix(before, "\n") + "\n" + after
		}
	}
	if !strings.HasSuffix(content, "\n") {
		content += "\n"
	}
	return strings.TrimRight(content, "\n") + "\n\n" + begin + block + end
}

// gnutlsConfig is the system-wide file of GnuTLS (its manual, "System-wide
// configuration of the library"): what it disables no program can enable again.
func gnutlsConfig(min string) string {
	var b strings.Builder
	b.WriteString("# ward: tls\n[overrides]\n")
	versions := []string{"ssl3.0", "tls1.0", "tls1.1", "dtls0.9", "dtls1.0"}
	if min == "1.3" {
		versions = append(versions, "tls1.2", "dtls1.2")
	}
	for _, v := range versions {
		b.WriteString("disabled-version = " + v + "\n")
	}
	// medium: RSA and DH of 2048 bits or more.
	b.WriteString("min-verification-profile = medium\n")
	return b.String()
}

// ffdhe3072 is the group of RFC 7919, appendix A.2, for services that read a file
// of DH parameters: a well-known safe prime, where a generated one may be weak.
const ffdhe3072 = `-----BEGIN DH PARAMETERS-----
MIIBiAKCAYEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEfz9zeNVs7ZRkDW7w09N75nAI4YbRvydbmyQd62R0mkff3
7lmMsPrBhtkcrv4TCYUTknC0EwyTvEN5RPT9RFLi103TZPLiHnH1S/9croKrnJ32
nuhtK8UiNjoNq8Uhl5sN6todv5pC1cRITgq80Gv6U93vPBsg7j/VnXwl5B0rZsYu
N///////////AgEC
-----END DH PARAMETERS-----
`
