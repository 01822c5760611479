package qemutests

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ward/builder/proof/lab"
	"ward/builder/vm"
)

// rsyslogd is a log server: rsyslogd that takes messages by TLS, from clients
// whose certificate our authority signed and names the machine.
type rsyslogd struct {
	*daemon
	relp     bool
	host     string // the machine's name
	received string // file
	ca       *lab.Authority
}

func startRsyslogd(t *testing.T, ca *lab.Authority, host string, relp bool) *rsyslogd {
	t.Helper()
	s := &rsyslogd{daemon: &daemon{t: t, dir: t.TempDir(), port: freePort(t)}, relp: relp, host: host, ca: ca}
	s.received = filepath.Join(s.dir, "received.log")
	s.argv = []string{program(t, "rsyslogd"), "-n", "-f", filepath.Join(s.dir, "rsyslog.conf"), "-i", filepath.Join(s.dir, "pid")}
	s.present(ca, lab.Leaf{Names: []string{lab.LogName}})
	s.start()
	t.Cleanup(s.kill)
	return s
}

// present makes the server show a certificate when it starts the next time.
func (s *rsyslogd) present(by *lab.Authority, leaf lab.Leaf) {
	s.t.Helper()
	pair, err := by.Issue(leaf)
	if err != nil {
		s.t.Fatal(err)
	}
	ca, cert, key := s.write("ca.pem", s.ca.PEM), s.write("cert.pem", pair.Cert), s.write("key.pem", pair.Key)
	input := fmt.Sprintf(`module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/name" permittedPeer=["%s"])
input(type="imtcp" address="127.0.0.1" port="%d")`, s.host, s.port)
	if s.relp {
		input = fmt.Sprintf(`module(load="imrelp" tls.tlslib="openssl")
input(type="imrelp" address="127.0.0.1" port="%d" tls="on" tls.authMode="name" tls.permittedPeer=["%s"] tls.caCert="%s" tls.myCert="%s" tls.myPrivKey="%s")`,
			s.port, s.host, ca, cert, key)
	}
	// Direct: a message is in the file before the server confirms it, so what a
	// killed server had confirmed is not lost by the server.
	s.write("rsyslog.conf", fmt.Appendf(nil, `global(workDirectory="%s" defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="%s" defaultNetstreamDriverCertFile="%s" defaultNetstreamDriverKeyFile="%s")
main_queue(queue.type="Direct")
%s
template(name="line" type="string" string="%%timegenerated%% %%hostname%% %%syslogtag%%%%msg:::drop-last-lf%%\n")
if $hostname == "%s" then action(type="omfile" file="%s" template="line")
else action(type="omfile" file="%s" template="line")
`, s.dir, ca, cert, key, input, s.host, s.received, filepath.Join(s.dir, "own.log")))
}

// text is every message that arrived.
func (s *rsyslogd) text() string {
	s.t.Helper()
	data, err := os.ReadFile(s.received)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return string(data)
}

// has tells whether a message with text arrived.
func (s *rsyslogd) has(text string) bool { return strings.Contains(s.text(), text) }

// own is what the server says of itself: handshakes that failed.
func (s *rsyslogd) own() string {
	data, _ := os.ReadFile(filepath.Join(s.dir, "own.log"))
	return string(data)
}

// expect waits until a message with all of texts arrived, and returns its line.
func (s *rsyslogd) expect(m *vm.VM, texts ...string) string {
	s.t.Helper()
	for ctx := within(s.t, m, 30*time.Second); ; {
		for line := range strings.Lines(s.text()) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return strings.TrimSpace(line)
			}
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("no message with %q arrived among %d bytes; the server says: %.2000s", texts, len(s.text()), s.own())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// address is host:port of a server as the machine sees it.
func (d *daemon) address() string { return net.JoinHostPort(vm.HostAddr, strconv.Itoa(d.port)) }
