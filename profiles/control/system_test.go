package control_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/control/controltest"
	"ward/profiles/machine"
)

// systemMachine is the machine that the answers about the system are of. Its PEM
// texts stand for certificates; nothing here parses them.
func systemMachine() *machine.Machine {
	return &machine.Machine{
		Hostname: "dev", Time: []string{"10.0.2.2"},
		Logging: &machine.Logging{Server: "10.0.2.2:16514", Name: "log.example.org", CA: "ca\n", Cert: "cert\n", Key: "key\n"},
		Backup:  &machine.Backup{Repository: "rest:https://backup.example.org/", Password: "not a real one"},
	}
}

// systemTree is what the controls of the system find in an image; the two files
// are shortened ones of Debian's packages.
var systemTree = map[string]string{
	"etc/audit/auditd.conf":               "#\n# This file controls the configuration of the audit daemon\n#\nlocal_events = yes\nlog_file = /var/log/audit/audit.log\nlog_format = ENRICHED\nmax_log_file = 8\nnum_logs = 5\nspace_left = 75\nspace_left_action = SYSLOG\nmax_log_file_action = ROTATE\n",
	"etc/ssl/openssl.cnf":                 "HOME = .\nopenssl_conf = openssl_init\n\n[openssl_init]\nproviders = provider_sect\n",
	"etc/audit/rules.d/10-no-audit.rules": "-a task,never\n",
	"usr/bin/true":                        "program",
}

const showUnit = "systemctl show --property=LoadState,UnitFileState,ActiveState,SubState "

// unitOff is a unit that somebody has stopped and disabled.
func unitOff(name string) controltest.Outputs {
	return controltest.Outputs{showUnit + name: {Stdout: "LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\n"}}
}

func offBreak(name string) controltest.Break {
	return controltest.Break{Name: name + " is off", Setting: name, Change: unitOff(name), Got: "disabled, inactive"}
}

// edit is an answer in which a part is another; it fails the test when the part
// is not in the recorded answer.
func edit(t *testing.T, good controltest.Outputs, key, old, new string) controltest.Outputs {
	t.Helper()
	o, ok := good[key]
	if !ok || !strings.Contains(o.Stdout, old) {
		t.Fatalf("the recorded answer to %q has no %q", key, old)
	}
	return controltest.Outputs{key: {Stdout: strings.ReplaceAll(o.Stdout, old, new), Exit: o.Exit}}
}

// cut is an answer without the lines that have a part.
func cut(t *testing.T, good controltest.Outputs, key, part string) controltest.Outputs {
	t.Helper()
	var b strings.Builder
	n := 0
	for line := range strings.Lines(good[key].Stdout) {
		if strings.Contains(line, part) {
			n++
			continue
		}
		b.WriteString(line)
	}
	if n == 0 {
		t.Fatalf("the recorded answer to %q has no line with %q", key, part)
	}
	return controltest.Outputs{key: {Stdout: b.String(), Exit: good[key].Exit}}
}

// says is one answer.
func says(key, stdout string, exit int) controltest.Outputs {
	return controltest.Outputs{key: {Stdout: stdout, Exit: exit}}
}

// system runs the suite of one control on every release. The answers are of a
// Debian 12 machine; what a later release has more is added to them.
func system(t *testing.T, make func(*profiles.Profile, distro.Release) control.Control, change func(*profiles.Profile), broken func(*testing.T, controltest.Outputs) []controltest.Break) {
	t.Helper()
	n := 0
	for _, r := range distro.All {
		if r.Format != "deb" {
			continue
		}
		n++
		t.Run(r.Name(), func(t *testing.T) {
			p, err := profiles.Load("hipaa")
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				change(p)
			}
			c := make(p, r)
			good := controltest.Load(t, filepath.Join("testdata", "answers", "debian-12", c.ID+".txtar"))
			for key, o := range good { // where its security updates come from
				o.Stdout = strings.ReplaceAll(o.Stdout, distro.All[0].Security, r.Security)
				good[key] = o
			}
			breaks := broken(t, good)
			if c.ID == "audit" && r.Audit >= 4 {
				good = good.With(says(showUnit+"audit-rules.service", "LoadState=loaded\nActiveState=active\nSubState=exited\nUnitFileState=enabled\n", 0))
				breaks = append(breaks, controltest.Break{Name: "rules are not loaded at boot", Setting: "audit-rules.service", Change: unitOff("audit-rules.service"), Got: "disabled"})
			}
			golden := filepath.Join("apply", r.Name(), c.ID)
			if change != nil {
				golden += "-" + strings.ToLower(filepath.Base(t.Name()[:strings.LastIndexByte(t.Name(), '/')]))
			}
			controltest.Run(t, controltest.Suite{Control: c, Release: r, Profile: p, Machine: systemMachine(), Tree: systemTree, Golden: golden, Good: good, Broken: breaks})
		})
	}
	if n == 0 {
		t.Error("no release was looked at")
	}
}

