package keysource

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ward/initramfs/handoff"
)

// Places of the kernel and of the image; variables for the tests.
var (
	fwCfgDir    = "/sys/firmware/qemu_fw_cfg/by_name"
	smbiosDir   = "/sys/firmware/dmi/entries"
	embeddedDir = handoff.KeysDir
)

// FwCfgName is the firmware configuration entry with a key file: on QEMU's
// command line "-fw_cfg name=opt/org.ward/key/phi-data.key,file=FILE".
// https://www.qemu.org/docs/master/specs/fw_cfg.html asks for "opt/REVERSE-DOMAIN/".
func FwCfgName(keyFile string) string { return "opt/org.ward/key/" + keyFile }

// fromFirmware reads the key from QEMU's firmware configuration device.
func fromFirmware(_ context.Context, _ handoff.Source, req Request) (*Key, error) {
	if req.Module != nil {
		if err := req.Module("qemu_fw_cfg"); err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
	}
	return readSmall(filepath.Join(fwCfgDir, FwCfgName(req.KeyFile), "raw"))
}

// fromEmbedded reads the key from the initramfs itself. Everybody who can read
// the image has it: for laboratories.
func fromEmbedded(_ context.Context, _ handoff.Source, req Request) (*Key, error) {
	return readSmall(filepath.Join(embeddedDir, req.KeyFile))
}

// readSmall reads a file that has no size (sysfs) or is not on a disk.
func readSmall(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	k, err := ReadKey(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// SMBIOSPrefix begins the OEM string (SMBIOS type 11) with a key file, followed
// by its base64: the form of systemd's credentials, systemd.system-credentials(7),
// so that hypervisors that can pass those can pass this:
// "-smbios type=11,value=io.systemd.credential.binary:ward.key.phi-data.key=BASE64".
func SMBIOSPrefix(keyFile string) string {
	return "io.systemd.credential.binary:ward.key." + keyFile + "="
}

// maxSMBIOS is the most that is read of one SMBIOS structure.
const maxSMBIOS = 64 << 10

// fromSMBIOS reads the key from an OEM string. Root can read these strings at
// any time later, which is why verify reports this source as what it is.
func fromSMBIOS(_ context.Context, _ handoff.Source, req Request) (*Key, error) {
	entries, err := filepath.Glob(filepath.Join(smbiosDir, "11-*/raw"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		key, err := oemKey(e, SMBIOSPrefix(req.KeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return key, err
	}
	return nil, fmt.Errorf("no OEM string %s...", SMBIOSPrefix(req.KeyFile))
}

func oemKey(path, prefix string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, maxSMBIOS)
	defer clear(raw)
	n, err := io.ReadFull(f, raw)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	value, ok := oemString(raw[:n], prefix)
	if !ok {
		return nil, fs.ErrNotExist
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
	m, err := base64.StdEncoding.Decode(out, value)
	if err != nil {
		clear(out)
		// The error of base64 has a position but no content.
		return nil, fmt.Errorf("OEM string %s: %w", strings.TrimSuffix(prefix, "="), err)
	}
	return KeyOf(out[:m])
}

// oemString finds a string in an SMBIOS structure (DMTF DSP0134, 6.1): a
// formatted part whose length is its second byte, then strings that end with NUL.
func oemString(raw []byte, prefix string) ([]byte, bool) {
	if len(raw) < 5 || raw[0] != 11 || int(raw[1]) > len(raw) || raw[1] < 5 {
		return nil, false
	}
	rest := raw[raw[1]:]
	for len(rest) > 0 && rest[0] != 0 {
		end := 0
		for end < len(rest) && rest[end] != 0 {
			end++
		}
		if s := rest[:end]; len(s) > len(prefix) && string(s[:len(prefix)]) == prefix {
			return s[len(prefix):], true
		}
		if end == len(rest) {
			break
		}
		rest = rest[end+1:]
	}
	return nil, false
}
