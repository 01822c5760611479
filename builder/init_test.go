package builder

import (
	"testing"

	"ward/profiles"
)

// TestInitHasTheSources: an init without the source that a profile names would be
// found out by the first machine that stays locked.
func TestInitHasTheSources(t *testing.T) {
	for _, c := range []struct {
		sources []profiles.KeySource
		want    string
	}{
		{[]profiles.KeySource{{Type: "device"}, {Type: "fw_cfg"}, {Type: "smbios"}}, "small"},
		{[]profiles.KeySource{{Type: "device"}, {Type: "https"}}, "net"},
		{[]profiles.KeySource{{Type: "tang"}}, "net"},
		{[]profiles.KeySource{{Type: "tpm2"}}, "net"},
	} {
		p, err := profiles.Load("hipaa")
		if err != nil {
			t.Fatal(err)
		}
		p.Controls.PHI.KeySources = c.sources
		b := &build{Options: Options{Profile: p, Binaries: Binaries{Init: "small", NetInit: "net"}}}
		if got := b.init(); got != c.want {
			t.Errorf("init for %v is %q, want %q", c.sources, got, c.want)
		}
	}
}