func TestAudit(t *testing.T) { system(t, control.Audit, nil, auditBroken) }

func auditBroken(t *testing.T, good controltest.Outputs) []controltest.Break {
	const state, rules = `sh -c eval "$(cat)" auditd-state`, "auditctl -l"
	search := ""
	for key := range good {
		if strings.Contains(key, "ausearch "+profiles.DataMount+"/") {
			search = key
		}
	}
	return []controltest.Break{
		{Name: "a rule is gone", Setting: "rules", Change: cut(t, good, rules, "key=sudoers_changes"), Got: "not loaded: -a always,exit -F arch=b64 -F path=/etc/sudoers"},
		{Name: "32-bit calls escape", Setting: "rules", Change: cut(t, good, rules, "arch=b32 -S execve"), Got: "arch=b32 -S execve"},
		{Name: "all muted", Setting: "rules", Change: says(rules, "-a never,task\n"+good[rules].Stdout, 0), Got: "muted by never,task"},
		{Name: "no rules", Setting: "rules", Change: says(rules, "No rules\n", 0), Got: "phi_access"},
		{Name: "a program without a rule", Setting: "privileged programs", Change: says("find / -xdev -type f -perm /6000", "/usr/bin/sudo\n/usr/bin/new\n", 0), Got: "path=/usr/bin/new"},
		{Name: "unlocked", Setting: "locked", Change: edit(t, good, "auditctl -s", "enabled 2", "enabled 1"), Got: "enabled 1"},
		{Name: "records lost", Setting: "locked", Change: edit(t, good, "auditctl -s", "lost 0", "lost 12"), Got: "lost 12"},
		{Name: "no audit=1", Setting: "kernel line", Change: edit(t, good, "cat /proc/cmdline", "audit=1 ", ""), Got: "audit_backlog_limit=8192"},
		{Name: "suspended", Setting: "auditd.conf", Change: edit(t, good, state, "logging suspended = no", "logging suspended = yes"), Got: "suspended = yes"},
		{Name: "does not write", Setting: "auditd.conf", Change: edit(t, good, state, "writing to logs = yes", "writing to logs = no"), Got: "logs = no"},
		{Name: "loses records in silence", Setting: "full disk", Change: edit(t, good, "cat /etc/audit/auditd.conf", "disk_full_action = halt", "disk_full_action = ignore"), Got: "disk_full_action ignore"},
		{Name: "changed since", Setting: "full disk", Change: says("find /etc/audit/auditd.conf -newer /run/auditd.pid", "/etc/audit/auditd.conf\n", 0), Got: "changed since auditd started"},
		{Name: "no record", Setting: "phi_access", Change: says(search, "", 1), Got: "no record of the read"},
		{Name: "record of another file", Setting: "phi_access", Change: edit(t, good, search, "/.ward-audit-", "/other-"), Got: "no record of the read"},
		offBreak("auditd.service"),
	}
}

func TestFirewall(t *testing.T) {
	const now = "nft -j list ruleset"
	system(t, control.Firewall, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		return []controltest.Break{
			{Name: "accepts", Setting: "ruleset", Change: edit(t, good, now, `"policy": "drop"`, `"policy": "accept"`), Got: `missing: chain`},
			{Name: "flushed", Setting: "ruleset", Change: says(now, `{"nftables": [{"metainfo": {"version": "1.0.6"}}]}`, 0), Got: "missing: table"},
			{Name: "from everywhere", Setting: "ruleset", Change: edit(t, good, now, `"10.0.0.0"`, `"0.0.0.0"`), Got: "missing: set"},
			{Name: "after the network", Setting: "before the network", Change: says("systemctl show --property=Before nftables.service", "Before=shutdown.target\n", 0), Got: "shutdown.target"},
			offBreak("nftables.service"),
		}
	})
}

