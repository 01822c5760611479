package machine

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	ignition "github.com/coreos/ignition/v2/config/v3_5"
	"golang.org/x/crypto/ssh"
)

// today is the day on which the tests run, so that certificates do not age.
var today = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// parts are the texts that the test's machine file is made of.
type parts struct {
	ed, rsa2048, dss              string // public SSH keys
	sshPrivate                    string
	ca, cert, key, otherKey       string // PEM
	oldCert, oldKey, serverCert   string
	serverKey, hostLine, password string
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func makeParts(t *testing.T) parts {
	t.Helper()
	var p parts
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line := func(k any) string {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(must[ssh.PublicKey](t)(ssh.NewPublicKey(k)))))
	}
	p.ed = line(public)
	p.hostLine = "backup.example.org " + p.ed
	p.sshPrivate = string(pem.EncodeToMemory(must[*pem.Block](t)(ssh.MarshalPrivateKey(private, ""))))
	p.rsa2048 = line(&must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)).PublicKey)
	// A key of type ssh-dss, RFC 4253 6.6: p, q, g, y; its numbers need not be good.
	n := func(bits uint) []byte { return new(big.Int).SetBit(big.NewInt(1), int(bits), 1).Bytes() }
	dss := ssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).SetBytes(n(1023)), new(big.Int).SetBytes(n(159)), big.NewInt(2), big.NewInt(3)})
	p.dss = "ssh-dss " + base64.StdEncoding.EncodeToString(dss)

	issue := func(tmpl *x509.Certificate, parent *x509.Certificate, signer *ecdsa.PrivateKey) (string, string, *ecdsa.PrivateKey) {
		k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		tmpl.SerialNumber, tmpl.NotBefore = big.NewInt(1), today.AddDate(-2, 0, 0)
		if parent == nil {
			parent, signer = tmpl, k
		}
		der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, signer))
		return pemText("CERTIFICATE", der), pemText("PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(k))), k
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "log CA"}, NotAfter: today.AddDate(5, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var signer *ecdsa.PrivateKey
	p.ca, _, signer = issue(root, nil, nil)
	leaf := func(end time.Time, use x509.ExtKeyUsage) (string, string) {
		cert, key, _ := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "db1"}, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{use}}, root, signer)
		return cert, key
	}
	p.cert, p.key = leaf(today.AddDate(1, 0, 0), x509.ExtKeyUsageClientAuth)
	_, p.otherKey = leaf(today.AddDate(1, 0, 0), x509.ExtKeyUsageClientAuth)
	p.oldCert, p.oldKey = leaf(today.AddDate(0, 0, -1), x509.ExtKeyUsageClientAuth)
	p.serverCert, p.serverKey = leaf(today.AddDate(1, 0, 0), x509.ExtKeyUsageServerAuth)
	p.password = "correct horse battery staple"
	return p
}

