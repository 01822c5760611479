package control

import (
	"context"
	"fmt"
	"strings"
)

// cryptoModule is ward's part of the system-wide policy, crypto-policies(7), which
// OpenSSL, GnuTLS and the others read.
const cryptoModule = "etc/crypto-policies/policies/modules/WARD.pmod"

// cryptoPolicy takes the policy DEFAULT further where the profile does.
func cryptoPolicy(min string) string {
	return fmt.Sprintf("# ward: tls\nmin_tls_version = TLS%[1]s\nmin_dtls_version = DTLS%[2]s\nmin_dh_size = 2048\nmin_rsa_size = 2048\n", min, dtls(min))
}

// dtls is the version of DTLS that belongs to one of TLS; there is no DTLS 1.3 in
// these libraries yet.
func dtls(min string) string {
	if min == "1.3" {
		return "1.2"
	}
	return min
}

func applyCryptoPolicies(ctx context.Context, t *Target, min string) error {
	changed, err := updateFile(t.Root, cryptoModule, cryptoPolicy(min), 0o644)
	if err != nil || !changed {
		return err
	}
	out, err := t.Run(ctx, "update-crypto-policies", "--set", "DEFAULT:WARD")
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return nil
}