// TestEgress has the golden files of the option; the answers are those without it,
// so the ruleset of the running machine must be found to differ.
func TestEgress(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.Firewall.Egress = true
	r := distro.All[0]
	m := systemMachine()
	m.Backup.Repository = "sftp:backup@10.9.8.7:/srv"
	tree := t.TempDir()
	s := controltest.Suite{Control: control.Firewall(p, r), Release: r, Profile: p, Machine: m}
	controltest.Apply(t, s, tree, control.Bake)
	controltest.Apply(t, s, tree, control.FirstBoot)
	data, err := os.ReadFile(filepath.Join(tree, r.Nftables))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hook output priority filter; policy drop;",
		"ip daddr 10.0.2.2 tcp dport 16514 accept",
		"ip daddr 10.9.8.7 tcp dport 22 accept",
		"udp dport { 53, 67, 123, 547 } accept",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the rules have no %q:\n%s", want, data)
		}
	}
}

func TestKernel(t *testing.T) {
	system(t, control.Kernel, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		var sysctl, modules, units string
		for key := range good {
			switch {
			case strings.HasPrefix(key, "sysctl "):
				sysctl = key
			case strings.Contains(key, "modprobe"):
				modules = key
			case strings.HasPrefix(key, "systemctl show --property=Id"):
				units = key
			}
		}
		const apparmor = `sh -c eval "$(cat)" apparmor`
		const crash, find, ss = `sh -c eval "$(cat)" crash`, "find / -xdev -type f -perm /6000", "ss --no-header --tcp --udp --listening --numeric --processes"
		return []controltest.Break{
			{Name: "a value", Setting: "sysctl", Change: edit(t, good, sysctl, "kernel.dmesg_restrict = 1", "kernel.dmesg_restrict = 0"), Got: "kernel.dmesg_restrict=0"},
			{Name: "a key is not there", Setting: "sysctl", Change: cut(t, good, sysctl, "kernel.kptr_restrict"), Got: "kernel.kptr_restrict=(not there)"},
			{Name: "loadable", Setting: "modules", Change: edit(t, good, modules, "module sctp\n", "module sctp\ninsmod /lib/modules/6.1.0/kernel/net/sctp/sctp.ko\n"), Got: "sctp can be loaded"},
			{Name: "loaded", Setting: "modules", Change: says(modules, "loaded usb_storage\n"+good[modules].Stdout, 0), Got: "usb_storage is loaded"},
			{Name: "a core", Setting: "core dumps", Change: says(crash, "status 139\ncore\n", 0), Got: "it left core"},
			{Name: "a set-user shell", Setting: "set-user programs", Change: says(find, good[find].Stdout+"/usr/bin/sh2\n", 0), Got: "/usr/bin/sh2"},
			{Name: "unmasked", Setting: "unneeded units", Change: edit(t, good, units, "Id=rpcbind.socket\nLoadState=masked", "Id=rpcbind.socket\nLoadState=loaded"), Got: "rpcbind.socket is loaded"},
			{Name: "a listener", Setting: "listening", Change: says(ss, good[ss].Stdout+"tcp LISTEN 0 5 0.0.0.0:8000 0.0.0.0:* users:((\"python3\",pid=9,fd=3))\n", 0), Got: "tcp 0.0.0.0:8000 by python3"},
			{Name: "another on port 22", Setting: "listening", Change: edit(t, good, ss, `(("sshd"`, `(("nc"`), Got: "by nc"},
			{Name: "AppArmor is off", Setting: mac, Change: edit(t, good, apparmor, "enabled:Y", "enabled:N"), Got: "AppArmor is off"},
			{Name: "no AppArmor", Setting: mac, Change: says(apparmor, "/proc/1/exe:/usr/lib/systemd/systemd\n", 0), Got: "AppArmor is off"},
			{Name: "profiles complain", Setting: mac, Change: edit(t, good, apparmor, "mode:enforce", "mode:complain"), Got: "AppArmor enforces no profile"},
			{Name: "started before its profile", Setting: mac, Change: edit(t, good, apparmor, "/usr/sbin/chronyd (enforce)", "unconfined"), Got: "/usr/sbin/chronyd has a profile and runs without"},
		}
	})
}

// SELinux, as selinuxfs and proc tell of it; no machine with it has answered yet.
func TestSELinux(t *testing.T) {
	r, err := distro.Find("rocky", "9")
	if err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	const on, domain = "/sys/fs/selinux/enforce:1\n", "/proc/1/attr/current:system_u:system_r:init_t:s0\n"
	for answer, want := range map[string]string{
		on + domain:                            "",
		domain:                                 "SELinux is off",
		"/sys/fs/selinux/enforce:0\n" + domain: "SELinux is permissive",
		on + "/proc/1/attr/current:kernel\n":   `the first process runs as "kernel", not in a domain of its own`,
		on + "/proc/1/attr/current:system_u:system_r:kernel_t:s0\n": `the first process runs as "system_u:system_r:kernel_t:s0", not in a domain of its own`,
	} {
		m := says(`sh -c eval "$(cat)" selinux`, answer, 0).Machine(r, p, systemMachine())
		all := control.Kernel(p, r).Settings
		s := all[slices.IndexFunc(all, func(s control.Setting) bool { return s.Name() == mac })]
		if want == "" {
			want = s.Want()
		}
		if got, err := s.Check(t.Context(), m); err != nil || got != want {
			t.Errorf("%q: Check() = %q, %v, want %q", answer, got, err, want)
		}
	}
}