// block is a YAML block of several lines, indented.
func block(text string) string {
	return "|\n      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

func (p parts) file() string {
	return `hostname: db1.example.org
people:
  - name: jdoe
    full_name: Jane Doe
    ssh_keys: [` + p.ed + ` jane]
    groups: [phi-access]
    sudo: true
    password_hash: $6$saltsalt$` + strings.Repeat("a", 86) + `
logging:
    server: log.example.org:6514
    ca: ` + block(p.ca) + `
    cert: ` + block(p.cert) + `
    key: ` + block(p.key) + `
backup:
    repository: sftp:backup@backup.example.org:/srv/restic
    password: ` + p.password + `
    known_hosts: ` + block(p.hostLine) + `
    ssh_key: ` + block(p.sshPrivate) + `
    exclude: ["*.tmp"]
time_servers: [time.example.org, 10.0.0.1]
network: {address: 10.1.2.3/24, gateway: 10.1.2.1, dns: [10.1.2.1, "fd00::1"]}
`
}

func TestLoad(t *testing.T) {
	p := makeParts(t)
	m, err := parse("db1.yaml", []byte(p.file()), today)
	if err != nil {
		t.Fatal(err)
	}
	if m.Hostname != "db1.example.org" || len(m.People) != 1 || !m.People[0].Sudo || m.Backup.Password != p.password || strings.TrimSpace(m.Logging.Key) != strings.TrimSpace(p.key) {
		t.Errorf("parse() = %+v, want what the file says", m)
	}
}

func TestLoadFaults(t *testing.T) {
	p := makeParts(t)
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown key", "full_name:", "fullname:", "db1.yaml:4:5: people[0].fullname: is not a known key; did you mean full_name?"},
		{"missing hostname", "hostname: db1.example.org\n", "", `db1.yaml:1:1: hostname: is missing; add a line such as "hostname: db1.example.org"`},
		{"missing server", "    server: log.example.org:6514\n", "", `logging.server: is missing; add a line such as "server: log.example.org:6514"`},
		{"missing keys", "    ssh_keys: [" + p.ed + " jane]\n", "", "people[0].ssh_keys: is missing"},
		{"wrong type", "sudo: true", "sudo: 1", "people[0].sudo: is the number 1, want true or false"},
		{"nobody", "people:\n", "people: []\npeeple:\n", "people: has 0 values, want 1 or more"},
		{"hostname, underscore", "db1.example", "db_1.example", `hostname: is "db_1.example.org", which is no host name; letters, digits and -`},
		{"hostname, dash", "db1.example", "-db1.example", "which is no host name"},
		{"hostname, long", "db1.example", strings.Repeat("a", 64) + ".example", "which is no host name"},
		{"hostname, address", "db1.example.org", "10.0.0.1", `hostname: is "10.0.0.1", which names no single machine`},
		{"hostname, localhost", "db1.example.org", "localhost", "which names no single machine"},
		{"name, capital", "jdoe", "JDoe", `people[0].name: is "JDoe", which is no login name; a letter, then`},
		{"name, system", "jdoe", "root", `people[0].name: is "root", which is a system account`},
		{"name, ward's", "jdoe", "breakglass", "which is a system account"},
		{"name, shared", "jdoe", "nurse", "which names no single person; each person has an account of their own"},
		{"full name", "Jane Doe", "'Jane, Doe'", "people[0].full_name: has a comma, a colon"},
		{"no full name", "Jane Doe", "''", "people[0].full_name: is empty"},
		{"no key", "[" + p.ed + " jane]", "[]", "people[0].ssh_keys: has 0 values, want 1 or more"},
		{"key, short RSA", p.ed + " jane", p.rsa2048, "people[0].ssh_keys[0]: is an RSA key of 2048 bits, want 3072 or more, or ed25519"},
		{"key, DSA", p.ed + " jane", p.dss, "people[0].ssh_keys[0]: is "},
		{"key, cut", p.ed + " jane", p.ed[:40], "people[0].ssh_keys[0]: is no public SSH key; give the line of the .pub file"},
		{"key, options", p.ed + " jane", "'no-pty " + p.ed + "'", "people[0].ssh_keys[0]: has options"},
		{"key, private", p.ed + " jane", "'-----BEGIN OPENSSH PRIVATE KEY-----'", "is a private key, which is no longer private"},
		{"group, root's", "[phi-access]", "[docker]", `people[0].groups[0]: is "docker", which is as good as root; write sudo: true`},
		{"group, name", "[phi-access]", "['a:b']", `people[0].groups[0]: is "a:b", which is no name of a group`},
		{"group, twice", "[phi-access]", "[phi-access, phi-access]", "people[0].groups[1]: is \"phi-access\" again"},
		{"password, plain", "$6$saltsalt$" + strings.Repeat("a", 86), "hunter2", "people[0].password_hash: is no hash of crypt(5) by yescrypt ($y$) or sha512 ($6$); mkpasswd -m yescrypt makes one"},
		{"password, md5", "$6$saltsalt$" + strings.Repeat("a", 86), "$1$saltsalt$" + strings.Repeat("a", 22), "is no hash of crypt(5)"},
		{"port", "log.example.org:6514", "log.example.org", `logging.server: is "log.example.org", want a host and a port`},
		{"port, large", "log.example.org:6514", "log.example.org:65536", "want a host and a port"},
		{"ca, no PEM", "ca: " + block(p.ca), "ca: hello", "logging.ca: holds no PEM block"},
		{"ca, no authority", "ca: " + block(p.ca), "ca: " + block(p.cert), "logging.ca: holds a certificate that is no authority"},
		{"ca, cut", "ca: " + block(p.ca), "ca: " + block(p.ca+"-----BEGIN CERTIFICATE-----\nMII"), "logging.ca: ends in a PEM block that is cut off"},
		{"cert, key instead", "cert: " + block(p.cert), "cert: " + block(p.key), "logging.cert: holds a PEM block PRIVATE KEY, want CERTIFICATE"},
		{"cert, over", block(p.cert) + "\n    key: " + block(p.key), block(p.oldCert) + "\n    key: " + block(p.oldKey), "logging.cert: holds a certificate that is over since 2026-02-28"},
		{"cert, server's", block(p.cert) + "\n    key: " + block(p.key), block(p.serverCert) + "\n    key: " + block(p.serverKey), "logging.cert: is no certificate for a client"},
		{"key of another", "key: " + block(p.key), "key: " + block(p.otherKey), "logging.key: does not fit logging.cert: private key does not match public key; give the key that the certificate was made for"},
		{"no key", "key: " + block(p.key), "key: hello", "logging.key: is no private key"},
		{"repository, kind", "sftp:backup@", "stfp:backup@", "backup.repository: is no place of kind sftp, rest or s3; did you mean sftp:?"},
		{"repository, form", "sftp:backup@backup.example.org:/srv/restic", "sftp:backup.example.org", "backup.repository: want the form sftp:USER@HOST:/PATH"},
		{"repository, port", "sftp:backup@backup.example.org:/srv/restic", "sftp://backup@backup.example.org:99999//srv", "backup.repository: want the form sftp:USER@HOST:/PATH or sftp://USER@HOST:PORT//PATH"},
		{"repository, option", "sftp:backup@", "sftp:-oProxyCommand=x@", "backup.repository: want the form sftp:USER@HOST:/PATH"},
		{"repository, clear text", "sftp:backup@backup.example.org:/srv/restic", "rest:http://user:hunter2@backup.example.org/x", `backup.repository: has scheme "http", want https`},
		{"s3 without keys", "sftp:backup@backup.example.org:/srv/restic", "s3:https://s3.example.org/bucket", "backup.env.AWS_ACCESS_KEY_ID: is missing; s3 needs it"},
		{"environment", `exclude: ["*.tmp"]`, "env: {LD_PRELOAD: x}", "backup.env.LD_PRELOAD: is not a variable that a backup needs"},
		{"short password", p.password, "hunter2", "backup.password: has 7 characters, want 16 or more"},
		{"number password", p.password, "1234567890123456", "backup.password: is the number, want text; put it in quotes"},
		{"no known hosts", "    known_hosts: " + block(p.hostLine) + "\n", "", "backup.known_hosts: is missing, and sftp needs it; ssh-keyscan HOST prints its lines"},
		{"known hosts", "known_hosts: " + block(p.hostLine), "known_hosts: hello", "backup.known_hosts: holds a line that is no key of a host"},
		{"no ssh key", "    ssh_key: " + block(p.sshPrivate) + "\n", "", "backup.ssh_key: is missing, and sftp needs it"},
		{"ssh key", "ssh_key: " + block(p.sshPrivate), "ssh_key: " + p.ed, "backup.ssh_key: is no private SSH key"},
		{"exclude all", `["*.tmp"]`, `["/"]`, `backup.exclude[0]: is "/", which is no pattern, or leaves out everything`},
		{"time server", "[time.example.org,", "['time server',", `time_servers[0]: is "time server", which is no host name or address`},
		{"time server's port", "[time.example.org,", "['time.example.org:0',", `time_servers[0]: is "time.example.org:0", which is no host name or address, with or without a port`},
		{"address", "10.1.2.3/24", "10.1.2.3", "network.address: is \"10.1.2.3\", want an address with the length of its network"},
		{"network", "10.1.2.3/24", "10.1.2.0/24", "network.address: is \"10.1.2.0/24\", which is the network itself"},
		{"gateway", "gateway: 10.1.2.1", "gateway: 10.9.9.9", "network.gateway: is 10.9.9.9, which is not in 10.1.2.0/24"},
		{"dns", `"fd00::1"`, "dns.example.org", `network.dns[1]: is "dns.example.org", which is no address`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(p.file(), tt.old, tt.new, 1)
			if text == p.file() {
				t.Fatalf("%q is not in the good file", tt.old)
			}
			_, err := parse("db1.yaml", []byte(text), today)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parse() = %v, want %s", err, tt.want)
			}
			for _, secret := range []string{"hunter2", "1234567890123456", p.password, "MII"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("parse() = %v, which shows %s", err, secret)
				}
			}
		})
	}
}

