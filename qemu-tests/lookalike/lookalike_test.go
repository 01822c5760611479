package lookalike

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/lock"
)

// debs are packages with just what is changed in them.
var debs = map[string]map[string]string{
	"base-files":     {"usr/lib/os-release": "ID=debian\n", "usr/share/doc/base-files/copyright": "x\n"},
	"less":           {"usr/bin/less": "x\n"},
	"sudo":           {"usr/bin/sudo": "x\n"},
	"restic":         {"usr/bin/restic": "x\n"},
	"rsyslog":        {"usr/sbin/rsyslogd": "x\n", "etc/rsyslog.conf": "x\n", "DEBIAN/conffiles": "/etc/rsyslog.conf\n"},
	"openssh-server": {"lib/systemd/system/ssh.service": "x\n", "DEBIAN/postinst": "#!/bin/sh\ndeb-systemd-helper enable 'ssh.service'\n"},
	"linux-image-6.1.0-56-cloud-amd64": {
		"boot/vmlinuz-6.1.0-56-cloud-amd64":                               "kernel\n",
		"lib/modules/6.1.0-56-cloud-amd64/kernel/fs/ext4.ko":              "module\n",
		"usr/share/doc/linux-image-6.1.0-56-cloud-amd64/copyright":        "x\n",
		"usr/share/bug/linux-image-6.1.0-56-cloud-amd64/presubj":          "x\n",
		"lib/modules/6.1.0-56-cloud-amd64/modules.builtin":                "",
		"lib/modules/6.1.0-56-cloud-amd64/kernel/drivers/md/dm-crypt.ko":  "module\n",
		"lib/modules/6.1.0-56-cloud-amd64/kernel/drivers/block/virtio.ko": "module\n",
	},
	"linux-image-cloud-amd64": {"usr/share/doc/linux-image-cloud-amd64/copyright": "x\n"},
}

// debian makes the packages and returns the lock and the store that have them.
func debian(t *testing.T) (*lock.Lock, *lock.Store) {
	t.Helper()
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	l := &lock.Lock{Version: lock.Version, Image: From, Release: From, Arch: "amd64", Made: time.Unix(1_700_000_000, 0).UTC(), Sources: "deb x"}
	for name, files := range debs {
		tree := filepath.Join(t.TempDir(), name)
		control := "Package: " + name + "\nVersion: 1-1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: x\n"
		if name == "linux-image-cloud-amd64" {
			control += "Depends: linux-image-6.1.0-56-cloud-amd64 (= 1-1)\n"
		}
		if err := put(tree, "DEBIAN/control", control, 0o644); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := put(tree, file, text, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		file := name + "_1-1_amd64.deb"
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", tree, filepath.Join(dir, file)).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb: %v\n%s", err, out)
		}
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		l.Packages = append(l.Packages, lock.Package{Name: name, Version: "1-1", Arch: "amd64", URL: server.URL + "/" + file, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))})
	}
	store, err := lock.OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Fetch(t.Context(), l, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	return l, store
}

// TestMake: apt takes the archive with its keyring, finds each package in its
// suite and component, and refuses it with another keyring.
func TestMake(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("packages have owners: this is root's")
	}
	for _, tool := range []string{"dpkg-deb", "apt-get", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v", err)
		}
	}
	l, store := debian(t)
	a, err := Make(t.Context(), slog.New(slog.DiscardHandler), l, store, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	apt := func(keyring string, argv ...string) (string, error) {
		state := t.TempDir()
		var list strings.Builder
		for _, end := range ends {
			fmt.Fprintf(&list, "deb [signed-by=%s] %s/ubuntu %s main universe\n", keyring, server.URL, codename+end)
		}
		if err := os.WriteFile(filepath.Join(state, "sources.list"), []byte(list.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		options := []string{"-o", "Dir::Etc=" + state, "-o", "Dir::State=" + state, "-o", "Dir::Cache=" + state, "-o", "Dir::State::status=/dev/null",
			"-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64", "-o", "Acquire::Languages=none", "-o", "APT::Update::Error-Mode=any"}
		out, err := exec.Command("apt-get", append(options, "update")...).CombinedOutput()
		if err != nil || len(argv) == 0 {
			return string(out), err
		}
		out, err = exec.Command(argv[0], append(options, argv[1:]...)...).CombinedOutput()
		return string(out), err
	}
	out, err := apt(a.Keyring, "apt-get", "--print-uris", "download", "linux-image-virtual", "linux-image-6.1.0-56-generic", "linux-modules-6.1.0-56-generic",
		"base-files", "openssh-server", "rsyslog", "less", "sudo", "restic")
	if err != nil {
		t.Fatalf("apt-get: %v\n%s", err, out)
	}
	for _, want := range []string{"/pool/main/l/linux-image-virtual/linux-image-virtual_1-1_amd64.deb", "/pool/universe/r/restic/", "/pool/main/l/less/"} {
		if !strings.Contains(out, want) {
			t.Errorf("apt does not find %s:\n%s", want, out)
		}
	}
	if out, err := apt(a.Keyring, "apt-cache", "policy", "less", "sudo"); err != nil || !strings.Contains(out, "noble-updates/main") || !strings.Contains(out, "noble-security/main") || strings.Contains(out, "noble/main") {
		t.Errorf("apt-cache policy: %v, want less and sudo from a pocket alone:\n%s", err, out)
	}
	other, err := Make(t.Context(), slog.New(slog.DiscardHandler), l, store, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := apt(other.Keyring); err == nil || !strings.Contains(out, "NO_PUBKEY") {
		t.Errorf("with another keyring: %v, want NO_PUBKEY:\n%s", err, out)
	}

	tree := t.TempDir()
	for _, deb := range []string{"main/l/linux-modules-6.1.0-56-generic/linux-modules-6.1.0-56-generic_1-1_amd64.deb", "main/b/base-files/base-files_1-1_amd64.deb",
		"main/o/openssh-server/openssh-server_1-1_amd64.deb", "main/r/rsyslog/rsyslog_1-1_amd64.deb"} {
		if out, err := exec.Command("dpkg-deb", "--extract", filepath.Join(a.Dir, "pool", deb), tree).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb: %v\n%s", err, out)
		}
	}
	for _, file := range []string{"lib/modules/6.1.0-56-cloud-amd64/kernel/fs/ext4.ko.zst", "lib/systemd/system/ssh.socket", "usr/lib/lookalike/sshd", "etc/apparmor.d/usr.sbin.rsyslogd"} {
		if _, err := os.Stat(filepath.Join(tree, file)); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(tree, "usr/lib/os-release")); err != nil || !strings.Contains(string(text), "ID=ubuntu\n") {
		t.Errorf("os-release is %q, %v", text, err)
	}
}
