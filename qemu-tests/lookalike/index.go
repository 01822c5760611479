package lookalike

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"ward/builder/command"
)

// suite is what one suite has, by component.
type suite struct{ stanzas map[string][]string }

var (
	components = []string{"main", "universe"}
	ends       = []string{"", "-updates", "-security"} // of the suites' names
)

// index notes a package of the pool in the suite that has it.
func (m *maker) index(ctx context.Context, name, file string) error {
	control, err := command.Output(ctx, m.log, "dpkg-deb", "--field", file)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	path, err := filepath.Rel(m.dir, file)
	if err != nil {
		return err
	}
	s := m.suite(pockets[name])
	c := component(name)
	s.stanzas[c] = append(s.stanzas[c], fmt.Sprintf("%s\nFilename: %s\nSize: %d\nSHA256: %x\n", strings.TrimSpace(control), path, len(data), sha256.Sum256(data)))
	return nil
}

func (m *maker) suite(end string) *suite {
	if m.suites[end] == nil {
		m.suites[end] = &suite{stanzas: map[string][]string{}}
	}
	return m.suites[end]
}

// publish writes the indexes of every suite, signs them with a key that is made
// for it and forgotten, and writes the key's public half.
func (m *maker) publish(keyring string) error {
	config := &packet.Config{DefaultHash: crypto.SHA512, RSABits: 3072}
	signer, err := openpgp.NewEntity("look-alike archive", "throw-away", "nobody@example.org", config)
	if err != nil {
		return err
	}
	var public bytes.Buffer
	if err := signer.Serialize(&public); err != nil {
		return err
	}
	if err := os.WriteFile(keyring, public.Bytes(), 0o644); err != nil {
		return err
	}
	for _, end := range ends {
		if err := m.suite(end).publish(filepath.Join(m.dir, "dists", codename+end), codename+end, signer, config); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) publish(dir, name string, signer *openpgp.Entity, config *packet.Config) error {
	var files strings.Builder
	for _, c := range components {
		slices.Sort(s.stanzas[c])
		plain := []byte(strings.Join(s.stanzas[c], "\n"))
		var packed bytes.Buffer
		w, err := xz.NewWriter(&packed)
		if err != nil {
			return err
		}
		if _, err := w.Write(plain); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		for _, f := range []struct {
			name string
			data []byte
		}{{c + "/binary-amd64/Packages", plain}, {c + "/binary-amd64/Packages.xz", packed.Bytes()}} {
			path := filepath.Join(dir, f.name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, f.data, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(&files, " %x %d %s\n", sha256.Sum256(f.data), len(f.data), f.name)
		}
	}
	release := fmt.Sprintf("Origin: Ubuntu\nLabel: Ubuntu\nSuite: %s\nVersion: %s\nCodename: %s\nDate: %s\nArchitectures: amd64\nComponents: %s\nDescription: look-alike of Ubuntu %s, made of Debian's packages\nSHA256:\n%s",
		name, version, codename, time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), strings.Join(components, " "), version, files.String())
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, signer.PrivateKey, config)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(release)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "InRelease"), append(signed.Bytes(), '\n'), 0o644)
}
