package control_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/images/distro"
	"ward/profiles/control"
	"ward/profiles/control/controltest"
)

// rockyTree is what the controls find in a tree of rpm packages, beside what is in
// every tree.
func rockyTree() map[string]string {
	tree := maps.Clone(systemTree)
	maps.Copy(tree, accessTree)
	delete(tree, "etc/ssl/openssl.cnf") // is not where these releases have it, and is not touched
	delete(tree, "etc/audit/rules.d/10-no-audit.rules")
	tree["etc/ssh/sshd_config"] = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"
	tree["etc/pam.d/sshd"] = "#%PAM-1.0\nauth       substack     password-auth\nauth       include      postlogin\naccount    required     pam_nologin.so\naccount    include      password-auth\n"
	return tree
}

// TestRocky compares what every control writes on the rpm releases. No machine of
// these has answered yet, so the checks are not here.
func TestRocky(t *testing.T) {
	n := 0
	for _, r := range distro.All {
		if r.Format != "rpm" {
			continue
		}
		p := hipaa(t)
		p.Controls.MFA.Enabled = true
		p.Controls.Updates.Window = "*-*-* 02:00:00"
		for _, c := range control.Catalogue(p, r) {
			n++
			t.Run(r.Name()+"/"+c.ID, func(t *testing.T) {
				tree := rockyTree()
				if r.SSHDropIn == "" {
					tree["etc/ssh/sshd_config"] = "SyslogFacility AUTHPRIV\nPermitRootLogin yes\n"
					tree["etc/sysconfig/sshd"] = "# CRYPTO_POLICY=\n"
				}
				controltest.Written(t, controltest.Suite{
					Control: c, Release: r, Profile: p, Tree: tree, Command: accessCommand, Golden: filepath.Join("apply", r.Name(), c.ID),
				})
			})
		}
	}
	if n == 0 {
		t.Error("looked at nothing")
	}
}

// TestLeftOut: what a release cannot have is named, and is not in the catalogue.
func TestLeftOut(t *testing.T) {
	for _, r := range distro.All {
		for _, enabled := range []bool{true, false} {
			p := hipaa(t)
			p.Controls.Fscrypt.Enabled = enabled
			out := slices.Contains(control.LeftOut(p, r), "fscrypt")
			in := slices.ContainsFunc(control.Catalogue(p, r), func(c control.Control) bool { return c.ID == "fscrypt" })
			if wantOut := enabled && r.Format == "rpm"; out != wantOut || in != (enabled && !wantOut) {
				t.Errorf("%s with fscrypt %v: left out %v, in the catalogue %v", r.Name(), enabled, out, in)
			}
		}
	}
}

