package qemutests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ward/builder/proof"
	"ward/builder/vm"
)

// facts are what a running machine shows of itself that two machines must not
// share, and how its volume looks to the distribution's own tools.
type facts struct {
	machineID string
	hostKeys  string // fingerprints
	luksUUID  string
	keyDigest string // keyed digest of the volume key, from the pins
	seed      string // digest of the random seed
	blame     string
	looks     map[string]string // output by command
}

// normal is how a dm-crypt device looks that the distribution opened itself.
var normal = []struct{ command, want string }{
	{"lsblk -nro NAME,TYPE,MOUNTPOINT", `(?m)^phi-data crypt /var/data/phi$`},
	// The name that cryptsetup gives: CRYPT-LUKS2-(32 hex digits)-NAME, cryptsetup lib/libdevmapper.c.
	{"dmsetup info -c --noheadings -o name,uuid phi-data", `^phi-data:CRYPT-LUKS2-[0-9a-f]{32}-phi-data\s*$`},
	{"dmsetup table phi-data", `^0 \d+ crypt aes-xts-plain64 `},
	{"cryptsetup status phi-data", `(?s)is active and is in use.*type: +LUKS2.*cipher: +aes-xts-plain64.*keysize: +512 bits`},
	{"udevadm info --query=property --name=/dev/mapper/phi-data", `(?s)DM_NAME=phi-data.*ID_FS_TYPE=ext4`},
	{"udevadm info --query=symlink --name=/dev/mapper/phi-data", `mapper/phi-data`},
	{"findmnt -n -o SOURCE,FSTYPE,OPTIONS /var/data/phi", `^/dev/mapper/phi-data +ext4 +\S*nosuid,nodev,noexec`},
	{"systemctl is-system-running || systemctl --failed --no-legend --plain", `^running\s*$`},
	{"systemctl show -P ActiveState var-data-phi.mount", `^active\s*$`},
	{`systemctl show -P ActiveState dev-mapper-phi\\x2ddata.device`, `^active\s*$`},
	{"stat -c '%U:%G %a' /var/data/phi", `^phi-service:phi-access 750\s*$`},
	{"systemctl list-jobs --no-legend", `^(No jobs running\.)?\s*$`},
}

// premises are what the rest relies on and does not own.
var premises = []struct{ command, want string }{
	// sshd_config(5): for each keyword, the first obtained value is used. ward's
	// drop-in sorts first because of it.
	{"printf 'MaxAuthTries 2\\nMaxAuthTries 5\\n' >/run/premise && sshd -T -f /run/premise | grep -i maxauthtries; rm -f /run/premise", `^maxauthtries 2\s*$`},
	// udev gives the verdict port the name that QEMU gave it.
	{"readlink -f /dev/virtio-ports/org.ward.verdict", `^/dev/vport\d+p\d+\s*$`},
	// The config has secrets, and the kernel shows it to root alone.
	{"stat -c '%U %a' /sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw", `^root 400\s*$`},
}

// collect asks a machine for its facts.
func collect(ctx context.Context, m *vm.VM, f *proof.Fixture) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout(2*time.Minute))
	defer cancel()
	got := facts{looks: map[string]string{}}
	root, client, err := proof.Root(ctx, m, f)
	if err != nil {
		return got, err
	}
	defer client.Close()
	for _, q := range []struct {
		to     *string
		script string
	}{
		{&got.machineID, "cat /etc/machine-id"},
		{&got.hostKeys, "for k in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $k; done | awk '{print $2}'"},
		{&got.luksUUID, "cryptsetup luksUUID $(blkid -t PARTLABEL=phi-data -o device)"},
		{&got.keyDigest, `sed -n 's/.*"digest": *"\([0-9a-f]*\)".*/\1/p' /etc/ward/pins.json`},
		{&got.seed, "sha256sum < /var/lib/systemd/random-seed"},
		{&got.blame, "systemd-analyze blame --no-pager"},
	} {
		out, code, err := root.Run(ctx, q.script)
		if err != nil {
			return got, err
		}
		if code != 0 || strings.TrimSpace(out) == "" {
			return got, fmt.Errorf("%s: exit code %d: %q", q.script, code, out)
		}
		*q.to = strings.TrimSpace(out)
	}
	for _, c := range slices.Concat(normal, premises) {
		out, _, err := root.Run(ctx, c.command)
		if err != nil {
			return got, err
		}
		got.looks[c.command] = out
	}
	return got, m.Err()
}

// inspect collects the shared machine's facts.
func inspect(ctx context.Context, m *vm.VM, f *proof.Fixture) (err error) {
	shared.facts, err = collect(ctx, m, f)
	return err
}
