package firstboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf16"

	"ward/initramfs/handoff"
	"ward/initramfs/loader"
)

const bootCountPath = "sys/firmware/efi/efivars/" + handoff.BootCountVariable

// KernelIsGood takes the counter off the name of the UKI that was started: from
// now on it is one to fall back to. systemd's own program for it is in a package
// that installs boot loaders of its own.
func (m *Machine) KernelIsGood(ctx context.Context) error {
	data, err := m.root.ReadFile(bootCountPath)
	if errors.Is(err, fs.ErrNotExist) {
		m.log.Debug("this boot is not counted")
		return nil
	} else if err != nil {
		return fmt.Errorf("boot counter: %w", err)
	}
	name, err := variablePath(data)
	if err != nil {
		return fmt.Errorf("boot counter: %w", err)
	}
	u, ok := loader.Parse(name)
	if !ok || path.Dir(name) != loader.UKIDir {
		return fmt.Errorf("boot counter: %q is no UKI of ward", name)
	}
	return m.withESP(ctx, func(esp *os.Root) error {
		if _, err := esp.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return nil // said already, or made anew meanwhile
		} else if err != nil {
			return err
		}
		if err := esp.Rename(name, u.Good().Path()); err != nil {
			return err
		}
		m.log.Info("kernel is good", "version", u.Version, "uki", "/"+espMount+"/"+u.Good().Path())
		return syncDir(esp, loader.UKIDir)
	})
}

// variablePath reads a path out of an EFI variable as efivarfs shows it: four
// bytes of attributes, then UTF-16 up to a zero, with backslashes.
func variablePath(data []byte) (string, error) {
	if len(data) < 6 || len(data) > 1024 || len(data)%2 != 0 {
		return "", fmt.Errorf("a variable of %d bytes", len(data))
	}
	var text []uint16
	for i := 4; i < len(data); i += 2 {
		c := binary.LittleEndian.Uint16(data[i:])
		if c == 0 {
			break
		}
		text = append(text, c)
	}
	return strings.Trim(strings.ReplaceAll(string(utf16.Decode(text)), `\`, "/"), "/"), nil
}
