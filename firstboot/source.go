package firstboot

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

const (
	fwCfgDir = "sys/firmware/qemu_fw_cfg/by_name"
	// CAPath is the authority, in PEM, that an image pins for configs by HTTPS.
	CAPath = LibDir + "/config-ca.pem"
	// The kernel line that points at a config, and the pin of a certificate in the
	// server's chain: ward.config.ca=sha256:HEX of its DER form.
	urlArg = "ignition.config.url="
	caArg  = "ward.config.ca="
)

// configLabels are the file system labels of a config drive, and names is where
// the config is on one: OpenStack's layout and Ignition's own.
var (
	configLabels = []string{"ignition", "IGNITION", "config-2", "CONFIG-2"}
	configNames  = []string{"openstack/latest/user_data", "ignition/config.ign", "config.ign"}
)

// errNoConfig means that no source has a config.
var errNoConfig = errors.New("no config: neither firmware, nor a config drive, nor the kernel line has one, and none was applied before")

// findConfig returns the machine's config and where it is from: the firmware, a
// config drive, the URL of the kernel line, or the one of the last boot.
func (m *Machine) findConfig(ctx context.Context) (raw []byte, from string, err error) {
	if err := m.checkPlatform(); err != nil {
		return nil, "", err
	}
	for _, source := range []struct {
		name string
		read func(context.Context) ([]byte, error)
	}{
		{"firmware", m.fwCfgConfig},
		{"config drive", m.driveConfig},
		{"kernel line", m.urlConfig},
		{"last boot", func(context.Context) ([]byte, error) { return m.root.ReadFile(ConfigPath) }},
	} {
		raw, err := source.read(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, "", fmt.Errorf("config from %s: %w", source.name, err)
		case len(raw) > 0:
			return raw, source.name, nil
		}
	}
	return nil, "", errHint(errNoConfig, "compile one with `ward machine FILE.yaml -o config.ign` and start the machine with it")
}

// fwCfgConfig reads QEMU's firmware configuration, as `qemu -fw_cfg
// name=opt/com.coreos/config,file=config.ign` gives it.
func (m *Machine) fwCfgConfig(ctx context.Context) ([]byte, error) {
	file := path.Join(fwCfgDir, handoff.IgnitionFwCfg, "raw")
	if _, err := m.root.Stat(fwCfgDir); errors.Is(err, fs.ErrNotExist) {
		// A module on most kernels. Other hypervisors do not have the device: no error.
		if _, err := m.run(ctx, nil, "modprobe", "-q", "qemu_fw_cfg"); err != nil {
			m.log.Debug("no firmware configuration", "err", err)
		}
	}
	f, err := m.root.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, maxConfig)
}

// driveConfig reads a config drive: a small file system with a known label. It
// is mounted read-only and without executing anything from it.
func (m *Machine) driveConfig(ctx context.Context) ([]byte, error) {
	for _, label := range configLabels {
		dev := path.Join(m.root.Name(), "dev/disk/by-label", label)
		if _, err := os.Stat(dev); err != nil {
			continue
		}
		dir, err := os.MkdirTemp("/run", "ward-config-")
		if err != nil {
			return nil, err
		}
		defer os.Remove(dir)
		if _, err := m.run(ctx, nil, "mount", "-o", "ro,nodev,nosuid,noexec", dev, dir); err != nil {
			return nil, err
		}
		defer unix.Unmount(dir, 0)
		drive, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		defer drive.Close()
		for _, name := range configNames {
			f, err := drive.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			defer f.Close()
			return readLimited(f, maxConfig)
		}
	}
	return nil, fs.ErrNotExist
}

// urlConfig fetches the config that the kernel line names. The system's list of
// authorities does not count: a config decides who may log in, so its server's
// authority is pinned, by the image or by the kernel line.
func (m *Machine) urlConfig(ctx context.Context) ([]byte, error) {
	line, err := m.root.ReadFile("proc/cmdline")
	if err != nil {
		return nil, err
	}
	var source, pin string
	for _, word := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(word, urlArg); ok {
			source = v
		}
		if v, ok := strings.CutPrefix(word, caArg); ok {
			pin = v
		}
	}
	if source == "" {
		return nil, fs.ErrNotExist
	}
	if u, err := url.Parse(source); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errHint(errors.New(urlArg+" must be an https:// URL"), "serve the config by HTTPS and pin its authority with "+caArg)
	}
	t, err := m.pinnedTLS(pin)
	if err != nil {
		return nil, err
	}
	f := &fetcher{client: httpsClient(t), patient: fetchPatient}
	raw, err := f.get(ctx, source, nil)
	if err == nil {
		return raw, nil
	}
	// A server that is away must not keep a configured machine from starting.
	if old, e := m.root.ReadFile(ConfigPath); e == nil {
		m.log.Warn("config server is away; the config of the last boot counts", "err", err)
		return old, nil
	}
	return nil, err
}

func (m *Machine) pinnedTLS(pin string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if pin != "" {
		sum, err := hex.DecodeString(strings.TrimPrefix(pin, "sha256:"))
		if err != nil || len(sum) != sha256.Size || !strings.HasPrefix(pin, "sha256:") {
			return nil, fmt.Errorf("%s%q is not sha256: and 64 hex digits", caArg, pin)
		}
		// The usual verification is replaced, not left out: see verifyPinned.
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(s tls.ConnectionState) error { return verifyPinned(s, sum) }
		return t, nil
	}
	pem, err := m.root.ReadFile(CAPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errHint(errors.New("no authority is pinned for "+urlArg), "add %ssha256:HEX to the kernel line, or put the authority into the image as /%s", caArg, CAPath)
	} else if err != nil {
		return nil, err
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("/%s: no PEM certificate", CAPath)
	}
	return t, nil
}

// verifyPinned accepts a chain only when one of its certificates has the pinned
// digest, and verifies names, dates and signatures up to that certificate.
func verifyPinned(s tls.ConnectionState, sum []byte) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates {
		have := sha256.Sum256(c.Raw)
		if subtle.ConstantTimeCompare(have[:], sum) == 1 {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return fmt.Errorf("no certificate of the server has the pinned sha256 %x", sum)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: s.ServerName, Roots: roots, Intermediates: between})
	return err
}