const mac = "mandatory access control"

// What may listen beside, by the profile.
func TestListen(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.Kernel.Listen = []string{"tcp/8000"}
	r := distro.All[0]
	good := controltest.Load(t, "testdata/answers/debian-12/kernel.txtar")
	const ss = "ss --no-header --tcp --udp --listening --numeric --processes"
	m := good.With(says(ss, good[ss].Stdout+"tcp LISTEN 0 5 0.0.0.0:8000 0.0.0.0:* users:((\"python3\",pid=9,fd=3))\n", 0)).Machine(r, p, nil)
	for _, s := range control.Kernel(p, r).Settings {
		if s.Name() != "listening" {
			continue
		}
		if got, err := s.Check(t.Context(), m); err != nil || got != s.Want() {
			t.Errorf("Check() = %q, %v, want %q", got, err, s.Want())
		}
		return
	}
	t.Error("kernel has no setting that listens")
}

func TestTime(t *testing.T) {
	system(t, control.Time, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		return []controltest.Break{
			{Name: "another server", Setting: "servers", Change: edit(t, good, "chronyc -c -N sources -a", "10.0.2.2", "192.0.2.1"), Got: "sources 192.0.2.1"},
			{Name: "no server", Setting: "servers", Change: says("chronyc -c -N sources -a", "", 0), Got: "configured 10.0.2.2"},
			// Recorded on a machine whose server did not answer.
			{Name: "not synchronised", Setting: "drift", Change: says("chronyc -c tracking", "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,1.000000000,1.000000000,0.0,Not synchronised\n", 0), Got: "not synchronised"},
			{Name: "drifted", Setting: "drift", Change: edit(t, good, "chronyc -c tracking", ",0.000071567,", ",-7.5,"), Got: "7.5s off"},
			offBreak("chrony.service"),
		}
	})
}

func TestTLS(t *testing.T) {
	const probe = `sh -c eval "$(cat)" tls `
	system(t, control.TLS, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		return []controltest.Break{
			{Name: "old client", Setting: "openssl server", Change: says(probe+"server 1.1 1.2", "1.1 served\n1.2 served\nfree 1.1 served\n", 0), Got: "TLS 1.1 is served"},
			{Name: "old server", Setting: "openssl client", Change: says(probe+"client 1.1 1.2", "1.1 served\n1.2 served\nfree 1.1 served\n", 0), Got: "TLS 1.1 is served"},
			{Name: "nothing works", Setting: "openssl client", Change: says(probe+"client 1.1 1.2", "1.1 refused: x\n1.2 refused: alert\nfree 1.1 served\n", 0), Got: "TLS 1.2 is refused"},
			{Name: "gnutls", Setting: "gnutls", Change: says(probe+"gnutls 1.1 1.2", "1.1 served\n1.2 served\nfree 1.1 served\n", 0), Got: "TLS 1.1 is served"},
			{Name: "weak group", Setting: "DH groups", Change: says(probe+"dh", "1024 served\nfree 1024 served\nown served\ngroup DH, 2048 bits\n", 0), Got: "1024 bits is accepted"},
			{Name: "own group", Setting: "DH groups", Change: edit(t, good, probe+"dh", "DH, 2048", "DH, 1024"), Got: "has 1024 bits"},
		}
	})
}

// When the old version cannot be spoken even without the machine's configuration,
// a refusal proves nothing.
func TestTLSUnknown(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	r := distro.All[0]
	m := says(`sh -c eval "$(cat)" tls server 1.1 1.2`, "1.1 refused: x\n1.2 served\nfree 1.1 refused: x\n", 0).Machine(r, p, nil)
	if got, err := control.TLS(p, r).Settings[0].Check(t.Context(), m); err == nil || !strings.Contains(err.Error(), "cannot be tried") {
		t.Errorf("Check() = %q, %v, want an error that it cannot be tried", got, err)
	}
}

