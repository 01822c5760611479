package profiles

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ward/initramfs/handoff"
)

// today is the day on which the tests run, so that waivers do not age.
var today = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestHIPAA holds the defaults that the documentation promises.
func TestHIPAA(t *testing.T) {
	p, err := Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	c := p.Controls
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"aging", []int{c.Accounts.MaxDays, c.Accounts.MinDays, c.Accounts.WarnDays}, []int{90, 7, 14}},
		{"passwords", []int{c.Passwords.MinLen, c.Passwords.MinClass, c.Passwords.MaxRepeat}, []int{14, 3, 2}},
		{"password checks", []bool{c.Passwords.GecosCheck, c.Passwords.DictCheck}, []bool{true, true}},
		{"lockout", []int{c.Lockout.Deny, c.Lockout.UnlockTime}, []int{5, 1800}},
		{"ssh", []int{c.SSHD.MaxAuthTries, c.SSHD.AliveInterval, c.SSHD.AliveCount}, []int{3, 300, 1}},
		{"ssh group", c.SSHD.Group, "phi-access"},
		{"logoff", c.Logoff.Idle, 900},
		{"backlog", c.Audit.Backlog, 8192},
		{"tls", c.TLS.MinVersion, "1.2"},
		{"phi mode", c.PHI.Mode, "0750"},
		{"fscrypt", c.Fscrypt, Fscrypt{true, "patient-records"}},
		{"backup", []string{c.Backup.OnCalendar, c.Backup.Tag}, []string{"*-*-* 01:00:00", "hipaa-backup"}},
		{"open", time.Duration(c.Breakglass.MaxOpen), 4 * time.Hour},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s = %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

