package control

import (
	"strings"
	"testing"
	"testing/fstest"

	"ward/images/arch"
	"ward/profiles"
	"ward/profiles/machine"
)

// What is written and what auditctl -l of 3.0.9 and 4.0 prints back must meet.
func TestNormalRule(t *testing.T) {
	for _, c := range []struct{ written, printed string }{
		{"-a always,exit -F arch=b64 -F path=/etc/passwd -F perm=wa -F key=user_changes", "-a always,exit -F arch=b64 -S all -F path=/etc/passwd -F perm=wa -F key=user_changes"},
		{"-a always,exit -F arch=b64 -F dir=/var/log/audit -F perm=rwa -F auid>=1000 -F auid!=unset -F key=audit_log", "-a always,exit -F arch=b64 -S all -F dir=/var/log/audit -F perm=rwa -F auid>=1000 -F auid!=-1 -F key=audit_log"},
		{"-a always,exit -F arch=b32 -S rename,unlink -F auid>=1000 -F key=file_deletion", "-a always,exit -F arch=b32 -S unlink,rename -F auid>=1000 -F key=file_deletion"},
		{"-a always,exit -F arch=b64 -F path=/usr/bin/sudo -F perm=x -F key=privileged", "-a always,exit -F arch=b64 -S execve,execveat -F path=/usr/bin/sudo -F perm=x -F key=privileged"},
		{"-a exit,always -F arch=b64 -S init_module -k modules", "-a always,exit -F arch=b64 -S init_module -F key=modules"},
	} {
		if a, b := normalRule(c.written), normalRule(c.printed); a != b {
			t.Errorf("normalRule(%q) = %q, and of what is printed %q", c.written, a, b)
		}
	}
	for _, c := range []struct{ a, b string }{
		{"-a always,exit -F arch=b64 -F path=/etc/passwd -F perm=wa -F key=k", "-a always,exit -F arch=b32 -F path=/etc/passwd -F perm=wa -F key=k"},
		{"-a always,exit -F arch=b64 -F path=/etc/passwd -F perm=wa -F key=k", "-a never,exit -F arch=b64 -F path=/etc/passwd -F perm=wa -F key=k"},
		{"-a always,exit -F arch=b64 -S unlink,rename -F key=k", "-a always,exit -F arch=b64 -S unlink -F key=k"},
		{"-a always,exit -F arch=b64 -F path=/a -F perm=rwxa -F key=k", "-a always,exit -F arch=b64 -F path=/a -F perm=wa -F key=k"},
	} {
		if normalRule(c.a) == normalRule(c.b) {
			t.Errorf("normalRule() takes %q and %q for one", c.a, c.b)
		}
	}
}

func TestAuditRuleKeys(t *testing.T) {
	var p profiles.Profile
	p.Controls.Audit.AppDirs = []string{"/opt/app"}
	have := make(map[string]int)
	for _, r := range auditRules(&p) {
		have[r.key] += len(r.lines(arch.All[0]))
	}
	for _, key := range []string{"phi_access", "app_access", "user_changes", "shadow_changes", "group_changes", "sudoers_changes", "auth_log",
		"root_commands", "file_deletion", "ssh_key_changes", "time_change", "modules", "breakglass"} {
		if have[key] < 2 {
			t.Errorf("%d rules have the key %s, want one for each system call table", have[key], key)
		}
	}
}

// A call that an architecture has no number for must be in no rule for its 64-bit
// table, and a rule must not become one for every call by that.
func TestAuditRulesOfArch(t *testing.T) {
	var p profiles.Profile
	for _, a := range arch.All {
		for _, r := range auditRules(&p) {
			lines := r.lines(a)
			for _, call := range a.NoCalls {
				if strings.Contains(strings.NewReplacer(",", " ,", "-S ", " ,").Replace(lines[0])+" ", " ,"+call+" ") {
					t.Errorf("%s: %q has %s", a.Name, lines[0], call)
				}
			}
			if len(r.calls) > 0 && (!strings.Contains(lines[0], " -S ") || !strings.Contains(lines[1], r.calls[0])) {
				t.Errorf("%s: %q of %q", a.Name, lines, r.calls)
			}
		}
	}
}