// ward-ffdhe3072.pem must be the group of RFC 7919, whose prime follows from e:
// p = 2^3072 - 2^3008 + (floor(2^2942 * e) + 2625351) * 2^64 - 1.
func TestFFDHE3072(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	controltest.Apply(t, controltest.Suite{Control: control.Control{ID: "tls", Settings: control.TLS(p, distro.All[0]).Settings[3:]}, Release: distro.All[0], Profile: p}, tree, control.Bake)
	data, err := os.ReadFile(filepath.Join(tree, "etc/ssl/ward-ffdhe3072.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "DH PARAMETERS" {
		t.Fatalf("no DH PARAMETERS in %s", data)
	}
	one := big.NewInt(1)
	shift := func(x *big.Int, n uint) *big.Int { return new(big.Int).Lsh(x, n) }
	// e to 2942 bits and some to spare, as the sum of 1/k!.
	const extra = 64
	sum, term := new(big.Int), shift(one, 2942+extra)
	for k := int64(1); term.Sign() > 0; k++ {
		sum.Add(sum, term)
		term = new(big.Int).Div(term, big.NewInt(k))
	}
	e := new(big.Int).Rsh(sum, extra)
	want := new(big.Int).Sub(shift(one, 3072), shift(one, 3008))
	want.Add(want, shift(new(big.Int).Add(e, big.NewInt(2625351)), 64)).Sub(want, one)
	// SEQUENCE of 4 bytes header, INTEGER of 4, then 0x00 and the prime.
	if len(block.Bytes) < 9+384 {
		t.Fatalf("%d bytes are no group of 3072 bits", len(block.Bytes))
	}
	if got := new(big.Int).SetBytes(block.Bytes[9 : 9+384]); got.Cmp(want) != 0 {
		t.Errorf("the prime is\n%x, want\n%x", got, want)
	}
}

func TestUpdates(t *testing.T) {
	system(t, control.Updates, nil, updatesBroken)
}

func updatesBroken(t *testing.T, good controltest.Outputs) []controltest.Break {
	const stat = "stat --format=%Y %n /etc/machine-id /var/lib/apt/periodic/update-success-stamp /var/lib/apt/periodic/unattended-upgrades-stamp"
	const simulate = "apt-get --simulate --quiet -o Debug::NoLocking=1 dist-upgrade"
	var now int64
	fmt.Sscan(good["date +%s"].Stdout, &now)
	old := says(stat, fmt.Sprintf("%d /etc/machine-id\n%d /var/lib/apt/periodic/update-success-stamp\n", now-100*3600, now-3600), 1)
	waits := old.With(says(simulate, "Inst libc6 [2.36-9] (2.36-9+deb12u20 Debian-Security:12/stable-security [amd64])\n1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n", 0))
	return []controltest.Break{
		{Name: "not by itself", Setting: "apt", Change: edit(t, good, "apt-config dump", `APT::Periodic::Unattended-Upgrade "1"`, `APT::Periodic::Unattended-Upgrade "0"`), Got: `Unattended-Upgrade "0"`},
		{Name: "unsigned", Setting: "apt", Change: edit(t, good, "apt-config dump", `APT::Get::AllowUnauthenticated "false"`, `APT::Get::AllowUnauthenticated "true"`), Got: `AllowUnauthenticated "true"`},
		{Name: "lists are old", Setting: "pending", Change: says(stat, fmt.Sprintf("%d /etc/machine-id\n", now-100*3600), 1), Got: "package lists were last renewed 100 hours ago"},
		{Name: "never ran", Setting: "pending", Change: old, Got: "unattended-upgrade last ran 100 hours ago"},
		{Name: "one waits", Setting: "pending", Change: waits, Got: "1 security updates wait: libc6"},
		offBreak("apt-daily.timer"),
		offBreak("apt-daily-upgrade.timer"),
	}
}

func TestUpdatesWindow(t *testing.T) {
	const show = "systemctl show --property=TimersCalendar apt-daily-upgrade.timer"
	system(t, control.Updates, func(p *profiles.Profile) { p.Controls.Updates.Window = "Sun *-*-* 02:00:00" }, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		good[show] = controltest.Output{Stdout: "TimersCalendar={ OnCalendar=Sun *-*-* 02:00:00 ; next_elapse=Sun 2026-11-29 02:00:00 UTC }\n"}
		return append(updatesBroken(t, good),
			controltest.Break{Name: "at any time", Setting: "window", Change: says(show, "TimersCalendar={ OnCalendar=*-*-* 06:00:00 ; next_elapse=(null) }\n", 0), Got: "*-*-* 06:00:00"})
	})
}

