package firstboot

import (
	"os/exec"
	"strings"
	"testing"
)

func TestSetLine(t *testing.T) {
	const line = "/dev/mapper/phi-data /var/data/phi ext4 noauto 0 2"
	for _, c := range []struct{ name, table, want string }{
		{"empty", "", line + "\n"},
		{"others stay", "# comment\nPARTUUID=1 / ext4 defaults 0 1\n", "# comment\nPARTUUID=1 / ext4 defaults 0 1\n" + line + "\n"},
		{"replaced in place", "/dev/sdb1 /var/data/phi xfs auto 0 0\nPARTUUID=1 / ext4 defaults 0 1\n", line + "\nPARTUUID=1 / ext4 defaults 0 1\n"},
		{"once", "a /var/data/phi x\nb /var/data/phi y\n", line + "\n"},
		{"not in a comment", "#x /var/data/phi y\n", "#x /var/data/phi y\n" + line + "\n"},
		{"no newline at the end", "PARTUUID=1 / ext4 defaults 0 1", "PARTUUID=1 / ext4 defaults 0 1\n" + line + "\n"},
	} {
		got := setLine(c.table, 1, "/var/data/phi", line)
		if got != c.want {
			t.Errorf("%s: setLine() = %q, want %q", c.name, got, c.want)
		}
		if again := setLine(got, 1, "/var/data/phi", line); again != got {
			t.Errorf("%s: setLine() again = %q, want %q", c.name, again, got)
		}
	}
}

// The second opinion is systemd's own.
func TestUnitName(t *testing.T) {
	for _, path := range []string{"/var/data/phi", "/var/data/phi-images", "/a b/c.d", "/x/.hidden", "/", "/ä"} {
		got := unitName(path, "mount")
		out, err := exec.Command("systemd-escape", "--path", "--suffix=mount", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimSpace(string(out)); got != want {
			t.Errorf("unitName(%q) = %q, want %q", path, got, want)
		}
	}
	if got, want := "systemd-cryptsetup@"+escapeUnit("phi-data")+".service", `systemd-cryptsetup@phi\x2ddata.service`; got != want {
		t.Errorf("escapeUnit: %q, want %q", got, want)
	}
}
