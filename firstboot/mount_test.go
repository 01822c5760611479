package firstboot

import (
	"context"
	"os/exec"
	"testing"

	"ward/initramfs/handoff"
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

// TestCloseMountPoint: an absent volume's mount point takes no file; where nothing can
// be written anyway, chattr, which could not either, is not run.
func TestCloseMountPoint(t *testing.T) {
	for _, c := range []struct {
		mount  string
		verity bool
		closed bool
	}{
		{"/var/data/archive", false, true}, {"/srv/archive", false, true},
		{"/var/data/archive", true, true}, {"/srv/archive", true, false},
	} {
		closed := false
		m := &Machine{facts: &facts{Image: ImageFacts{Verity: c.verity}}}
		m.run = func(_ context.Context, _ []byte, argv ...string) (string, error) {
			if argv[0] == "findmnt" { // nothing is mounted there: exit code 1
				return "", exec.Command("false").Run()
			}
			closed = closed || argv[0] == "chattr"
			return "", nil
		}
		if err := m.closeMountPoint(t.Context(), handoff.Volume{Name: "archive", Mount: c.mount}); err != nil || closed != c.closed {
			t.Errorf("closeMountPoint(%s), verified root %v: ran chattr: %v, %v, want %v", c.mount, c.verity, closed, err, c.closed)
		}
	}
}