func TestIntegrity(t *testing.T) {
	system(t, control.Integrity, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		return []controltest.Break{
			// Recorded: a file was added and another one changed.
			{Name: "changed", Setting: "files", Change: says("aide --config=/etc/aide/ward-integrity.conf --check", aideFound, 5), Got: "/etc/chrony/chrony.conf"},
			{Name: "no database", Setting: "files", Change: says("stat --format=%Y %n /var/lib/aide/ward-integrity.db", "", 1), Got: "there is no database"},
			offBreak("ward-integrity.timer"),
		}
	})
}

func TestIntegrityVerity(t *testing.T) {
	const (
		salt, digest = "abababababababababababababababababababababababababababababababab", "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
		source       = "findmnt --noheadings --output SOURCE /"
		table        = "dmsetup table root"
		status       = "dmsetup status root"
		good         = "0 4161536 verity 1 254:2 254:2 4096 4096 520192 520192 sha256 " + digest + " " + salt
	)
	touch := func(dir string) string {
		return "sh -c LC_ALL=C touch " + dir + "/.ward-verity 2>&1; rm -f " + dir + "/.ward-verity 2>/dev/null; true"
	}
	system(t, control.Integrity, func(p *profiles.Profile) { p.Controls.Integrity.Root = profiles.RootVerity }, func(t *testing.T, out controltest.Outputs) []controltest.Break {
		out["cat /proc/cmdline"] = controltest.Output{Stdout: "root=PARTUUID=x ro ward.verity=520192:" + salt + ":" + digest + "\n"}
		out[source] = controltest.Output{Stdout: "/dev/mapper/root\n"}
		out[table] = controltest.Output{Stdout: good + "\n"}
		out[status] = controltest.Output{Stdout: "0 4161536 verity V\n"}
		for _, dir := range []string{"/usr", "/boot"} {
			out[touch(dir)] = controltest.Output{Stdout: "touch: cannot touch '" + dir + "/.ward-verity': Read-only file system\n"}
		}
		return []controltest.Break{
			{Name: "no database", Setting: "files", Change: says("stat --format=%Y %n /var/lib/aide/ward-integrity.db", "", 1), Got: "there is no database"},
			{Name: "plain root", Setting: "root", Change: says(source, "/dev/vda2\n", 0), Got: "root is /dev/vda2"},
			{Name: "a block differs", Setting: "root", Change: says(status, "0 4161536 verity C\n", 0), Got: "a block of root differs from its digest"},
			{Name: "another digest", Setting: "root", Change: says(table, strings.Replace(good, digest, salt, 1), 0), Got: "the table is 0 4161536 verity"},
			{Name: "corruption is ignored", Setting: "root", Change: says(table, good+" 1 ignore_corruption\n", 0), Got: "ignore_corruption"},
			{Name: "no digest in the line", Setting: "root", Change: says("cat /proc/cmdline", "ro\n", 0), Got: "the kernel line names no digest"},
			{Name: "writable", Setting: "root", Change: says(touch("/usr"), "", 0), Got: "/usr can be written to"},
			offBreak("ward-integrity.timer"),
		}
	})
}

const aideFound = `Start timestamp: 2026-11-23 19:23:52 +0000 (AIDE 0.18.3)
AIDE found differences between database and filesystem!!

Summary:
  Total number of entries:	2116
  Added entries:		1
  Removed entries:		0
  Changed entries:		1

---------------------------------------------------
Added entries:
---------------------------------------------------

f++++++++++++++++: /etc/audit/rules.d/zzz-ward-audit-lock.rules

---------------------------------------------------
Changed entries:
---------------------------------------------------

f > ...    .C..  : /etc/chrony/chrony.conf

---------------------------------------------------
Detailed information about changes:
---------------------------------------------------

File: /etc/chrony/chrony.conf
 Size      : 516                              | 517
`

