package qemutests

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/vm"
)

// A daemon is a real server of the distribution's on a free port of the loopback
// interface, which a test takes away and brings back.
type daemon struct {
	t    *testing.T
	dir  string
	port int
	argv []string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	end  chan error
}

// program finds a server's program, also in the folders for administrators.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	cannot(t, "%s is not installed: make tools", name)
	return ""
}

// freePort is a port that nobody listens on; the server that comes back after an
// outage needs the same one.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts the server and waits until it listens.
func (d *daemon) start() {
	d.t.Helper()
	d.log = &bytes.Buffer{}
	d.cmd = exec.Command(d.argv[0], d.argv[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.end = make(chan error, 1)
	go func(c *exec.Cmd, end chan error) { end <- c.Wait() }(d.cmd, d.end)
	for range 300 {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", d.port), time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-d.end:
			d.t.Fatalf("%s ended: %v: %s", d.argv[0], err, d.log)
		case <-time.After(100 * time.Millisecond):
		}
	}
	d.t.Fatalf("%s does not listen on port %d", d.argv[0], d.port)
}

// kill ends the server at once, in the middle of whatever it does.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	d.cmd.Process.Kill()
	<-d.end
	d.cmd = nil
}

func (d *daemon) write(name string, content []byte) string {
	d.t.Helper()
	name = filepath.Join(d.dir, name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return name
}

// sftpd is OpenSSH's server for the backups of one machine, as the user who runs
// the tests.
type sftpd struct {
	*daemon
	repository string // folder
	login      string // PEM of the machine's key
	user       string
}

func startSFTP(t *testing.T) *sftpd {
	t.Helper()
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sftpd{daemon: &daemon{t: t, dir: t.TempDir(), port: freePort(t)}, user: self.Username}
	s.repository = filepath.Join(s.dir, "repository")
	var public string
	s.login, public = sshKey(t)
	s.write("authorized", []byte(public))
	s.hostKey()
	if self.Uid == "0" {
		// sshd's folder for privilege separation, which its unit makes otherwise.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := s.write("config", fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, s.port, filepath.Join(s.dir, "host"), filepath.Join(s.dir, "authorized")))
	s.argv = []string{program(t, "sshd"), "-D", "-e", "-f", config}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// hostKey gives the server a new key and returns its line for known_hosts.
func (s *sftpd) hostKey() string {
	s.t.Helper()
	private, public := sshKey(s.t)
	s.write("host", []byte(private))
	return fmt.Sprintf("[%s]:%d %s", vm.HostAddr, s.port, public)
}

// sshKey makes a key as OpenSSH keeps it.
func sshKey(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(p))
}