// TestSharedKey: two people cannot have one key, nor one name.
func TestSharedKey(t *testing.T) {
	p := makeParts(t)
	text := "hostname: db1\npeople:\n- {name: a1, full_name: A, ssh_keys: [" + p.ed + " x]}\n- {name: a1, full_name: B, ssh_keys: [" + p.ed + " y]}\n"
	_, err := parse("f", []byte(text), today)
	for _, want := range []string{`f:4:4: people[1].name: is "a1", which is people[0] already`, "people[1].ssh_keys[0]: is a key of people[0] already; nobody shares a key"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse() = %v, want %s", err, want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Load("./nowhere.yaml"); err == nil || err.Error() != "machine ./nowhere.yaml: there is no such file" {
		t.Errorf("Load() = %v, want an error that says there is no such file", err)
	}
}

// TestCompile: Ignition reads what is compiled, and the machine's own copy in it
// is the whole machine.
func TestCompile(t *testing.T) {
	p := makeParts(t)
	m, err := parse("db1.yaml", []byte(p.file()), today)
	if err != nil {
		t.Fatal(err)
	}
	data, err := Compile(m)
	if err != nil {
		t.Fatal(err)
	}
	config, report, err := ignition.Parse(data)
	if err != nil || len(report.Entries) != 0 {
		t.Fatalf("ignition.Parse() = %v, %s, want no remark", err, report.String())
	}
	u := config.Passwd.Users[0]
	if u.Name != "jdoe" || *u.Gecos != "Jane Doe" || string(u.SSHAuthorizedKeys[0]) != p.ed+" jane" || !strings.HasPrefix(*u.PasswordHash, "$6$") || string(u.Groups[0]) != "phi-access" {
		t.Errorf("user = %+v, want Jane", u)
	}
	for _, f := range config.Storage.Files {
		_, b64, _ := strings.Cut(*f.Contents.Source, "base64,")
		content := must[[]byte](t)(base64.StdEncoding.DecodeString(b64))
		switch f.Path {
		case "/etc/hostname":
			if string(content) != "db1.example.org\n" || *f.Mode != 0o644 {
				t.Errorf("/etc/hostname = %q, mode %o", content, *f.Mode)
			}
		case Path:
			name := filepath.Join(t.TempDir(), "machine.json")
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
			back, err := Read(name)
			if err != nil || !reflect.DeepEqual(back, m) || *f.Mode != 0o600 {
				t.Errorf("Read(own copy) = %+v, %v, mode %o, want the machine", back, err, *f.Mode)
			}
		default:
			t.Errorf("file %s is not expected", f.Path)
		}
	}
}

func TestReadFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{"hostname":"a","x":1}`, `unknown field "x"`}, {`{"hostname":"a"}{}`, "something follows"}, {``, "EOF"},
	} {
		name := filepath.Join(t.TempDir(), "machine.json")
		if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(name); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Read(%s) = %v, want %s", tt.text, err, tt.want)
		}
	}
}

// FuzzLoad: no input crashes the loader, and whatever it accepts compiles to a
// config that Ignition accepts.
func FuzzLoad(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh"
	f.Add([]byte("hostname: db1\npeople:\n- {name: jdoe, full_name: Jane, ssh_keys: [" + key + "]}\n"))
	f.Add([]byte("hostname: db1\npeople: []\nnetwork: {address: 10.0.0.2/8, gateway: 10.0.0.1, dns: [\"::1\"]}\n"))
	f.Add([]byte("hostname: db1\npeople:\n- {name: jdoe, full_name: Jane, ssh_keys: [" + key + "], groups: [a, b]}\nbackup: {repository: rest:https://x/y, password: 0123456789abcdef}\n"))
	f.Add([]byte("backup: {repository: 'sftp:a@b:/c', password: x, known_hosts: 'a b c', ssh_key: '-----BEGIN'}"))
	f.Add([]byte("logging: {server: 'a:1', ca: '-----BEGIN CERTIFICATE-----', cert: x, key: y}"))
	if _, err := parse("f", []byte("hostname: db1\npeople:\n- {name: jdoe, full_name: Jane, ssh_keys: ["+key+"]}\n"), today); err != nil {
		f.Fatalf("the first seed is not accepted: %v", err) // else the fuzzer never gets past the guard
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse("f", data, today)
		if err != nil {
			return
		}
		config, err := Compile(m)
		if err != nil {
			t.Errorf("Compile(%q) = %v", data, err)
		}
		if !json.Valid(config) {
			t.Errorf("Compile(%q) is no JSON", data)
		}
	})
}
