package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MaxBytes is the most that a reader takes of any of these files.
const MaxBytes = 1 << 20

// BootCountVariable is the EFI variable of systemd-boot that is there while it
// counts the boots of a kernel, with the name of its UKI, as efivarfs calls it:
// https://systemd.io/BOOT_LOADER_INTERFACE.
const BootCountVariable = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// IdentityFile is the file, beside the key files of a local source, with the
// client certificate for an https source and its private key, PEM. Neither can be
// in the image, which every machine has.
const IdentityFile = "client.pem"

// IdentityTypes are the sources that may have IdentityFile; device is the key
// device with the label KeyLabel.
var IdentityTypes = []string{"device", "fw_cfg", "smbios"}

// SourceTypes are the words that Source.Type may hold.
var SourceTypes = []string{"device", "fw_cfg", "smbios", "https", "tang", "tpm2", "embedded"}

// What init does when a volume cannot be opened.
const (
	Degrade = "degrade"
	Halt    = "halt"
)

// decode is Strict for the files of this package, which are small.
func decode(what string, data []byte, v any, version *int) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%s: %d bytes are more than %d", what, len(data), MaxBytes)
	}
	return Strict(what, data, v, version, Version)
}

// Strict reads one JSON value: unknown fields, a second value and another version
// than the known one are errors. version is where v has its own.
func Strict(what string, data []byte, v any, version *int, known int) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: text after the end", what)
	}
	if *version != known {
		return fmt.Errorf("%s: version %d, this program knows %d", what, *version, known)
	}
	return nil
}

// DecodeConfig reads and validates a Config.
func DecodeConfig(data []byte) (Config, error) {
	var c Config
	if err := decode("init configuration", data, &c, &c.Version); err != nil {
		return Config{}, err
	}
	return c, c.Validate()
}

// DecodeReport reads a Report.
func DecodeReport(data []byte) (Report, error) {
	var r Report
	err := decode("report of init", data, &r, &r.Version)
	return r, err
}

// DecodePins reads Pins. Each name and each UUID may occur once.
func DecodePins(data []byte) (Pins, error) {
	var p Pins
	if err := decode("pins", data, &p, &p.Version); err != nil {
		return Pins{}, err
	}
	seen := map[string]bool{}
	for i, v := range p.Volumes {
		if v.Name == "" || v.LUKSUUID == "" || len(v.Digest) != 64 || strings.Trim(v.Digest, "0123456789abcdef") != "" {
			return Pins{}, fmt.Errorf("pins: volumes[%d]: want a name, a LUKS UUID and 64 lower-case hex digits", i)
		}
		if seen[v.Name] || seen[v.LUKSUUID] {
			return Pins{}, fmt.Errorf("pins: volumes[%d]: %s or %s is there twice", i, v.Name, v.LUKSUUID)
		}
		seen[v.Name], seen[v.LUKSUUID] = true, true
	}
	return p, nil
}

// Find returns the pin of the named volume.
func (p Pins) Find(name string) (Pin, bool) {
	i := slices.IndexFunc(p.Volumes, func(v Pin) bool { return v.Name == name })
	if i < 0 {
		return Pin{}, false
	}
	return p.Volumes[i], true
}

// Validate returns every fault of a Config. It changes nothing.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf("init configuration: "+format, a...)) }
	if c.Version != Version {
		fault("version: %d, want %d", c.Version, Version)
	}
	if c.OnFailure != Degrade && c.OnFailure != Halt {
		fault("on_failure: %q, want %s or %s", c.OnFailure, Degrade, Halt)
	}
	seen := map[string]bool{}
	for i, v := range c.Volumes {
		if !isName(v.Name) {
			fault("volumes[%d].name: %q, want letters, digits, - and _", i, v.Name)
		}
		if seen[v.Name] {
			fault("volumes[%d].name: %q is there twice", i, v.Name)
		}
		seen[v.Name] = true
		if v.PartLabel == "" {
			fault("volumes[%d].part_label: empty", i)
		}
		if !isFileName(v.KeyFile) {
			fault("volumes[%d].key_file: %q, want the name of a file without a folder", i, v.KeyFile)
		}
		if !strings.HasPrefix(v.Mount, "/") {
			fault("volumes[%d].mount: %q, want an absolute path", i, v.Mount)
		}
	}
	for i, s := range c.Sources {
		for _, err := range s.faults() {
			fault("sources[%d].%w", i, err)
		}
	}
	return errors.Join(errs...)
}

// isName tells whether a device-mapper name needs no escaping anywhere.
func isName(s string) bool {
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	return s != "" && len(s) < 64 && strings.Trim(s, ok) == "" && s[0] != '-'
}

func isFileName(s string) bool {
	return s != "" && len(s) <= 255 && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// faults lists what is wrong with a source, each beginning with its field.
func (s Source) faults() []error {
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if s.TimeoutMS < 0 || s.TimeoutMS > 600_000 {
		fault("timeout_ms: %d, want 0 to 600000", s.TimeoutMS)
	}
	switch s.Type {
	case "device":
		if s.Label == "" && s.PartUUID == "" {
			fault("label: a device needs a label or a partuuid")
		}
	case "https":
		if !strings.HasPrefix(s.URL, "https://") {
			fault("url: %q, want https://", s.URL)
		}
		if s.CA == "" {
			fault("ca: empty; the authority must be pinned")
		}
		if s.Identity != "" && !slices.Contains(IdentityTypes, s.Identity) {
			fault("identity: %q, want one of %s", s.Identity, strings.Join(IdentityTypes, ", "))
		}
	case "tang":
		if !strings.HasPrefix(s.URL, "http://") && !strings.HasPrefix(s.URL, "https://") {
			fault("url: %q, want http:// or https://", s.URL)
		}
	case "fw_cfg", "smbios", "tpm2", "embedded":
	default:
		fault("type: %q, want one of %s", s.Type, strings.Join(SourceTypes, ", "))
	}
	return errs
}
