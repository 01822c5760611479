package vulns

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	version "github.com/knqyf263/go-deb-version"
)

const tracker = `{
 "openssh": {
  "CVE-2024-6387": {"description": "x", "releases": {"bookworm": {"status": "resolved", "repositories": {"bookworm": "1:9.2p1-2+deb12u3"}, "fixed_version": "1:9.2p1-2+deb12u3", "urgency": "high"},
    "trixie": {"status": "resolved", "fixed_version": "1:9.7p1-7", "urgency": "high"}}},
  "CVE-2000-0001": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "0", "urgency": "unimportant"}}},
  "CVE-2000-0002": {"releases": {"bookworm": {"status": "open", "urgency": "low"}}},
  "CVE-2000-0003": {"releases": {"bookworm": {"status": "undetermined", "urgency": "not yet assigned"}}},
  "CVE-2000-0004": {"releases": {"trixie": {"status": "open", "urgency": "low"}}}
 },
 "not-installed": {"CVE-2000-0005": {"releases": {"bookworm": {"status": "open"}}}},
 "pam": {"CVE-2000-0006": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "1.5.2-6", "urgency": "low"}}}}
}`

func installed(ssh string) []Package {
	return []Package{{"openssh-server", "openssh", ssh}, {"openssh-client", "openssh", ssh}, {"libpam0g", "pam", "1.5.2-6+deb12u1"}}
}

func TestFind(t *testing.T) {
	for ssh, want := range map[string]string{
		"1:9.2p1-2+deb12u2": "CVE-2000-0002 CVE-2000-0003 CVE-2024-6387",
		"1:9.2p1-2+deb12u3": "CVE-2000-0002 CVE-2000-0003",
		"1:9.2p1-2+deb12u9": "CVE-2000-0002 CVE-2000-0003",
	} {
		all, err := Find(strings.NewReader(tracker), "bookworm", installed(ssh))
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, f := range all {
			ids = append(ids, f.ID)
			if f.Source != "openssh" || strings.Join(f.Packages, " ") != "openssh-client openssh-server" || f.Installed != ssh {
				t.Errorf("%s: %+v", ssh, f)
			}
			if (f.Fixed != "") != (f.ID == "CVE-2024-6387") {
				t.Errorf("%s: %s is fixed in %q", ssh, f.ID, f.Fixed)
			}
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s has %s, want %s", ssh, got, want)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	for data, want := range map[string]string{
		"":                       "is no JSON object",
		"[]":                     "is no JSON object",
		"{}":                     "says nothing about the packages of bookworm",
		tracker[:len(tracker)-1]: "ends early",
		`{"openssh": []}`:        "openssh: json: cannot unmarshal",
		`{"openssh": {"CVE-1": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "not a version"}}}}}`: "CVE-1 of openssh",
		strings.ReplaceAll(tracker, "bookworm", "sid"):                                                                 "says nothing about the packages of bookworm",
	} {
		if _, err := Find(strings.NewReader(data), "bookworm", installed("1:9.2p1-2")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Find(%.40q) = %v, want %q", data, err, want)
		}
	}
}

// dpkg itself orders versions as the library does.
func TestVersionsAsDpkgOrdersThem(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	list := []string{"1.0", "1:0.9", "1.0-1", "1.0-1+b1", "1.0-1~deb12u1", "1.0~rc1", "1.0+dfsg-2", "2:1.2.3-4+deb12u10", "2:1.2.3-4+deb12u9", "0", "1.0a", "1.0.0"}
	n := 0
	for _, a := range list {
		for _, b := range list {
			n++
			va, errA := version.NewVersion(a)
			vb, errB := version.NewVersion(b)
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if got, want := va.LessThan(vb), exec.Command("dpkg", "--compare-versions", a, "lt", b).Run() == nil; got != want {
				t.Errorf("%s < %s is %v, dpkg says %v", a, b, got, want)
			}
		}
	}
	if n == 0 {
		t.Error("compared nothing")
	}
}