// TestJSON: the machine reads what the builder writes.
func TestJSON(t *testing.T) {
	p, err := Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Waivers = []Waiver{{"mfa", "later", "J. Doe", "2001-01-01"}} // one that is over must not stop a machine
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	back, err := Read(write(t, "profile.json", string(data)))
	if err != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("Read() = %+v, %v, want what was written: %+v", back, err, p)
	}
	for _, tt := range []struct{ text, want string }{
		{`{"name":"a","contrals":{}}`, `unknown field "contrals"`},
		{`{"name":"a"} {}`, "something follows"},
		{`{}`, "has no name"},
		{``, "EOF"},
	} {
		if _, err := Read(write(t, "profile.json", tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Read(%s) = %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestExtends(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"clinic.yaml": "name: clinic\nextends: hipaa\ncontrols:\n  lockout: {deny: 3}\n  kernel:\n    sysctl: {kernel.sysrq: \"4\", vm.swappiness: \"1\"}\n  phi: {key_sources: [{type: device, partuuid: 01234567-89ab-cdef-0123-456789abcdef, timeout: 5s}, fw_cfg]}\n",
		"ward3.yaml":  "name: ward3\nextends: ./clinic.yaml\ncontrols:\n  mfa: {enabled: true}\nwaivers:\n- {control: mfa, reason: r, owner: o, expires: 2026-12-31}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := load(filepath.Join(dir, "ward3.yaml"), today)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Controls
	if p.Name != "ward3" || c.Lockout.Deny != 3 || c.Lockout.UnlockTime != 1800 || !c.MFA.Enabled ||
		c.Kernel.Sysctl["kernel.sysrq"] != "4" || c.Kernel.Sysctl["vm.swappiness"] != "1" || c.Kernel.Sysctl["kernel.kptr_restrict"] != "2" ||
		len(c.PHI.KeySources) != 2 || time.Duration(c.PHI.KeySources[0].Timeout) != 5*time.Second || c.PHI.KeySources[1].Type != "fw_cfg" || len(p.Waivers) != 1 {
		t.Errorf("load(ward3) = %+v, want what three profiles say together", p)
	}
	base, err := Load("hipaa")
	if err != nil || base.Controls.Kernel.Sysctl["kernel.sysrq"] != "0" {
		t.Errorf("the embedded profile changed: %v, %v", base, err)
	}
}

func TestLoadFaults(t *testing.T) {
	const head = "name: clinic\nextends: hipaa\n"
	waiver := func(s string) string { return head + "waivers:\n- " + s }
	control := func(s string) string { return head + "controls: {" + s + "}" }
	volume := func(name, mount string) string {
		return control("phi: {volumes: [{name: " + name + ", mount: " + mount + "}]}")
	}
	tests := []struct{ name, text, want string }{
		{"unknown key", control("sshd: {port: 22}"), ":3:19: controls.sshd.port: is not a known key"},
		{"unknown control's parameters", control("sshdd: {}"), "controls.sshdd: is not a known key; did you mean sshd?"},
		{"wrong type", control("lockout: {deny: five}"), "controls.lockout.deny: is the text five, want a whole number"},
		{"no name", "extends: hipaa\n", "name: is missing"},
		{"no controls", "name: a\n", `controls: is missing`},
		{"whole profile", "name: a\ncontrols: {lockout: {deny: 1}}", "controls.lockout.unlock_time: is missing"},
		{"unknown base", "name: a\nextends: hippa\n", `:2:1: extends: profile "hippa" is not known; did you mean hipaa?`},
		{"base is no file", "name: a\nextends: ./b.yaml\n", "there is no such file"},
		{"range", control("logoff: {idle: 0}"), "controls.logoff.idle: is 0, want 5 to 3600"},
		{"client alive off", control("sshd: {alive_count: 0}"), "controls.sshd.alive_count: is 0, want 1 to 10"},
		{"min days", control("accounts: {min_days: 90}"), "controls.accounts.min_days: is 90, want less than max_days, which is 90"},
		{"warn days", control("accounts: {max_days: 10}"), "controls.accounts.max_days: is 10, want more than warn_days, which is 14"},
		{"root", control("accounts: {group: root}"), `controls.accounts.group: cannot be "root"`},
		{"open for ever", control("breakglass: {max_open: 1000h}"), "controls.breakglass.max_open: is 1000h0m0s, want 1m to 168h"},
		{"weak cipher", control("sshd: {ciphers: [aes256-cbc]}"), `controls.sshd.ciphers[0]: is "aes256-cbc", which is weak`},
		{"weak mac", control("sshd: {macs: [hmac-sha1]}"), `controls.sshd.macs[0]: is "hmac-sha1", which is weak`},
		{"weak kex", control("sshd: {kex: [diffie-hellman-group14-sha1]}"), "which is weak"},
		{"cipher list in one", control(`sshd: {ciphers: ["a,b"]}`), "which is no name of an algorithm; ssh -Q cipher lists them"},
		{"calendar", control(`backup: {on_calendar: "25:00"}`), `"25:00" does not fit; see systemd.time(7)`},
		{"network", control("firewall: {ssh_from: [10.0.0.0]}"), "controls.firewall.ssh_from[0]: is \"10.0.0.0\", which is no network; write the single address as 10.0.0.0/32"},
		{"network bits", control("firewall: {ssh_from: [10.1.2.3/8]}"), "did you mean 10.0.0.0/8?"},
		{"no network", control("firewall: {ssh_from: []}"), "has 0 values, want 1 or more"},
		{"time server", control("time: {servers: ['a b']}"), `controls.time.servers[0]: is "a b", which is no host name`},
		{"space left", control("audit: {space_left: 20}"), "controls.audit.space_left: is 20, want more than admin_space_left, which is 50; auditd refuses"},
		{"audit action", control("audit: {disk_full_action: ignore}"), `is "ignore", want syslog, rotate, suspend, single or halt`},
		{"sysctl", control(`kernel: {sysctl: {sysrq: "0"}}`), "controls.kernel.sysctl.sysrq: is no name of sysctl(8)"},
		{"sysctl number", control(`kernel: {sysctl: {kernel.sysrq: 0}}`), "is the number 0, want text; put it in quotes"},
		{"path", control("integrity: {paths: [usr]}"), `controls.integrity.paths[0]: is "usr", want a clean absolute path`},
		{"key source", control("phi: {key_sources: [devise]}"), "did you mean device?"},
		{"key source twice", control("phi: {key_sources: [device, device]}"), "controls.phi.key_sources[1]: is controls.phi.key_sources[0] again"},
		{"key source, no server", control("phi: {key_sources: [device, https]}"), "controls.phi.key_sources[1].url: is missing; a source of type https needs it"},
		{"key source, clear text", control("phi: {key_sources: [{type: https, url: \"http://x/\", ca: x}]}"), "controls.phi.key_sources[0].url: is no address of a server of type https"},
		{"key source, useless", control("phi: {key_sources: [{type: fw_cfg, url: \"https://x/\"}]}"), "controls.phi.key_sources[0].url: is nothing that a source of type fw_cfg looks at"},
		{"key source, unknown key", control("phi: {key_sources: [{type: device, lable: x}]}"), "controls.phi.key_sources[0].lable: is not a known key; did you mean label?"},
		{"key source, no type", control("phi: {key_sources: [{label: x}]}"), "controls.phi.key_sources[0].type: is missing"},
		{"key source, two places", control("phi: {key_sources: [{type: device, label: x, partuuid: 01234567-89ab-cdef-0123-456789abcdef}]}"), "is given beside a label"},
		{"key source, register", control("phi: {key_sources: [{type: tpm2, pcrs: [24]}]}"), "controls.phi.key_sources[0].pcrs[0]: is 24, want 0 to 23"},
		{"verity, unattended updates", control("integrity: {root: verity}"), "controls.integrity.root: is verity, and a verified root takes no update of a package; say updates: {unattended: false} beside it"},
		{"root, unknown", control("integrity: {root: versity}"), "did you mean verity?"},
		{"key source, TPM alone", control("phi: {key_sources: [tpm2]}"), "controls.phi.key_sources: has tpm2 alone, and a TPM makes no key; add the one that has the key on the first boot"},
		{"key source, long", control("phi: {key_sources: [{type: device, timeout: 1h}]}"), "controls.phi.key_sources[0].timeout: is 1h0m0s, want 1ms to 10m"},
		{"mode", control("phi: {mode: 0750}"), "controls.phi.mode: is the number 0750, want text; put it in quotes"},
		{"world", control(`phi: {mode: "0777"}`), `controls.phi.mode: is "0777", want 0750`},
		{"recipient", control("phi: {recipients: [age1xyz]}"), "is not an age recipient"},
		{"private key", control("phi: {recipients: [AGE-SECRET-KEY-1AAA]}"), "is a private key, which must not be in a profile"},
		{"volume, no name", control("phi: {volumes: [{mount: /srv/a}]}"), "controls.phi.volumes[0].name: is missing; add a line such as"},
		{"volume, no mount", control("phi: {volumes: [{name: a}]}"), "controls.phi.volumes[0].mount: is missing; add a line such as"},
		{"volume, unknown key", control("phi: {volumes: [{name: a, mount: /srv/a, size: 1GiB}]}"), "controls.phi.volumes[0].size: is not a known key"},
		{"volume, capital letter", volume("Archive", "/srv/a"), `controls.phi.volumes[0].name: is "Archive", want the form`},
		{"volume, underscore", volume("a_b", "/srv/a"), `controls.phi.volumes[0].name: is "a_b", want the form`},
		{"volume, long", volume("a2345678901234567", "/srv/a"), "controls.phi.volumes[0].name: has 17 characters, want at most 16"},
		{"volume, phi-data", volume("phi-data", "/srv/a"), `controls.phi.volumes[0].name: is "phi-data", a name that ward itself uses; choose another`},
		{"volume, the partition beside a verified root", volume("state", "/srv/a"), `controls.phi.volumes[0].name: is "state", a name that ward itself uses`},
		{"volume, device-mapper's own node", volume("control", "/srv/a"), `controls.phi.volumes[0].name: is "control", a name that ward itself uses`},
		{"volume, twice", control("phi: {volumes: [{name: a, mount: /srv/a}, {name: a, mount: /srv/b}]}"), `controls.phi.volumes[1].name: is "a" again`},
		{"volume, elsewhere", volume("a", "/home/a"), `controls.phi.volumes[0].mount: is "/home/a", want the form`},
		{"volume, the folder itself", volume("a", "/srv"), `controls.phi.volumes[0].mount: is "/srv", want the form`},
		{"volume, climbs", volume("a", "/srv/../etc"), `controls.phi.volumes[0].mount: is "/srv/../etc", want the form`},
		{"volume, not clean", volume("a", "/srv/a/"), `controls.phi.volumes[0].mount: is "/srv/a/", want the form`},
		{"volume, blank", volume("a", "'/srv/a b'"), `controls.phi.volumes[0].mount: is "/srv/a b", want the form`},
		{"volume, over phi-data", volume("a", "/var/data/phi"), `controls.phi.volumes[0].mount: is "/var/data/phi", and volume phi-data is mounted at /var/data/phi; choose a folder beside it`},
		{"volume, in phi-data", volume("a", "/var/data/phi/a"), `controls.phi.volumes[0].mount: is "/var/data/phi/a", and volume phi-data is mounted at /var/data/phi`},
		{"volume, in another", control("phi: {volumes: [{name: a, mount: /srv/a}, {name: b, mount: /srv/a/b}]}"), `controls.phi.volumes[1].mount: is "/srv/a/b", and volume a is mounted at /srv/a`},
		{"volume, around another", control("phi: {volumes: [{name: b, mount: /srv/a/b}, {name: a, mount: /srv/a}]}"), `controls.phi.volumes[1].mount: is "/srv/a", and volume b is mounted at /srv/a/b`},
		{"waiver, control", waiver("{control: sshdd, reason: r, owner: o, expires: 2026-12-31}"), `:4:4: waivers[0].control: is "sshdd", which is no control; did you mean sshd?`},
		{"waiver, no reason", waiver("{control: sshd, reason: ' ', owner: o, expires: 2026-12-31}"), "waivers[0].reason: is empty"},
		{"waiver, reason missing", waiver("{control: sshd, owner: o, expires: 2026-12-31}"), "waivers[0].reason: is missing; add a line such as"},
		{"waiver, no owner", waiver("{control: sshd, reason: r, expires: 2026-12-31}"), "waivers[0].owner: is missing"},
		{"waiver, no end", waiver("{control: sshd, reason: r, owner: o}"), "waivers[0].expires: is missing"},
		{"waiver, past", waiver("{control: sshd, reason: r, owner: o, expires: 2026-02-28}"), "waivers[0].expires: is 2026-02-28, which is over (today is 2026-03-01)"},
		{"waiver, today", waiver("{control: sshd, reason: r, owner: o, expires: 2026-03-01}"), "which is over"},
		{"waiver, date", waiver("{control: sshd, reason: r, owner: o, expires: 2026-02-30}"), "which is no date; write it as 2027-06-30"},
		{"waiver, other date", waiver("{control: sshd, reason: r, owner: o, expires: 30.6.2027}"), "waivers[0].expires: is"},
		{"waiver, far", waiver("{control: sshd, reason: r, owner: o, expires: 2099-01-01}"), "too far away"},
		{"waiver, twice", waiver("{control: sshd, reason: r, owner: o, expires: 2026-12-31}\n- {control: sshd, reason: r, owner: o, expires: 2026-12-31}"), "waivers[1].control: is \"sshd\" again, first in waivers[0]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, "clinic.yaml", tt.text)
			_, err := load(file, today)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "clinic.yaml") {
				t.Errorf("load(%q) = %v, want %s", tt.text, err, tt.want)
			}
		})
	}
}

// TestEveryFaultAtOnce: types, ranges and what needs several values, in one go.
func TestEveryFaultAtOnce(t *testing.T) {
	file := write(t, "clinic.yaml", "name: clinic\nextends: hipaa\ncontrols:\n  lockout: {deny: five}\n  logoff: {idle: 1}\n  firewall: {ssh_from: [x]}\n  nix: {}\nwaivers:\n- {control: x, reason: r, owner: o, expires: 2020-01-01}\n")
	_, err := load(file, today)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 6 {
		t.Errorf("load() reports %d lines, want 6:\n%v", len(lines), err)
	}
}

// TestVolumes: phi-data comes first, and each volume has the names that init needs.
func TestVolumes(t *testing.T) {
	p, err := load(write(t, "clinic.yaml", "name: clinic\nextends: hipaa\ncontrols:\n  phi:\n    volumes:\n    - {name: archive, mount: /var/data/phi-archive}\n    - {name: images-2, mount: /srv/images/2}\n"), today)
	if err != nil {
		t.Fatal(err)
	}
	c := handoff.Config{Version: handoff.Version, OnFailure: handoff.Degrade, Volumes: p.Controls.PHI.Handoff()}
	want := []handoff.Volume{
		{Name: "phi-data", PartLabel: "phi-data", KeyFile: "phi-data.key", Mount: "/var/data/phi"},
		{Name: "archive", PartLabel: "archive", KeyFile: "archive.key", Mount: "/var/data/phi-archive"},
		{Name: "images-2", PartLabel: "images-2", KeyFile: "images-2.key", Mount: "/srv/images/2"},
	}
	if !reflect.DeepEqual(c.Volumes, want) {
		t.Errorf("Handoff() = %+v, want %+v", c.Volumes, want)
	}
	if err := c.Validate(); err != nil {
		t.Errorf("init refuses them: %v", err)
	}
}

// TestKeySourceJSON: both forms, and nothing else.
func TestKeySourceJSON(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`"device"`, ""}, {`{"type":"tpm2","pcrs":[7]}`, ""}, {`"devise"`, "did you mean device?"}, {`{"type":"device","lable":"x"}`, "unknown field"}, {`7`, "cannot unmarshal number"},
	} {
		var k KeySource
		err := json.Unmarshal([]byte(tt.text), &k)
		if tt.want == "" && (err != nil || k.Type == "") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Unmarshal(%s) = %+v, %v, want %q", tt.text, k, err, tt.want)
		}
	}
}

