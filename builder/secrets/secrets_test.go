package secrets

import (
	"strings"
	"testing"
	"testing/fstest"
)

// The words are put together here, so that no scanner takes this file for a find.
const begin = "-----BEGIN "

func TestScanFindsEachKind(t *testing.T) {
	for name, c := range map[string]struct{ path, text, want string }{
		"host key":          {"etc/ssh/ssh_host_ed25519_key", "x", "SSH host key"},
		"machine-id":        {"etc/machine-id", strings.Repeat("a", 32) + "\n", "one identity"},
		"seed":              {"var/lib/systemd/random-seed", "x", "random seed"},
		"history":           {"root/.bash_history", "ls\n", "history"},
		"authorized keys":   {"root/.ssh/authorized_keys", "x", "SSH file of root"},
		"machine file":      {"etc/ward/machine.json", "{}", "machine file"},
		"private key":       {"opt/app/tls.pem", "a\nb\n" + begin + "EC PRIVATE KEY-----\n", "/opt/app/tls.pem:3: private key"},
		"openssh key":       {"srv/id", begin + "OPENSSH PRIVATE KEY-----\n", "private key"},
		"plain key":         {"srv/id", begin + "PRIVATE KEY-----\n", "private key"},
		"age":               {"etc/x", "AGE-SECRET-KEY-1" + strings.Repeat("Q", 58), "age identity"},
		"aws":               {"etc/app.env", "KEY=AKIA" + strings.Repeat("A", 16) + "\n", "/etc/app.env:1: access key"},
		"github":            {"etc/app.env", "T=ghp_" + strings.Repeat("a", 36), "token of GitHub"},
		"hash":              {"etc/shadow", "root:*:1:\nann:$y$j9T$x$y:1:\n", "/etc/shadow:2: password hash"},
		"old hash":          {"etc/shadow", "ann:abcdefghijklm:1:\n", "password hash"},
		"shadow's backup":   {"etc/shadow-", "ann:$6$x$y:1:\n", "/etc/shadow-:1: password hash"},
		"after a long line": {"etc/x", strings.Repeat("z", 3*maxLine) + "\n" + begin + "RSA PRIVATE KEY-----\n", "/etc/x:2: private key"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Scan(fstest.MapFS{c.path: {Data: []byte(c.text)}, "etc/hostname": {Data: []byte("a\n")}})
			if err != nil {
				t.Fatal(err)
			}
			if err := Refuse(found); err == nil || !strings.Contains(err.Error(), c.want) || len(found) != 1 {
				t.Errorf("found %v, want one that says %q", found, c.want)
			}
		})
	}
}

func TestScanPasses(t *testing.T) {
	found, err := Scan(fstest.MapFS{
		"etc/machine-id":               {},
		"etc/shadow":                   {Data: []byte("root:*:1:0:99999:7:::\nphi-service:!*:1::::::\nbreakglass:!:1::::::\n")},
		"usr/lib/libcrypto.so":         {Data: []byte("\x7fELF\x00" + begin + "PRIVATE KEY-----")},
		"etc/ssl/certs/ca.pem":         {Data: []byte(begin + "CERTIFICATE-----\n")},
		"usr/share/doc/x/copyright":    {Data: []byte("a public key\n")},
		"var/lib/systemd/random-seed2": {},
	})
	if err != nil || Refuse(found) != nil {
		t.Errorf("Scan() = %v, %v, want nothing", found, err)
	}
}

func TestScanRefusesAnEmptyTree(t *testing.T) {
	if _, err := Scan(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "no files") {
		t.Errorf("Scan() = %v, want an error: a gate that looked at nothing has not passed anything", err)
	}
}
