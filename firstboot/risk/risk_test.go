package risk

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

var update = flag.Bool("update", false, "write the golden file instead of comparing with it")

// answers of a Debian 12 machine, shortened.
var answers = map[string]string{
	"uname -srvm":    "Linux 6.1.0-56-cloud-amd64 #1 SMP x86_64\n",
	"uptime --since": "2026-11-23 12:00:00\n",
	"timedatectl show --property=NTPSynchronized --value": "yes\n",
	"systemd-detect-virt": "qemu\n",
	"findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS --mountpoint /var/data/phi": "/dev/mapper/phi-data ext4 rw,nosuid,nodev,noexec,relatime\n",
	"cryptsetup status /dev/mapper/phi-data":                                         "/dev/mapper/phi-data is active and is in use.\n  type:    LUKS2\n  cipher:  aes-xts-plain64\n  keysize: 512 bits\n",
	"ss --no-header --listening --tcp --udp --numeric --processes":                   "tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"sshd\",pid=1,fd=3))\nudp UNCONN 0 0 127.0.0.1:323 0.0.0.0:* users:((\"chronyd\",pid=2,fd=4))\n",
	"nft --json list chains":                                                         `{"nftables":[{"metainfo":{}},{"chain":{"family":"inet","table":"ward","name":"input","hook":"input","policy":"drop"}},{"chain":{"family":"inet","table":"ward","name":"helpers"}}]}`,
	"getent passwd":                                                                  "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice <Miller>,,,:/home/alice:/bin/bash\nsshd:x:100:1::/run/sshd:/usr/sbin/nologin\n",
	"id -nG root":                                                                    "root\n",
	"id -nG alice":                                                                   "alice phi-access\n",
	"auditctl -l":                                                                    "-a always,exit -F arch=b64 -S open -F dir=/var/data/phi -F key=phi_access\n-a always,exit -F arch=b32 -S open -F dir=/var/data/phi -F key=phi_access\n-w /etc/shadow -p wa -k shadow\n",
	"lastb -w -s -7days":                                                             "mallory ssh:notty 203.0.113.5 Mon Nov 23 01:00 - 01:00 (00:00)\nmallory ssh:notty 203.0.113.5 Mon Nov 23 01:01 - 01:01 (00:00)\n\nbtmp begins Mon Nov 23 01:00:00 2026\n",
	"apt-get --simulate --quiet dist-upgrade":                                        "Reading package lists...\nInst openssl [3.0.1] (3.0.2 Debian-Security:12/stable-security [amd64])\nConf openssl (3.0.2 Debian-Security:12/stable-security [amd64])\n",
	"lscpu": "Architecture: x86_64\nCPU(s): 2\nModel name: Example\n",
	"lsblk --json --list --output NAME,TYPE,SIZE,FSTYPE,MOUNTPOINT": `{"blockdevices":[{"name":"vda","type":"disk","size":"3G","fstype":null,"mountpoint":null},{"name":"phi-data","type":"crypt","size":"496M","fstype":"ext4","mountpoint":"/var/data/phi"}]}`,
	"ip -brief address": "lo UNKNOWN 127.0.0.1/8\n",
	"ip route":          "default via 10.0.2.2 dev ens4\n",
	"dpkg-query --show --showformat ${Package}\t${Version}\n": "zlib1g\t1:1.2.13\nopenssl\t3.0.1\n",
}

func snapshot(t *testing.T) *Snapshot {
	t.Helper()
	return Collect(t.Context(), Options{
		Run: func(_ context.Context, argv ...string) (string, error) {
			if out, ok := answers[strings.Join(argv, " ")]; ok {
				return out, nil
			}
			return "", errors.New(argv[0] + ": not there")
		},
		Now:     func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
		Release: distro.All[0], Profile: &profiles.Profile{Name: "hipaa"}, Mounts: []string{"/var/data/phi"},
		Report: &evidence.Report{Applied: "done", Findings: []control.Finding{
			{Control: "sshd", Setting: "PermitRootLogin", Status: control.Fail, Want: "no", Got: "yes", Refs: []string{"45 CFR 164.312(d)"}},
			{Control: "phi", Setting: "mapping", Status: control.Pass, Want: "x", Got: "x"}}},
	})
}

func TestCollect(t *testing.T) {
	s := snapshot(t)
	rows := map[string]string{}
	for _, sec := range s.Sections {
		var lines []string
		for _, r := range sec.Rows {
			if len(r) != len(sec.Head) {
				t.Errorf("%s: row %q has %d cells, want %d", sec.ID, r, len(r), len(sec.Head))
			}
			lines = append(lines, strings.Join(r, "|"))
		}
		rows[sec.ID] = strings.Join(lines, "\n")
	}
	for id, want := range map[string]string{
		"encryption": "/var/data/phi|/dev/mapper/phi-data|ext4|rw,nosuid,nodev,noexec,relatime|type LUKS2, cipher aes-xts-plain64, keysize 512 bits",
		"ports":      "tcp|0.0.0.0:22|sshd\nudp|127.0.0.1:323|chronyd",
		"firewall":   "inet ward input (input)|drop",
		"accounts":   "root|root|root|/bin/bash\nalice|Alice <Miller>|alice phi-access|/bin/bash",
		"audit":      "phi_access|2\nshadow|1",
		"failed":     "mallory|203.0.113.5|2",
		"updates":    "openssl|3.0.2|Debian-Security:12/stable-security|yes",
		"disks":      "vda|disk|3G||\nphi-data|crypt|496M|ext4|/var/data/phi",
		"software":   "openssl|3.0.1\nzlib1g|1:1.2.13",
	} {
		if rows[id] != want {
			t.Errorf("%s is\n%s\nwant\n%s", id, rows[id], want)
		}
	}
	// What cannot be looked at is named, and nothing else is lost by it.
	if got := strings.Join(s.Missing, ";"); got != "Assets: network: ip: not there" {
		t.Errorf("missing = %q, want the neighbours that nobody answered for", got)
	}
}

func TestHTML(t *testing.T) {
	s := snapshot(t)
	// What depends on the machine that runs the test.
	s.Host = "clinic-1"
	for i := range s.Sections {
		if s.Sections[i].ID == "hardware" {
			s.Sections[i].Rows = s.Sections[i].Rows[:1]
		}
	}
	var b bytes.Buffer
	if err := s.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<Miller>", "http://", "https://", "<script", "src="} {
		if strings.Contains(b.String(), bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	const golden = "testdata/risk.html"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the page differs from %s (see -update); it is\n%s", golden, b.String())
	}
}
