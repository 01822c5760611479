package firstboot

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"ward/profiles/machine"
)

var mounts = []string{"/var/data/phi"}

func TestParseConfigRefusesByName(t *testing.T) {
	for _, c := range []struct {
		name, config string
		want         []string
	}{
		{"empty", ``, []string{"config: "}},
		{"not JSON", `{"ignition": `, []string{"config: error at line"}},
		{"other version", `{"ignition":{"version":"2.3.0"}}`, []string{"unsupported config version"}},
		{"misspelt key", `{"ignition":{"version":"3.5.0"},"storage":{"filez":[]}}`, []string{"filez"}},
		{"what the image decides, all at once", `{"ignition":{"version":"3.5.0"},
			"kernelArguments":{"shouldExist":["quiet"]},
			"storage":{
				"disks":[{"device":"/dev/vda","wipeTable":true}],
				"raid":[{"name":"md","level":"raid1","devices":["/dev/vda"]}],
				"filesystems":[{"device":"/dev/vda","format":"ext4"}],
				"luks":[{"name":"x","device":"/dev/vda"}]}}`,
			[]string{"kernelArguments: not supported", "storage.disks: not supported", "storage.raid: not supported",
				"storage.filesystems: not supported", "storage.luks: not supported"}},
		{"more configs, a proxy", `{"ignition":{"version":"3.5.0","proxy":{"httpsProxy":"https://p"},"config":{"merge":[{"source":"https://a/b"}]}}}`,
			[]string{"ignition.config.merge: not supported", "ignition.proxy: not supported"}},
		{"sources", `{"ignition":{"version":"3.5.0"},"storage":{"files":[
			{"path":"/etc/a","contents":{"source":"http://host/a"}},
			{"path":"/etc/b","contents":{"source":"s3://bucket/b"}},
			{"path":"/etc/c","append":[{"source":"data:,x"}]}]}}`,
			[]string{`storage.files[0].contents.source: scheme "http" is not supported`, `storage.files[1].contents.source: scheme "s3"`, "storage.files[2].append: not supported"}},
		{"places", `{"ignition":{"version":"3.5.0"},"storage":{
			"files":[{"path":"/var/data/phi/x","contents":{"source":"data:,"}},{"path":"/proc/x","contents":{"source":"data:,"}}],
			"directories":[{"path":"/var/lib/ward/x"}],"links":[{"path":"/dev/x","target":"y"}]}}`,
			[]string{"storage.files[0].path: /var/data/phi/x is below /var/data/phi", "storage.files[1].path: /proc/x is below /proc",
				"storage.directories[0].path: /var/lib/ward/x is below /var/lib/ward", "storage.links[0].path: /dev/x is below /dev"}},
		{"users", `{"ignition":{"version":"3.5.0"},"passwd":{
			"users":[{"name":"root","gecos":"x"},{"name":"eve","uid":0,"homeDir":"/x","shell":"/bin/zsh"}],
			"groups":[{"name":"g","passwordHash":"x"}]}}`,
			[]string{"passwd.users[0] (root): name: root is locked", "passwd.users[1] (eve): gecos: is missing", "passwd.users[1] (eve): uid: not supported",
				"passwd.users[1] (eve): homeDir: not supported", "passwd.users[1] (eve): shell: not supported", "passwd.groups[0].passwordHash: not supported"}},
		{"ward's own unit", `{"ignition":{"version":"3.5.0"},"systemd":{"units":[{"name":"ward-apply.service","mask":true}]}}`,
			[]string{"systemd.units[0]: ward-apply.service is ward's own"}},
		{"machine file elsewhere", `{"ignition":{"version":"3.5.0"},"storage":{"files":[{"path":"/etc/ward/machine.json","contents":{"source":"https://h/m"}}]}}`,
			[]string{"must be written in the config itself"}},
		{"machine file with an unknown key", `{"ignition":{"version":"3.5.0"},"storage":{"files":[{"path":"/etc/ward/machine.json","contents":{"source":"data:,%7B%22hostnam%22%3A%22x%22%7D"}}]}}`,
			[]string{`unknown field "hostnam"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(c.config), mounts)
			if err == nil {
				t.Fatalf("ParseConfig() = %+v, want it refused", got.Machine)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("ParseConfig() = %v\nwant %q in it", err, want)
				}
			}
		})
	}
}

func dataURL(text string) string {
	return "data:;base64," + base64.StdEncoding.EncodeToString([]byte(text))
}

// A config of ward machine and users written by hand end up in one list.
func TestParseConfigPeople(t *testing.T) {
	own := `{"hostname":"clinic-1","people":[{"name":"alice","full_name":"Alice Miller","ssh_keys":["k1"],"sudo":true}]}`
	config := fmt.Sprintf(`{"ignition":{"version":"3.4.0"},
		"passwd":{"users":[
			{"name":"alice","gecos":"Alice Miller","sshAuthorizedKeys":["k1"]},
			{"name":"bob","gecos":"Bob Hand","sshAuthorizedKeys":["k2"],"groups":["sudo","phi-access"],"shell":"/bin/bash"},
			{"name":"gone","shouldExist":false}]},
		"storage":{"files":[{"path":%q,"contents":{"source":%q}}]}}`, machine.Path, dataURL(own))
	c, err := ParseConfig([]byte(config), mounts)
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine.Hostname != "clinic-1" || len(c.Machine.People) != 2 {
		t.Fatalf("ParseConfig() = %+v, want clinic-1 with alice and bob", c.Machine)
	}
	a, b := c.Machine.People[0], c.Machine.People[1]
	if a.Name != "alice" || !a.Sudo || len(a.SSHKeys) != 1 {
		t.Errorf("alice = %+v, want what the machine file says", a)
	}
	if b.Name != "bob" || !b.Sudo || b.FullName != "Bob Hand" || len(b.Groups) != 1 || b.Groups[0] != "phi-access" {
		t.Errorf("bob = %+v, want sudo by the group and phi-access", b)
	}
}

func TestHostnameOfAConfigByHand(t *testing.T) {
	c, err := ParseConfig([]byte(`{"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"/etc/hostname","contents":{"source":"data:,clinic-2%0A"}}]}}`), mounts)
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine.Hostname != "clinic-2" {
		t.Errorf("hostname = %q, want clinic-2", c.Machine.Hostname)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"ignition":{"version":"3.5.0"}}`))
	f.Add([]byte(`{"ignition":{"version":"3.1.0"},"passwd":{"users":[{"name":"a","gecos":"b"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw, mounts)
		if err == nil && (len(c.ign.Storage.Disks) > 0 || len(c.ign.Storage.Luks) > 0) {
			t.Errorf("ParseConfig(%q) accepted disks", raw)
		}
	})
}