// TestKeySource: what init is told of a source.
func TestKeySource(t *testing.T) {
	for _, tt := range []struct {
		in   KeySource
		want handoff.Source
	}{
		{KeySource{Type: "device"}, handoff.Source{Type: "device", Label: "WARD-KEY"}},
		{KeySource{Type: "device", PartUUID: "u"}, handoff.Source{Type: "device", PartUUID: "u"}},
		{KeySource{Type: "https", URL: "https://k/", CA: "pem", Timeout: Duration(time.Second)}, handoff.Source{Type: "https", URL: "https://k/", CA: "pem", TimeoutMS: 1000}},
		{KeySource{Type: "https", URL: "https://k/", CA: "pem", Identity: "fw_cfg"}, handoff.Source{Type: "https", URL: "https://k/", CA: "pem", Identity: "fw_cfg"}},
		{KeySource{Type: "tpm2", PCRs: []int{7}}, handoff.Source{Type: "tpm2", PCRs: []int{7}}},
		{KeySource{Type: "tpm2"}, handoff.Source{Type: "tpm2", PCRs: []int{7, 11}}},
	} {
		if got := tt.in.Source(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%+v.Source() = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestUnknownName(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"hippa", `profile "hippa" is not known; did you mean hipaa?`},
		{"zzz", "known are hipaa"},
		{"", "known are hipaa"},
		{"./nowhere.yaml", "profile ./nowhere.yaml: there is no such file"},
		{"./no/hipaa.yaml", "there is no such file; the one that comes with ward is called hipaa"},
		{"..", "is not known"},
	} {
		if _, err := Load(tt.name); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Load(%q) = %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestExtendsCircle(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a", "b"} {
		other := map[string]string{"a": "b", "b": "a"}[n]
		if err := os.WriteFile(filepath.Join(dir, n+".yaml"), []byte("name: x\nextends: ./"+other+".yaml\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(filepath.Join(dir, "a.yaml")); err == nil || !strings.Contains(err.Error(), "goes in a circle") {
		t.Errorf("Load() = %v, want an error that says it goes in a circle", err)
	}
}

// TestCalendar asks systemd for a second opinion: what is accepted here, it accepts.
func TestCalendar(t *testing.T) {
	good := []string{"daily", "Weekly", "*-*-* 01:00:00", "01:00", "Mon..Fri *-*-* 22:30", "Sat,Sun 03:00", "*-*-01 00:00:00", "*:0/15", "*-*-1..7 4:00:00", "Sun", "2027-01-01 12:00 UTC", "Wednesday 12:00", "1-1 00:00", "*-01,04,07,10-01 00:00:00"}
	bad := []string{"", "sometimes", "25:00", "01:60", "Mon..Xyz 01:00", "*-13-01 00:00", "*-*-32", "01:00 tomorrow", "*-*-* 01:00:00 x", "01:00\n[Service]", "*-*-* 1:2:3:4", "-", ":", "0/0:00"}
	for _, s := range good {
		if err := checkCalendar(s); err != nil {
			t.Errorf("checkCalendar(%q) = %v, want nil", s, err)
		}
	}
	for _, s := range bad {
		if err := checkCalendar(s); err == nil || !strings.Contains(err.Error(), "is not a calendar event") {
			t.Errorf("checkCalendar(%q) = %v, want an error", s, err)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("no systemd-analyze here: no second opinion")
		return
	}
	for _, s := range good {
		if out, err := exec.Command(analyze, "calendar", s).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze calendar %q: %v: %s", s, err, out)
		}
	}
}

// FuzzCalendar: nothing that would break out of a unit file's line is accepted.
func FuzzCalendar(f *testing.F) {
	for _, s := range []string{"daily", "Mon..Fri *-*-* 22:30", "*:0/15", "2027-01-01 12:00 UTC"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkCalendar(s) == nil && strings.Trim(strings.ToLower(s), " \t\n\v\f\r\u0085\u00a0abcdefghijklmnopqrstuvwxyz0123456789*-:,./") != "" {
			t.Errorf("checkCalendar(%q) = nil, want an error", s)
		}
	})
}