func TestRemoteLog(t *testing.T) {
	const connections, journal = `sh -c eval "$(cat)" connections`, "journalctl --boot --unit=systemd-journald.service --output=cat --grep=^System Journal .* max"
	const handshake = `sh -c eval "$(cat)" handshake 10.0.2.2:16514 log.example.org`
	const queue = `sh -c eval "$(cat)" log-queue 1000`
	var readers string
	system(t, control.RemoteLog, nil, func(t *testing.T, good controltest.Outputs) []controltest.Break {
		good["sleep 2"] = controltest.Output{}
		for key := range good {
			if strings.HasPrefix(key, "find /var/log/journal") {
				readers = key
			}
		}
		return []controltest.Break{
			{Name: "plain", Setting: "connection", Change: cut(t, good, connections, "loaded"), Got: "has not loaded TLS"},
			{Name: "another receiver", Setting: "connection", Change: says(connections, good[connections].Stdout+"tcp ESTAB 0 0 10.0.2.15:5 192.0.2.1:514 users:((\"rsyslogd\",pid=5,fd=9))\n", 0), Got: "also sends to 192.0.2.1:514"},
			{Name: "by UDP", Setting: "connection", Change: says(connections, good[connections].Stdout+"udp UNCONN 0 0 0.0.0.0:54321 0.0.0.0:* users:((\"rsyslogd\",pid=5,fd=9))\n", 0), Got: "UDP socket 0.0.0.0:54321"},
			{Name: "server away", Setting: "connection", Change: cut(t, good, connections, "ESTAB"), Got: "not connected"},
			{Name: "stopped", Setting: "connection", Change: says(connections, "not running\n", 0), Got: "does not run"},
			{Name: "wrong authority", Setting: "server", Change: says(handshake, "depth=0 CN = log.example.org\nverify error:num=20:unable to get local issuer certificate\n", 0), Got: "unable to get local issuer certificate"},
			{Name: "expired", Setting: "server", Change: says(handshake, "verify error:num=10:certificate has expired\n", 0), Got: "certificate has expired"},
			{Name: "refused", Setting: "server", Change: says(handshake, "connect:errno=111\n", 0), Got: "errno=111"},
			{Name: "nearly full", Setting: "queue", Change: says(queue, "place s=1;i=5;m=1;t=6611e7afada7d\nlines 1000\nblocks 500000\n", 0), Got: "95% full: 1000 lines or more wait in 250000 KiB, the log server has everything until 2026-11-25T19:03:20Z"},
			{Name: "never sent", Setting: "queue", Change: says(queue, "place \nlines 1000\nblocks 500000\n", 0), Got: "the log server never had a line"},
			{Name: "plugin off", Setting: "audit records", Change: edit(t, good, `sh -c eval "$(cat)" auditd-state`, "active plugins = 1", "active plugins = 0"), Got: "no active plugin"},
			{Name: "plugin died", Setting: "audit records", Change: cut(t, good, "ps -e -o comm=", "audisp-syslog"), Got: "does not run"},
			{Name: "in memory", Setting: "journal", Change: says(`sh -c ls -l /proc/$(pidof systemd-journald)/fd | grep -o '/[^ ]*/system.journal'; exit 0`, "/run/log/journal/926ed/system.journal\n", 0), Got: "in memory"},
			{Name: "larger, and since long", Setting: "journal", Change: says(journal, "", 1).With(says("du --summarize --block-size=1M /var/log/journal", "310\t/var/log/journal\n", 0)), Got: "at most 310M"},
			{Name: "larger", Setting: "journal", Change: edit(t, good, journal, "max 256.0M", "max 4.0G"), Got: "at most 4.0G"},
			{Name: "readable", Setting: "readers", Change: says(readers, "/var/log/auth.log\n", 0), Got: "/var/log/auth.log"},
			offBreak("rsyslog.service"),
			offBreak("ward-log-queue.timer"),
			offBreak("logrotate.timer"),
		}
	})
}

// RELP has a module of its own and confirms each message.
func TestRemoteLogRELP(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.RemoteLog.Transport = "relp"
	r := distro.All[0]
	tree := t.TempDir()
	s := controltest.Suite{Control: control.RemoteLog(p, r), Release: r, Profile: p, Machine: systemMachine()}
	controltest.Apply(t, s, tree, control.FirstBoot)
	data, err := os.ReadFile(filepath.Join(tree, "etc/rsyslog.d/00-ward-remote-log.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`type="omrelp"`, `tls="on"`, `tls.permittedPeer=["log.example.org"]`, `queue.type="Direct"`, `action.resumeRetryCount="-1"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the configuration has no %s:\n%s", want, data)
		}
	}
	if info, err := os.Stat(filepath.Join(tree, "etc/rsyslog.d/ward-remote-log/key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key.pem: %v, %v, want mode 0600", info, err)
	}
}

func TestBackup(t *testing.T) { system(t, control.Backup, nil, backupBroken) }