func TestSetKeys(t *testing.T) {
	const old = "# max_log_file is a comment\nmax_log_file = 8\nnum_logs=5\nmax_log_file = 9\n"
	const want = "# max_log_file is a comment\nmax_log_file = 16\nnum_logs=5\nflush = DATA\n"
	keys := [][2]string{{"max_log_file", "16"}, {"flush", "DATA"}}
	got := setKeys(old, keys)
	if got != want {
		t.Errorf("setKeys() = %q, want %q", got, want)
	}
	if again := setKeys(got, keys); again != got {
		t.Errorf("setKeys() again = %q, want no change", again)
	}
}

func TestWithBlock(t *testing.T) {
	one := withBlock("HOME = .", "tls", "a = 1\n")
	if want := "HOME = .\n\n# ward: tls begin\na = 1\n# ward: tls end\n"; one != want {
		t.Errorf("withBlock() = %q, want %q", one, want)
	}
	if again := withBlock(one, "tls", "a = 1\n"); again != one {
		t.Errorf("withBlock() again = %q, want no change", again)
	}
	if two := withBlock(one, "tls", "a = 2\n"); strings.Contains(two, "a = 1") || strings.Count(two, "begin") != 1 {
		t.Errorf("withBlock() with another block = %q, want the old one replaced", two)
	}
}

func TestRepositoryServer(t *testing.T) {
	for _, c := range []struct{ repository, host, port string }{
		{"sftp:backup@backup.example.org:/srv/restic", "backup.example.org", "22"},
		{"sftp://backup@backup.example.org:2222//srv", "backup.example.org", "2222"},
		{"rest:https://backup.example.org:8000/clinic", "backup.example.org", "8000"},
		{"rest:https://user:secret@backup.example.org/", "backup.example.org", "443"},
		{"s3:https://s3.example.org/bucket", "s3.example.org", "443"},
		{"s3:s3.example.org/bucket", "s3.example.org", "443"},
		{"/srv/local", "", ""},
		{"rest:", "", ""},
	} {
		host, port, ok := repositoryServer(c.repository)
		if host != c.host || port != c.port || ok != (c.host != "") {
			t.Errorf("repositoryServer(%q) = %q, %q, %v, want %q, %q", c.repository, host, port, ok, c.host, c.port)
		}
	}
}

func TestEgressDoesNotRepeatSecrets(t *testing.T) {
	m := &machine.Machine{Backup: &machine.Backup{Repository: "rest:https://user:secret@192.0.2.7:8000/"}}
	got := strings.Join(egress(m), "\n")
	if strings.Contains(got, "secret") || got != "ip daddr 192.0.2.7 tcp dport 8000" {
		t.Errorf("egress() = %q", got)
	}
}

func TestPrivileged(t *testing.T) {
	tree := fstest.MapFS{
		"usr/bin/sudo":      {Mode: 0o755 | 1<<23}, // fs.ModeSetuid
		"usr/bin/true":      {Mode: 0o755},
		"usr/sbin/unix_chk": {Mode: 0o755 | 1<<22}, // fs.ModeSetgid
		"home/alice/shell":  {Mode: 0o755 | 1<<23},
		"proc/1/exe":        {Mode: 0o755 | 1<<23},
	}
	got, err := privileged(tree)
	if want := "/home/alice/shell /usr/bin/sudo /usr/sbin/unix_chk"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("privileged() = %v, %v, want %s", got, err, want)
	}
}

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{"/lib/modules/6/net/sctp/sctp.ko": "sctp", "usb-storage.ko.xz": "usb_storage", "a.ko.zst": "a"} {
		if got := moduleName(file); got != want {
			t.Errorf("moduleName(%q) = %q, want %q", file, got, want)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{"127.0.0.53%lo": true, "[::1]": true, "0.0.0.0": false, "[::]": false, "*": false, "10.0.2.15%enp0s1": false} {
		if got := isLoopback(host); got != want {
			t.Errorf("isLoopback(%q) = %v, want %v", host, got, want)
		}
	}
}