// TestPendingDNF asks machines of several ages for the security updates that wait.
func TestPendingDNF(t *testing.T) {
	const now, day = 1_800_000_000, 24 * 3600
	const (
		stat  = "stat --format=%Y %n /etc/machine-id /var/lib/systemd/timers/stamp-dnf-automatic.timer"
		list  = "dnf --quiet --cacheonly updateinfo list --security"
		waits = "RLSA-2026:1 Important/Sec. openssl-libs-1:3.2.2-7.el9.x86_64\n"
		good  = "no security update waits for more than a day"
	)
	at := func(n int, name string) string { return fmt.Sprintf("%d %s\n", n, name) }
	id, stamp := "/etc/machine-id", "/var/lib/systemd/timers/stamp-dnf-automatic.timer"
	r := distro.All[slices.IndexFunc(distro.All, func(r distro.Release) bool { return r.Format == "rpm" })]
	p := hipaa(t)
	for _, c := range []struct {
		name, stat, fetched string
		list                *controltest.Output // nil: is not asked
		want, fault         string
		byHand              bool // updates are not unattended
	}{
		{name: "first boot", stat: at(now-60, id) + at(now-60, stamp), want: good},
		{name: "never fetched", stat: at(now-3*day, id) + at(now-3600, stamp), want: "what there is was last fetched 72 hours ago"},
		{name: "up to date", stat: at(now-9*day, id) + at(now-3600, stamp), fetched: fmt.Sprintf("%d.25\n%d.5\n", now-3*day, now-3600), list: &controltest.Output{}, want: good},
		{name: "new", stat: at(now-9*day, id) + at(now-3600, stamp), fetched: fmt.Sprintf("%d.25\n", now-60), list: &controltest.Output{Stdout: waits}, want: good},
		{name: "waits", stat: at(now-9*day, id) + at(now-2*day, stamp), fetched: fmt.Sprintf("%d.25\n", now-60), list: &controltest.Output{Stdout: waits}, want: "1 security updates wait: openssl-libs-1:3.2.2-7.el9.x86_64"},
		{name: "old", stat: at(now-9*day, id) + at(now-3600, stamp), fetched: fmt.Sprintf("%d.25\n", now-3*day), list: &controltest.Output{}, want: "what there is was last fetched 72 hours ago"},
		{name: "timer stopped", stat: at(now-9*day, id) + at(now-3*day, stamp), fetched: fmt.Sprintf("%d.25\n", now-60), list: &controltest.Output{}, want: "dnf-automatic last ran 72 hours ago"},
		{name: "by hand", stat: at(now-9*day, id), fetched: fmt.Sprintf("%d.25\n", now-3*day), list: &controltest.Output{}, want: good, byHand: true},
		{name: "by hand, never fetched", stat: at(now-3*day, id), want: "what there is was last fetched 72 hours ago", byHand: true},
		{name: "no age", stat: at(now-3600, stamp), fault: "age is not known"},
		{name: "dnf fails", stat: at(now-60, id), fetched: fmt.Sprintf("%d\n", now-60), list: &controltest.Output{Exit: 1}, fault: "exit status 1"},
		{name: "find", stat: at(now-60, id), fetched: "yesterday\n", fault: `find printed "yesterday`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Controls.Updates.Unattended = !c.byHand
			settings := control.Updates(p, r).Settings
			pending := settings[slices.IndexFunc(settings, func(s control.Setting) bool { return s.Name() == "pending" })]
			answers := controltest.Outputs{
				"date +%s": {Stdout: fmt.Sprintf("%d\n", now)}, stat: {Stdout: c.stat, Exit: 1},
				`sh -c eval "$(cat)" dnf's cache`: {Stdout: c.fetched},
			}
			if c.list != nil {
				answers[list] = *c.list
			}
			got, err := pending.Check(t.Context(), answers.Machine(r, p, nil))
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("check says %q, %v, want an error with %q", got, err, c.fault)
				}
			} else if err != nil || got != c.want {
				t.Errorf("check says %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// TestSSHDWithoutInclude lets the real sshd read what stands in for drop-ins: the
// first value wins, so the distribution's own line after it says nothing.
func TestSSHDWithoutInclude(t *testing.T) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	r, err := distro.Find("rocky", "8")
	if err != nil {
		t.Fatal(err)
	}
	tree, p := t.TempDir(), hipaa(t)
	config := filepath.Join(tree, "etc/ssh/sshd_config")
	if err := errors.Join(os.MkdirAll(filepath.Dir(config), 0o755), os.WriteFile(config, []byte("PermitRootLogin yes\nPasswordAuthentication yes\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := controltest.Suite{Control: control.SSHD(p, r), Release: r, Profile: p}
	controltest.Apply(t, s, tree, control.Bake)
	controltest.Apply(t, s, tree, control.Bake)
	key := filepath.Join(tree, "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), sshd, "-T", "-f", config, "-h", key).CombinedOutput()
	if err != nil {
		t.Fatalf("sshd -T: %v: %s", err, out)
	}
	for _, want := range []string{"permitrootlogin no\n", "passwordauthentication no\n", "maxstartups 10:30:60\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("sshd -T does not say %q:\n%s", want, out)
		}
	}
}