func backupBroken(t *testing.T, good controltest.Outputs) []controltest.Break {
	const status, date = "wardctl backup status --json", "date +%s"
	late := edit(t, good, date, "1795464060", "1795600000")
	none := says(status, `{"repository":null,"state":{"version":1,"initialised":"2026-11-20T10:00:00Z"}}`, 0)
	return []controltest.Break{
		{Name: "a night was missed", Setting: "repository", Change: late, Got: "the last snapshot is 38 hours old"},
		{Name: "never", Setting: "repository", Change: late.With(none), Got: "no snapshot of this machine"},
		{Name: "wrong host key", Setting: "repository", Change: says(status, `{"repository":null,"kind":"wrong-host-key","error":"Host key verification failed.","state":{"version":1}}`, 1), Got: "wrong-host-key"},
		{Name: "not made", Setting: "repository", Change: says(status, `{"repository":null,"kind":"missing","state":{"version":1,"initialised":"0001-01-01T00:00:00Z"}}`, 1), Got: "was never made"},
		{Name: "gone", Setting: "repository", Change: says(status, `{"repository":null,"kind":"missing","state":{"version":1,"initialised":"2026-11-20T10:00:00Z"}}`, 1), Got: "is gone"},
		{Name: "damaged", Setting: "repository", Change: says(status, `{"repository":null,"state":{"version":1,"check_error":"Pack ID does not match"}}`, 0), Got: "damaged: Pack ID"},
		{Name: "last run failed", Setting: "repository", Change: says(status, `{"repository":null,"state":{"version":1,"kind":"full","error":"no space left"}}`, 0), Got: "the last run failed: full"},
		{Name: "drill failed", Setting: "drill", Change: says("cat /var/lib/ward/drill.json", `{"version":1,"time":"2026-11-23T19:50:00Z","ok":false,"error":"2 of 9 files differ"}`, 0), Got: "2 of 9 files differ"},
		{Name: "drill is old", Setting: "drill", Change: says("cat /var/lib/ward/drill.json", `{"version":1,"time":"2026-09-01T00:00:00Z","ok":true}`, 0), Got: "84 days ago"},
		offBreak("ward-backup.timer"),
		offBreak("ward-drill.timer"),
	}
}

// Without the section nothing leaves the machine, and that is a failure.
func TestNoServers(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	r := distro.All[0]
	m := says("true", "", 0).Machine(r, p, &machine.Machine{Hostname: "dev"})
	for _, c := range []struct {
		setting control.Setting
		want    string
	}{
		{control.RemoteLog(p, r).Settings[0], "no logging section"},
		{control.RemoteLog(p, r).Settings[1], "no logging section"},
		{control.Backup(p, r).Settings[0], "no backup section"},
		{control.Backup(p, r).Settings[2], "no backup section"},
	} {
		if got, err := c.setting.Check(t.Context(), m); err != nil || got == c.setting.Want() || !strings.Contains(got, c.want) {
			t.Errorf("%s: Check() = %q, %v, want a failure with %q", c.setting.Name(), got, err, c.want)
		}
	}
}

// A configuration that rsyslogd refuses is taken away again, so that the next apply
// finds it changed, and rsyslogd goes on with what it had.
func TestRemoteLogRefused(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var did []string
	target := &control.Target{
		Phase: control.FirstBoot, Root: root, Release: distro.All[0], Profile: p, Machine: systemMachine(), Log: slog.New(slog.DiscardHandler),
		Run: func(_ context.Context, argv ...string) (string, error) {
			did = append(did, strings.Join(argv, " "))
			if argv[0] == "rsyslogd" {
				return "", errors.New("no such module")
			}
			return "", nil
		},
	}
	err = control.RemoteLog(p, distro.All[0]).Settings[0].Apply(t.Context(), target)
	if err == nil || !strings.Contains(err.Error(), "rsyslogd refuses its configuration: no such module") {
		t.Errorf("Apply() = %v, want what rsyslogd says", err)
	}
	if _, err := root.Stat("etc/rsyslog.d/00-ward-remote-log.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused configuration: %v, want it gone", err)
	}
	if want := "systemctl start rsyslog.service"; len(did) == 0 || did[len(did)-1] != want {
		t.Errorf("it ran %q, want %q at the end", did, want)
	}
}

// A machine that logs much has rotated away what journald said when it started.
func TestJournalBoundReached(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	m := &control.Machine{Profile: p, Run: func(_ context.Context, argv ...string) (string, error) {
		switch argv[0] {
		case "sh":
			return "/var/log/journal/926ed/system.journal\n", nil
		case "journalctl":
			return "", exec.Command("false").Run()
		}
		return "280\t/var/log/journal\n", nil
	}}
	for _, s := range control.RemoteLog(p, distro.All[0]).Settings {
		if s.Name() != "journal" {
			continue
		}
		if got, err := s.Check(t.Context(), m); err != nil || got != s.Want() {
			t.Errorf("Check() = %q, %v, want %q", got, err, s.Want())
		}
		return
	}
	t.Error("there is no setting journal")
}
