package rpm

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ward/images/distro"
)

// TestNames: every package that a row of Rocky 9 names is there.
func TestNames(t *testing.T) {
	r, err := distro.Find("rocky", "9")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Packages) == 0 {
		t.Fatal("looked at nothing")
	}
	for _, name := range append(slices.Clone(r.Packages), r.Kernel) {
		if _, ok := packages[name]; !ok {
			t.Errorf("the look-alike has no package %s", name)
		}
	}
}

func TestPAMFile(t *testing.T) {
	const text = "#%PAM-1.0\n@include common-auth\naccount required pam_nologin.so\n@include common-account\n@include common-session-noninteractive\n"
	const want = "#%PAM-1.0\nauth       substack     password-auth\naccount required pam_nologin.so\naccount    include      password-auth\nsession    include      password-auth\n"
	if got := pamFile("sshd", text); got != want {
		t.Errorf("pamFile(sshd) = %q, want %q", got, want)
	}
	if got := pamFile("su", text); got != strings.ReplaceAll(want, "password-auth", "system-auth") {
		t.Errorf("pamFile(su) = %q", got)
	}
}

func TestFileLine(t *testing.T) {
	for _, c := range []struct {
		path string
		kind fs.FileMode
		mode uint32
		want string
	}{
		{"/usr/bin/sudo", 0, 0o4755, "%attr(4755, root, adm) \"/usr/bin/sudo\"\n"},
		{"/etc/hosts", 0, 0o644, "%config(noreplace) %attr(0644, root, adm) \"/etc/hosts\"\n"},
		{"/srv", fs.ModeDir, 0o755, "%dir %attr(0755, root, adm) \"/srv\"\n"},
		{"/bin", fs.ModeSymlink, 0o777, "\"/bin\"\n"},
		{"/usr/share/100%", 0, 0o644, "%attr(0644, root, adm) \"/usr/share/100%%\"\n"},
	} {
		if got := fileLine(c.path, c.kind, c.mode, "root", "adm"); got != c.want {
			t.Errorf("fileLine(%q) = %q, want %q", c.path, got, c.want)
		}
	}
}

// TestSpec lets the real rpm read the spec.
func TestSpec(t *testing.T) {
	if _, err := exec.LookPath("rpmspec"); err != nil {
		t.Skipf("%v\nhint: install rpm", err)
	}
	dir := t.TempDir()
	for name := range packages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("\"/etc/"+name+"\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := filepath.Join(dir, "x.spec")
	if err := os.WriteFile(spec, []byte(specFile("6.1.0-56-cloud-amd64", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "rpmspec", "--query", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\n", spec).CombinedOutput()
	if err != nil {
		t.Fatalf("rpmspec: %v\n%s", err, out)
	}
	for name := range packages {
		if !strings.Contains(string(out), name+" ") {
			t.Errorf("the spec makes no %s:\n%s", name, out)
		}
	}
	if !strings.Contains(string(out), "kernel-core 6.1.0-56.cloud.amd64\n") {
		t.Errorf("kernel-core has another version:\n%s", out)
	}
}
