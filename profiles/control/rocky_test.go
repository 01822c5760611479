package control_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
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
