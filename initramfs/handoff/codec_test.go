package handoff

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func valid() Config {
	return Config{
		Version: Version, OnFailure: Degrade,
		Volumes: []Volume{{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"}},
		Sources: []Source{{Type: "device", Label: KeyLabel}, {Type: "fw_cfg"}},
	}
}

func TestConfigRoundTrip(t *testing.T) {
	data, err := json.Marshal(valid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, valid()) {
		t.Errorf("DecodeConfig = %+v, want %+v", got, valid())
	}
}

// TestValidate changes one thing each and wants it named.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Version = 2 }, "version: 2"},
		{func(c *Config) { c.OnFailure = "" }, `on_failure: ""`},
		{func(c *Config) { c.Volumes[0].Name = "a/b" }, "volumes[0].name"},
		{func(c *Config) { c.Volumes[0].Name = "-a" }, "volumes[0].name"},
		{func(c *Config) { c.Volumes = append(c.Volumes, c.Volumes[0]) }, "volumes[1].name: \"phi-data\" is there twice"},
		{func(c *Config) { c.Volumes[0].PartLabel = "" }, "volumes[0].part_label"},
		{func(c *Config) { c.Volumes[0].KeyFile = "../key" }, "volumes[0].key_file"},
		{func(c *Config) { c.Volumes[0].Mount = "phi" }, "volumes[0].mount"},
		{func(c *Config) { c.Sources[0].Type = "prompt" }, "sources[0].type"},
		{func(c *Config) { c.Sources[0].Label = "" }, "sources[0].label"},
		{func(c *Config) { c.Sources[0].TimeoutMS = -1 }, "sources[0].timeout_ms"},
		{func(c *Config) { c.Sources[0] = Source{Type: "https", URL: "http://a/", CA: "x"} }, "sources[0].url"},
		{func(c *Config) { c.Sources[0] = Source{Type: "https", URL: "https://a/"} }, "sources[0].ca"},
		{func(c *Config) {
			c.Sources[0] = Source{Type: "https", URL: "https://a/", CA: "x", Identity: "embedded"}
		}, "sources[0].identity"},
		{func(c *Config) { c.Sources[0] = Source{Type: "tang", URL: "ftp://a/"} }, "sources[0].url"},
	} {
		config := valid()
		c.change(&config)
		if err := config.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Validate() = %v, want an error with %q", err, c.want)
		}
	}
	if err := valid().Validate(); err != nil {
		t.Errorf("Validate() of a valid configuration = %v", err)
	}
	both := Config{}
	if err := both.Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Validate() of nothing = %v, want both faults", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	digest := strings.Repeat("0", 64)
	for _, c := range []struct {
		decode     func(string) error
		text, want string
	}{
		{config, `{"version":1,"shell":true}`, "unknown field"},
		{config, `{"version":2}`, "version 2"},
		{config, `{"version":1} {}`, "text after the end"},
		{config, ``, "EOF"},
		{pins, `{"version":1,"volumes":[{"name":"a","luks_uuid":"u","digest":"XYZ"}]}`, "volumes[0]"},
		{pins, `{"version":1,"volumes":[{"name":"a","luks_uuid":"u","digest":"` + digest + `"},{"name":"b","luks_uuid":"u","digest":"` + digest + `"}]}`, "volumes[1]: b or u is there twice"},
		{report, `{"version":0}`, "version 0"},
		{report, strings.Repeat(" ", MaxBytes+1), "more than"},
	} {
		if err := c.decode(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("decode(%.60q) = %v, want an error with %q", c.text, err, c.want)
		}
	}
}

func config(s string) error { _, err := DecodeConfig([]byte(s)); return err }
func pins(s string) error   { _, err := DecodePins([]byte(s)); return err }
func report(s string) error { _, err := DecodeReport([]byte(s)); return err }

func FuzzDecode(f *testing.F) {
	data, err := json.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"volumes":[{"name":"a","luks_uuid":"u","digest":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"version":1,"volumes":[{"name":"a","state":"opened"}],"timings":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := DecodeConfig(data); err == nil {
			again, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := DecodeConfig(again); err != nil {
				t.Errorf("what was read is refused when written again: %v", err)
			}
		}
		_, _ = DecodePins(data)
		_, _ = DecodeReport(data)
	})
}
