package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ward/builder/proof"
	"ward/builder/proof/lab"
	"ward/builder/vm"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// logged points a fixture's machine to a log server.
func logged(t *testing.T, f *proof.Fixture, s *rsyslogd) {
	t.Helper()
	own, err := f.Lab.Logging(f.Config.Hostname)
	if err != nil {
		t.Fatal(err)
	}
	own.Server = s.address()
	f.Config.Logging = own
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
}

// TestLog sends the logs of one machine to rsyslogd by TLS: over an outage, over
// a killed rsyslogd on both sides and a cut of power; to servers that must not be
// trusted; and looks for them in what went over the wire.
func TestLog(t *testing.T) {
	t.Parallel()
	i, f := image(t), fixture(t)
	s := startRsyslogd(t, f.Lab.CA, f.Config.Hostname, false)
	logged(t, f, s)
	c := f.VM(i)
	c.State, c.Capture = filepath.Join(t.TempDir(), "machine"), filepath.Join(t.TempDir(), "wire.pcap")
	m := start(t, c)
	r := verdict(t, m, "")
	allPass(t, r)
	l := &loss{m: m, f: f, s: s, canary: "canary-" + secret(t), boot: r.BootID}
	t.Run("AuditRecords", func(t *testing.T) { auditArrives(t, m, f, s) })
	t.Run("Distrusted", func(t *testing.T) { distrusted(t, m, f, s) })
	t.Run("Loss", func(t *testing.T) { l.test(t, number(t, "WARD_LOG_MESSAGES", 100000)) })
	powerDown(t, m)
	m.Close()
	t.Run("NothingInClear", func(t *testing.T) { nothingInClear(t, c.Capture, l.canary, s) })
}

func secret(t *testing.T) string {
	t.Helper()
	text, err := lab.Secret()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// auditArrives has the audit daemon record something, and finds the record at
// the server.
func auditArrives(t *testing.T, m *vm.VM, f *proof.Fixture, s *rsyslogd) {
	s.t = t
	mark := secret(t)
	run(t, m, rootShell(t, m, f), "auditctl -m ward-audit-"+mark)
	// That auditctl was called is recorded too; the record is what it was told.
	t.Log(s.expect(m, "ward-audit-"+mark, "type=USER "))
}

// distrusted shows the machine servers that it must not trust. Each is refused
// with the reason, what is logged meanwhile waits on disk, and arrives when the
// right server is back.
func distrusted(t *testing.T, m *vm.VM, f *proof.Fixture, s *rsyslogd) {
	other, err := lab.NewAuthority("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		by   *lab.Authority
		leaf lab.Leaf
		says string // verify's reason
	}{
		{"WrongCA", other, lab.Leaf{Names: []string{lab.LogName}}, "unable to get local issuer certificate"},
		{"WrongName", f.Lab.CA, lab.Leaf{Names: []string{"elsewhere.ward.test"}}, "hostname mismatch"},
		{"Expired", f.Lab.CA, lab.Leaf{Names: []string{lab.LogName}, NotAfter: time.Now().Add(-time.Hour)}, "certificate has expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t, s.daemon.t = t, t
			root := rootShell(t, m, f)
			s.kill()
			s.present(c.by, c.leaf)
			s.start()
			mark := "ward-distrust-" + secret(t)
			// A new rsyslogd tries at once instead of after the pause that has grown.
			run(t, m, root, "systemctl restart rsyslog.service && logger -t ward-test "+mark)
			run(t, m, root, "journalctl --sync && journalctl --quiet --output=cat --identifier=ward-test | grep "+mark)
			red(t, m, root, "remote-log", "server", c.says)
			if s.has(mark) {
				t.Error("the server that must not be trusted has the message")
			}
			s.kill()
			s.present(f.Lab.CA, lab.Leaf{Names: []string{lab.LogName}})
			s.start()
			run(t, m, root, "systemctl restart rsyslog.service")
			s.expect(m, mark)
			green(t, m, root, "remote-log")
		})
	}
	s.t, s.daemon.t = t, t
}

