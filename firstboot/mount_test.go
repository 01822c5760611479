package firstboot

import "testing"

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
