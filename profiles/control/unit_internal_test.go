package control

import (
	"os/exec"
	"strings"
	"testing"
)

// The second opinion is systemd's own.
func TestMountUnit(t *testing.T) {
	for _, path := range []string{"/var/data/phi", "/var/data/phi-images", "/a b/c.d", "/x/.hidden", "/", "/ä"} {
		got := MountUnit(path)
		out, err := exec.Command("systemd-escape", "--path", "--suffix=mount", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimSpace(string(out)); got != want {
			t.Errorf("MountUnit(%q) = %q, want %q", path, got, want)
		}
	}
	if got, want := "systemd-cryptsetup@"+EscapeUnit("phi-data")+".service", `systemd-cryptsetup@phi\x2ddata.service`; got != want {
		t.Errorf("EscapeUnit() = %q, want %q", got, want)
	}
}
