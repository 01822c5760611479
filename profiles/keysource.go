package profiles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"ward/images/strict"
	"ward/initramfs/handoff"
)

// KeySource is one place where a key file may come from. In YAML it is one word,
// its type, or a mapping with more.
type KeySource struct {
	// The kind of place: a file system with a label (device), QEMU's firmware
	// configuration, an SMBIOS string, an HTTPS or Tang server, a TPM 2.0, or the
	// initramfs itself, which is for laboratories only.
	Type string `yaml:"type" json:"type" jsonschema:"enum=device,enum=fw_cfg,enum=smbios,enum=https,enum=tang,enum=tpm2,enum=embedded"`
	// device: the label of its file system; WARD-KEY when absent.
	Label string `yaml:"label,omitempty" json:"label,omitempty" jsonschema:"pattern=^[A-Za-z0-9_-]+$,example=WARD-KEY"`
	// device: the UUID of its GPT partition, instead of a label.
	PartUUID string `yaml:"partuuid,omitempty" json:"partuuid,omitempty" jsonschema:"pattern=^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"`
	// https, tang: where the server is.
	URL string `yaml:"url,omitempty" json:"url,omitempty" jsonschema:"example=https://keys.example.org/ward/"`
	// https: PEM of the only authority that is trusted.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// https: where the file client.pem with this machine's client certificate and
	// its private key is: the key device, QEMU's firmware configuration or an SMBIOS
	// string; no certificate is shown when absent.
	Identity string `yaml:"identity,omitempty" json:"identity,omitempty" jsonschema:"enum=device,enum=fw_cfg,enum=smbios"`
	// tpm2: the registers whose values the key is sealed to; when absent 7 and 11, the
	// state of Secure Boot and the kernel image.
	PCRs []int `yaml:"pcrs,omitempty" json:"pcrs,omitempty" jsonschema:"minItems=1,minimum=0,maximum=23,example=[7]"`
	// How long it is waited for, such as 30s; a time that suits the type when absent.
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
}

// UnmarshalText reads the word form.
func (k *KeySource) UnmarshalText(text []byte) error {
	if !slices.Contains(sourceTypes, string(text)) {
		if near := strict.Nearest(string(text), sourceTypes); near != "" {
			return fmt.Errorf("is %q, want %s; did you mean %s?", text, strict.OneOf(sourceTypes), near)
		}
		return fmt.Errorf("is %q, want %s", text, strict.OneOf(sourceTypes))
	}
	*k = KeySource{Type: string(text)}
	return nil
}

// UnmarshalJSON reads both forms; a resolved profile has the mapping.
func (k *KeySource) UnmarshalJSON(data []byte) error {
	var word string
	if json.Unmarshal(data, &word) == nil {
		return k.UnmarshalText([]byte(word))
	}
	type plain KeySource // without these methods
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode((*plain)(k))
}

// sourceTypes are the types that init may have.
var sourceTypes = []string{"device", "fw_cfg", "smbios", "https", "tang", "tpm2", "embedded"}

// Source is the key source as init is told of it.
func (k KeySource) Source() handoff.Source {
	s := handoff.Source{Type: k.Type, Label: k.Label, PartUUID: k.PartUUID, URL: k.URL, CA: k.CA, Identity: k.Identity, PCRs: k.PCRs,
		TimeoutMS: int(time.Duration(k.Timeout).Milliseconds())}
	if k.Type == "tpm2" && len(k.PCRs) == 0 {
		s.PCRs = slices.Clone(handoff.DefaultPCRs)
	}
	if k.Type == "device" && k.Label == "" && k.PartUUID == "" {
		s.Label = handoff.KeyLabel
	}
	return s
}

// wants is what each type must have, may have.
var wants = map[string]struct{ must, may []string }{
	"device":   {nil, []string{"label", "partuuid"}},
	"fw_cfg":   {},
	"smbios":   {},
	"https":    {[]string{"url", "ca"}, []string{"identity"}},
	"tang":     {[]string{"url"}, nil},
	"tpm2":     {nil, []string{"pcrs"}},
	"embedded": {},
}

// keySources checks that each source has what its type needs and nothing that
// its type would not look at.
func (c check) keySources() {
	if all := c.p.Controls.PHI.KeySources; len(all) > 0 && !slices.ContainsFunc(all, func(k KeySource) bool { return k.Type != "tpm2" }) {
		c.d.Fault("controls.phi.key_sources", "add the one that has the key on the first boot and after an update, such as device", "has tpm2 alone, and a TPM makes no key")
	}
	for i, k := range c.p.Controls.PHI.KeySources {
		at := fmt.Sprintf("controls.phi.key_sources[%d]", i)
		w, known := wants[k.Type]
		if !known {
			continue // said already
		}
		for field, has := range map[string]bool{"label": k.Label != "", "partuuid": k.PartUUID != "", "url": k.URL != "", "ca": k.CA != "", "identity": k.Identity != "", "pcrs": len(k.PCRs) > 0} {
			must := slices.Contains(w.must, field)
			switch {
			case must && !has:
				c.d.Fault(at+"."+field, "a source of type "+k.Type+" needs it", "is missing")
			case has && !must && !slices.Contains(w.may, field):
				c.d.Fault(at+"."+field, "remove it", "is nothing that a source of type %s looks at", k.Type)
			}
		}
		if len(k.Label) > 16 {
			c.d.Fault(at+".label", "ext4 labels have at most 16", "has %d characters", len(k.Label))
		}
		if k.Label != "" && k.PartUUID != "" {
			c.d.Fault(at+".partuuid", "leave one out", "is given beside a label")
		}
		if k.URL != "" {
			u, err := url.Parse(k.URL)
			secure := err == nil && (u.Scheme == "https" || u.Scheme == "http" && k.Type == "tang")
			if err != nil || u.Host == "" || u.User != nil || !secure {
				c.d.Fault(at+".url", "such as https://keys.example.org/ward/, without name or password", "is no address of a server of type %s", k.Type)
			}
		}
		if t := time.Duration(k.Timeout); t < 0 || t > 10*time.Minute {
			c.d.Fault(at+".timeout", "", "is %s, want 1ms to 10m", k.Timeout)
		}
		for j, other := range c.p.Controls.PHI.KeySources[:i] {
			if other.Type == k.Type && other.Label == k.Label && other.PartUUID == k.PartUUID && other.URL == k.URL {
				c.d.Fault(at, "remove one", "is controls.phi.key_sources[%d] again", j)
			}
		}
	}
}
