package secureboot

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ward/builder/command"
)

// tokenScheme is how the URI of a key in a PKCS#11 token begins.
const tokenScheme = "pkcs11:"

// checkToken refuses what would make the PIN an argument, which every user of the
// host can read.
func checkToken(uri string) error {
	if strings.Contains(uri, "pin-value=") {
		return errors.New("the PIN would be an argument that others can read\nhint: pkcs11:...?pin-source=FILE, a file that only you can read")
	}
	if _, err := exec.LookPath("sbsign"); err != nil {
		return fmt.Errorf("%w\nhint: a key in a token signs by sbsign and OpenSSL's engine: packages sbsigntool and libengine-pkcs11-openssl", err)
	}
	return nil
}

// signByToken has sbsign do it: Go's libraries for PKCS#11 need cgo. OpenSSL's
// engine finds the token's module by PKCS11_MODULE_PATH, or asks p11-kit for all.
func (s *Signer) signByToken(ctx context.Context, log *slog.Logger, image []byte) ([]byte, error) {
	dir, err := os.MkdirTemp("", "ward-sign-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	from, to, cert := filepath.Join(dir, "image"), filepath.Join(dir, "signed"), filepath.Join(dir, "cert.pem")
	for name, data := range map[string][]byte{from: image, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return nil, err
		}
	}
	if err := command.Run(ctx, log, "sbsign", "--engine", "pkcs11", "--key", s.token, "--cert", cert, "--output", to, from); err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}