// verify asks the machine about one control.
func verify(t *testing.T, m *vm.VM, root *vm.RootShell, id string) *evidence.Report {
	t.Helper()
	out, code, err := root.Run(within(t, m, 2*time.Minute), "wardctl verify --json --control "+id+" 2>/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	r, err := evidence.Decode(strings.NewReader(out))
	if err != nil {
		t.Fatalf("wardctl verify: exit code %d, %v: %.500s", code, err, out)
	}
	return r
}

// red expects that verify of a control fails at a setting, for a reason.
func red(t *testing.T, m *vm.VM, root *vm.RootShell, id, setting, reason string) {
	t.Helper()
	r := verify(t, m, root, id)
	for _, x := range r.Findings {
		if x.Status == control.Fail && x.Setting == setting && strings.Contains(strings.ToLower(x.Got), strings.ToLower(reason)) {
			t.Log("red: " + proof.Line(x))
			return
		}
	}
	for _, x := range r.Findings {
		t.Log(proof.Line(x))
	}
	t.Errorf("verify of %s does not fail at %q with %q", id, setting, reason)
}

// green expects that verify of a control passes.
func green(t *testing.T, m *vm.VM, root *vm.RootShell, id string) {
	t.Helper()
	r := verify(t, m, root, id)
	if len(r.Findings) == 0 {
		t.Errorf("verify of %s has no findings", id)
	}
	for _, x := range r.Findings {
		if x.Status != control.Pass {
			t.Error(proof.Line(x))
		}
	}
}

// loss counts numbered messages of one machine.
type loss struct {
	m      *vm.VM
	f      *proof.Fixture
	s      *rsyslogd
	canary string
	boot   string // ID of the machine's boot
	sent   int
}

// send logs n more messages and waits until journald has them: the sync point is
// journalctl --sync, after which they are on the machine's disk.
func (l *loss) send(t *testing.T, root *vm.RootShell, n int) {
	t.Helper()
	run2(t, l.m, root, fmt.Sprintf("seq -f 'ward-loss-%%06.0f %s' %d %d | systemd-cat -t ward-loss && journalctl --sync", l.canary, l.sent, l.sent+n-1))
	l.sent += n
}

// run2 is run for what takes long.
func run2(t *testing.T, m *vm.VM, root *vm.RootShell, script string) string {
	t.Helper()
	return runFor(t, m, root, 4*time.Minute, script)
}

var lossNumber = regexp.MustCompile(`ward-loss-(\d{6,}) `)

// count reads what the server has: how many different numbers, how many lines.
func (l *loss) count(t *testing.T) (seen map[int]int, lines int) {
	seen = map[int]int{}
	for _, match := range lossNumber.FindAllStringSubmatch(l.s.text(), -1) {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		seen[n]++
		lines++
	}
	return seen, lines
}

// wait waits until the server has n different messages, or no more has come for
// two minutes (under KVM 15 seconds).
func (l *loss) wait(t *testing.T, n int) {
	t.Helper()
	last, since := -1, time.Now()
	for {
		seen, _ := l.count(t)
		if len(seen) >= n {
			return
		}
		if len(seen) != last {
			last, since = len(seen), time.Now()
		}
		if time.Since(since) > l.m.Timeout(15*time.Second) {
			return // test reports what is missing
		}
		select {
		case <-t.Context().Done():
			t.Fatal(context.Cause(t.Context()))
		case <-time.After(2 * time.Second):
		}
	}
}

const killRsyslogd = "old=$(pidof rsyslogd) && kill -9 $old && for i in $(seq 60); do sleep 1; new=$(pidof rsyslogd) && [ \"$new\" != \"$old\" ] && exit 0; done; echo 'rsyslogd did not come back'; exit 1"

// test is the whole: a tenth with the server there, which is then killed; half
// while it is away, in which rsyslogd is killed and the machine loses its power;
// the rest while it catches up, in which rsyslogd is killed again.
func (l *loss) test(t *testing.T, total int) {
	began := time.Now()
	l.s.t, l.s.daemon.t = t, t
	root := rootShell(t, l.m, l.f)
	l.send(t, root, total/10)
	l.wait(t, l.sent)
	l.s.kill()
	l.send(t, root, total/4)
	run2(t, l.m, root, killRsyslogd)
	l.send(t, root, total/4)
	queue := run(t, l.m, root, "wardctl log queue")
	if !strings.Contains(queue, "1000 lines or more wait") {
		t.Errorf("wardctl log queue without a log server: %q", queue)
	}
	if err := l.m.Reset(within(t, l.m, time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := verdict(t, l.m, l.boot)
	l.boot = r.BootID
	if control.Pass == r.Verdict() {
		t.Error("verify is green without its log server")
	}
	root = rootShell(t, l.m, l.f)
	back := time.Now()
	l.s.start()
	l.send(t, root, total-l.sent-total/10)
	run2(t, l.m, root, killRsyslogd)
	l.send(t, root, total/10)
	l.wait(t, l.sent)
	seen, lines := l.count(t)
	var missing []string
	for n := range l.sent {
		if seen[n] == 0 {
			missing = append(missing, strconv.Itoa(n))
		}
	}
	twice := 0
	for _, k := range seen {
		if k > 1 {
			twice++
		}
	}
	t.Logf("FIGURES log loss (%s): sent %d, received %d (%d lines), more than once %d, missing %d; before the reset %s; caught up in %s; all took %s",
		map[bool]string{false: "tls", true: "relp"}[l.s.relp], l.sent, len(seen), lines, twice, len(missing), strings.TrimSpace(queue),
		time.Since(back).Round(time.Second), time.Since(began).Round(time.Second))
	if l.sent < total {
		t.Errorf("only %d messages were sent, want %d", l.sent, total)
	}
	if len(missing) > 0 {
		t.Errorf("%d messages that were on the machine's disk are missing: %s ...", len(missing), strings.Join(missing[:min(len(missing), 50)], " "))
	}
	green(t, l.m, root, "remote-log")
}

// nothingInClear looks for the messages in a capture of all that the machine
// sent and received; the banner of SSH, which is in clear, shows that it can see.
func nothingInClear(t *testing.T, capture, canary string, s *rsyslogd) {
	wire, err := os.ReadFile(capture)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(wire, []byte("SSH-2.0-")) {
		t.Error("the capture does not even have SSH's banner: it looked at nothing")
	}
	if !strings.Contains(s.text(), canary) {
		t.Error("the server never had the canary")
	}
	n := bytes.Count(wire, []byte(canary))
	t.Logf("FIGURES wire: %d bytes captured, the canary readable %d times", len(wire), n)
	if n > 0 {
		t.Errorf("the canary is readable on the wire %d times", n)
	}
	for _, text := range []string{"ward-loss-", "ward-distrust-", "ward-audit-", "type=SYSCALL"} {
		if bytes.Contains(wire, []byte(text)) {
			t.Errorf("%q is readable on the wire", text)
		}
	}
}
