package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/machine"
)

// Files of the remote log. The keys lie below rsyslog.d, since that is what the
// AppArmor profile of rsyslogd lets it read where a release has one; only *.conf
// is included from there.
const (
	rsyslogConf    = "etc/rsyslog.conf"
	remoteLogConf  = "etc/rsyslog.d/00-ward-remote-log.conf"
	remoteLogKeys  = "etc/rsyslog.d/ward-remote-log"
	remoteLogSpool = "var/spool/rsyslog"
	remoteLogPlace = "ward-imjournal.state" // in the spool

	// LogPlace has the journal's cursor (sd_journal_get_cursor(3)) up to which the
	// log server has everything; relative to /.
	LogPlace = remoteLogSpool + "/" + remoteLogPlace
)

const noLogging = "the machine's file has no logging section, so nothing leaves this machine"

// RemoteLog sends every message, audit records included, to the log server.
//
// The way of a message: programs and the audit daemon's syslog plugin -> journald,
// which keeps it on disk -> rsyslogd, which reads the journal from where it had
// come to -> TLS -> the server. The journal is the only queue: every queue of
// rsyslogd is direct, so it reads the next message when the last one is sent, and
// notes its place each 100 messages. When it starts it steps back from that place
// (firstboot/logqueue), over whatever a crash had left unsent.
// Plain TCP has no acknowledgement of a message, so what is in the socket when a
// connection breaks can be lost with transport tls; relp sends it again
// (reliable_forwarding in rsyslog's documentation).
func RemoteLog(p *profiles.Profile, r distro.Release) Control {
	l := p.Controls.RemoteLog
	return Control{
		ID:    "remote-log",
		Title: "every log line and audit record also lies on a server that this machine cannot alter",
		Why:   "Whoever takes over a machine removes his traces from it.",
		Refs: []string{
			"45 CFR 164.312(b)", "45 CFR 164.312(e)(1)", "45 CFR 164.308(a)(1)(ii)(D)", "45 CFR 164.308(a)(6)(ii)",
			"NIST 800-53 AU-4(1)", "NIST 800-53 AU-9(2)",
		},
		Settings: []Setting{
			setting{
				name: "connection", apply: func(ctx context.Context, t *Target) error { return applyRemoteLog(ctx, t, l) },
				want: connected, check: func(ctx context.Context, m *Machine) (string, error) { return checkRemoteLog(ctx, m, l) },
			},
			setting{name: "server", want: "trusted, and named as configured", check: checkLogServer},
			setting{name: "queue", want: queueHasRoom, check: func(ctx context.Context, m *Machine) (string, error) { return checkLogQueue(ctx, m, l) }},
			drop{
				name: "audit records", path: "etc/audit/plugins.d/syslog.conf", mode: 0o640, content: auditPlugin,
				want: "go to the log", check: checkAuditPlugin,
			},
			setting{
				name: "journal", apply: func(ctx context.Context, t *Target) error { return applyJournal(ctx, t, l) },
				want: "on disk, at most " + journalSize(l.JournalMiB), check: func(ctx context.Context, m *Machine) (string, error) { return checkJournal(ctx, m, l) },
			},
			setting{name: "readers", want: "administrators alone", check: checkLogReaders},
			unit{"rsyslog.service", unitRunning},
			unit{"ward-log-queue.timer", unitRunning},
			unit{"logrotate.timer", unitRunning},
		},
	}
}

// rsyslogBase is the whole rsyslog.conf: the distribution's own reads a socket
// that journald drops messages for when it is full, and copies everything into
// files that are rotated by the day and not by size. The journal has them all.
const rsyslogBase = `# ward: remote-log
# The whole name, as in the certificate: db1 of two sites are two machines.
global(workDirectory="/` + remoteLogSpool + `" umask="0077" preserveFQDN="on")

# The journal is the queue: nothing is read from it before the last message went.
main_queue(queue.type="Direct")

# From where the last run had come to.
module(load="imjournal" stateFile="` + remoteLogPlace + `" persistStateInterval="100"
       fsync="on" rateLimit.interval="0" ignorePreviousMessages="off")

module(load="builtin:omfile" fileOwner="root" fileGroup="adm" fileCreateMode="0640" dirCreateMode="0750")

# Before what may wait for the log server.
auth,authpriv.*		action(type="omfile" file="/var/log/auth.log")

include(file="/etc/rsyslog.d/*.conf" mode="optional")
`

// rsyslogUnit has rsyslogd start a little before its place. While the log server is
// away rsyslogd ends only when it is killed, and loses nothing by that.
const rsyslogUnit = `# ward: remote-log
[Service]
ExecStartPre=-/usr/sbin/wardctl log step-back
TimeoutStopSec=20s
`

// rsyslogProfile is what rsyslogd does here and the distribution's AppArmor profile
// of it does not allow: to read the journal where it is volatile, with what
// sd_journal_open(3) asks for, and the settings of its TLS libraries. Its keys,
// its place and the journal on disk are allowed already.
const rsyslogProfile = `# ward: remote-log
/etc/machine-id r,
@{PROC}/sys/kernel/random/boot_id r,
@{PROC}/sys/kernel/osrelease r,
/run/log/journal/ r,
/run/log/journal/** r,
/var/log/journal/ r,
/etc/ssl/openssl.cnf r,
/etc/ssl/ward-*.pem r,
/etc/gnutls/config r,
`

// auditPlugin makes auditd hand its records to syslog too, under a facility of
// their own so that they are not written twice.
const auditPlugin = `# ward: remote-log
active = yes
direction = out
path = /sbin/audisp-syslog
type = always
args = LOG_INFO LOG_LOCAL6
format = string
`

const rsyslogRotate = `# ward: remote-log
/var/log/auth.log
{
	daily
	maxsize 32M
	rotate 14
	missingok
	notifempty
	compress
	delaycompress
	create 0640 root adm
	postrotate
		systemctl kill --signal=HUP rsyslog.service
	endscript
}
`

const authLog = "/var/log/auth.log"

// withAuthLog is a text in which the file is called as on the release.
func withAuthLog(r distro.Release, text string) string {
	if r.AuthLog == "" {
		return text
	}
	return strings.ReplaceAll(text, authLog, "/"+r.AuthLog)
}

func applyRemoteLog(ctx context.Context, t *Target, l profiles.RemoteLog) error {
	changed := false
	write := func(name, content string, mode fs.FileMode) error {
		c, err := updateFile(t.Root, name, content, mode)
		changed = changed || c
		return err
	}
	err := errors.Join(
		write(rsyslogConf, withAuthLog(t.Release, rsyslogBase), 0o644),
		write("etc/logrotate.d/rsyslog", withAuthLog(t.Release, rsyslogRotate), 0o644),
		write("etc/systemd/system/rsyslog.service.d/ward-remote-log.conf", rsyslogUnit, 0o644),
		makeDir(t.Root, remoteLogSpool, 0o700),
	)
	if t.Release.LogProfile != "" {
		err = errors.Join(err, writeFile(t.Root, t.Release.LogProfile, rsyslogProfile, 0o644))
	}
	if err != nil {
		return err
	}
	if t.Phase == Bake {
		return tryRsyslog(ctx, t)
	}
	if t.Machine == nil || t.Machine.Logging == nil {
		t.Log.Warn(noLogging)
		return removeFile(t.Root, remoteLogConf)
	}
	conf, err := remoteLogAction(t.Machine.Logging, l.Transport)
	if err != nil {
		return err
	}
	if err := fromTheStart(ctx, t); err != nil {
		return err
	}
	// The configuration comes last: rsyslogd must not find it before its keys.
	err = errors.Join(
		makeDir(t.Root, remoteLogKeys, 0o700),
		write(remoteLogKeys+"/ca.pem", t.Machine.Logging.CA, 0o600),
		write(remoteLogKeys+"/cert.pem", t.Machine.Logging.Cert, 0o600),
		write(remoteLogKeys+"/key.pem", t.Machine.Logging.Key, 0o600),
	)
	if err == nil {
		err = write(remoteLogConf, conf, 0o600)
	}
	if err != nil || !changed {
		return err
	}
	if err := tryRsyslog(ctx, t); err != nil {
		// Without it the next run tries again instead of finding nothing changed, and
		// rsyslogd, which was stopped, writes the files of this machine meanwhile.
		gone := removeFile(t.Root, remoteLogConf)
		_, started := t.Run(ctx, "systemctl", "start", "rsyslog.service")
		return errors.Join(err, gone, started)
	}
	_, err = t.Run(ctx, "systemctl", "restart", "rsyslog.service")
	return err
}

// fromTheStart makes an rsyslogd that had nowhere to send to forget where it is in
// the journal: what the machine logged before it knew its server, such as the
// sealed recovery key, is sent as well. rsyslogd writes the place when it ends, so
// it is stopped first; whenever the power goes, the place is gone before the
// server is known.
func fromTheStart(ctx context.Context, t *Target) error {
	if _, err := t.Root.Stat(remoteLogConf); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := t.Run(ctx, "systemctl", "stop", "rsyslog.service"); err != nil {
		return err
	}
	return removeFile(t.Root, LogPlace)
}

// tryRsyslog lets rsyslogd read its configuration: it starts with a wrong one too,
// and leaves out what it does not understand.
func tryRsyslog(ctx context.Context, t *Target) error {
	if _, err := t.Run(ctx, "rsyslogd", "-N1"); err != nil {
		return fmt.Errorf("rsyslogd refuses its configuration: %w", err)
	}
	return nil
}

// makeDir makes a folder with that mode, or gives it to the one that is there.
func makeDir(root *os.Root, name string, mode fs.FileMode) error {
	if err := root.MkdirAll(name, mode); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	if err := root.Chmod(name, mode); err != nil {
		return fmt.Errorf("mode of %s: %w", name, err)
	}
	return nil
}

// logServer takes the server's address apart; peer is the name in its certificate.
func logServer(l *machine.Logging) (host, port, peer string, err error) {
	host, port, err = net.SplitHostPort(l.Server)
	if err != nil {
		return "", "", "", fmt.Errorf("logging.server: %w", err)
	}
	peer = l.Name
	if peer == "" {
		peer = host
	}
	return host, port, peer, nil
}

// remoteLogAction renders the one action that sends. There is no way to leave out
// TLS here: driver, mode 1 (mode 0 is clear text whatever the driver), and the
// name of the peer are constants of the text.
func remoteLogAction(l *machine.Logging, transport string) (string, error) {
	host, port, peer, err := logServer(l)
	if err != nil {
		return "", err
	}
	// Tried again for ever; the reading of the journal waits meanwhile.
	const direct = `       queue.type="Direct" action.resumeRetryCount="-1" action.resumeInterval="5" action.resumeIntervalMax="60")
`
	if transport == "relp" {
		return fmt.Sprintf(`# ward: remote-log
module(load="omrelp" tls.tlslib="openssl")
action(name="ward-remote-log" type="omrelp" target="%s" port="%s" template="RSYSLOG_SyslogProtocol23Format"
       tls="on" tls.authMode="name" tls.permittedPeer=["%s"]
       tls.caCert="/%[4]s/ca.pem" tls.myCert="/%[4]s/cert.pem" tls.myPrivKey="/%[4]s/key.pem"
%s`, host, port, peer, remoteLogKeys, direct), nil
	}
	return fmt.Sprintf(`# ward: remote-log
global(defaultNetstreamDriverCAFile="/%[4]s/ca.pem" defaultNetstreamDriverCertFile="/%[4]s/cert.pem" defaultNetstreamDriverKeyFile="/%[4]s/key.pem")
action(name="ward-remote-log" type="omfwd" protocol="tcp" target="%[1]s" port="%[2]s" template="RSYSLOG_SyslogProtocol23Format" tcp_framing="octet-counted"
       streamDriver="ossl" streamDriverMode="1" streamDriverAuthMode="x509/name" streamDriverPermittedPeers="%[3]s"
       keepAlive="on" keepAlive.probes="3" keepAlive.interval="20" keepAlive.time="60"
%[5]s`, host, port, peer, remoteLogKeys, direct), nil
}

// journalSize writes MiB as journald does in its log, but for a whole number.
func journalSize(mib int) string {
	if mib < 1024 {
		return fmt.Sprintf("%dM", mib)
	}
	return fmt.Sprintf("%d.%dG", mib/1024, mib%1024*10/1024)
}

// applyJournal keeps the journal on disk and bounded. Rate limits would drop what
// has to be kept, and the audit records come through the audit daemon: journald's
// own audit socket would bring each a second time.
func applyJournal(ctx context.Context, t *Target, l profiles.RemoteLog) error {
	err := errors.Join(
		writeFile(t.Root, "etc/systemd/journald.conf.d/ward-remote-log.conf", fmt.Sprintf(`# ward: remote-log
[Journal]
Storage=persistent
SystemMaxUse=%dM
SystemKeepFree=200M
SyncIntervalSec=5s
RateLimitIntervalSec=0
ForwardToSyslog=no
`, l.JournalMiB), 0o644),
		writeFile(t.Root, "etc/tmpfiles.d/ward-remote-log.conf", "# ward: remote-log\nd /"+remoteLogSpool+" 0700 root root -\n", 0o644),
		writeFile(t.Root, "etc/systemd/system/ward-log-queue.service", logQueueService, 0o644),
		writeFile(t.Root, "etc/systemd/system/ward-log-queue.timer", logQueueTimer, 0o644),
	)
	if err != nil || t.Phase != Bake {
		return err
	}
	_, err = t.Run(ctx, "systemctl", "mask", "systemd-journald-audit.socket")
	return err
}

const connected = "rsyslogd sends by TLS to the log server, and nowhere else"

// logConnections prints which TLS driver rsyslogd has loaded, and its connections.
const logConnections = `pid=$(pidof rsyslogd) || { echo "not running"; exit 0; }
for lib in lmnsd_ossl lmnsd_gtls omrelp libssl omfwd; do grep -q "/$lib" /proc/$pid/maps && echo "loaded $lib"; done
ss --no-header --tcp --udp --all --numeric --processes | grep '"rsyslogd"'
exit 0`

// checkRemoteLog looks at the running rsyslogd: what it has loaded, and whom it
// talks to. It writes a line first, since rsyslogd connects when it has one to send.
func checkRemoteLog(ctx context.Context, m *Machine, l profiles.RemoteLog) (string, error) {
	if m.Config == nil || m.Config.Logging == nil {
		return noLogging, alive(ctx, m)
	}
	host, port, _, err := logServer(m.Config.Logging)
	if err != nil {
		return "", err
	}
	addresses, err := resolve(ctx, m, host)
	if err != nil {
		return fmt.Sprintf("the log server %s has no address", host), nil
	}
	if _, err := m.Run(ctx, "logger", "-t", "ward-verify", "the remote log is looked at"); err != nil {
		return "", err
	}
	var got string
	for try := range 3 {
		if try > 0 {
			if _, err := m.Run(ctx, "sleep", "2"); err != nil {
				return "", err
			}
		}
		out, err := script(ctx, m, "connections", logConnections)
		if err != nil {
			return "", err
		}
		got = logState(out, l.Transport, addresses, port)
		if got == connected {
			break
		}
	}
	return got, nil
}

// logState judges what logConnections printed.
func logState(out, transport string, addresses []string, port string) string {
	driver := map[string]string{"tls": "loaded lmnsd_ossl", "relp": "loaded omrelp"}[transport]
	var faults []string
	if strings.HasPrefix(out, "not running") {
		return "rsyslogd does not run"
	}
	if !strings.Contains(out, driver+"\n") || !strings.Contains(out, "loaded libssl\n") {
		faults = append(faults, "rsyslogd has not loaded TLS for "+transport)
	}
	sends := false
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] == "loaded" {
			continue
		}
		peer := f[5] // Netid State Recv-Q Send-Q Local Peer Process
		ours := false
		for _, a := range addresses {
			ours = ours || peer == net.JoinHostPort(a, port)
		}
		switch {
		case strings.HasSuffix(peer, ":53"):
			// It asks for the server's address.
		case f[0] == "udp":
			faults = append(faults, "it also has the UDP socket "+f[4])
		case !ours:
			faults = append(faults, "it also sends to "+peer)
		case f[1] == "ESTAB":
			sends = true
		}
	}
	if !sends {
		faults = append(faults, "not connected to the log server")
	}
	return orFaults(faults, connected)
}

// resolve returns the addresses of a name, as the machine's own resolver has them.
func resolve(ctx context.Context, m *Machine, host string) ([]string, error) {
	if net.ParseIP(host) != nil {
		return []string{host}, nil
	}
	out, err := m.Run(ctx, "getent", "ahosts", host)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			all = append(all, f[0])
		}
	}
	return all, nil
}

// logHandshake shakes hands with the log server as rsyslogd does, and says why
// the server is not trusted; rsyslogd's own words are in its log alone.
const logHandshake = `timeout 20 openssl s_client -connect "$1" -verify_hostname "$2" -verify_return_error -x509_strict -purpose sslserver \
	-no-CApath -no-CAstore -CAfile /` + remoteLogKeys + `/ca.pem -cert /` + remoteLogKeys + `/cert.pem -key /` + remoteLogKeys + `/key.pem -brief </dev/null 2>&1; exit 0`

func checkLogServer(ctx context.Context, m *Machine) (string, error) {
	if m.Config == nil || m.Config.Logging == nil {
		return noLogging, alive(ctx, m)
	}
	_, _, peer, err := logServer(m.Config.Logging)
	if err != nil {
		return "", err
	}
	out, err := script(ctx, m, "handshake", logHandshake, m.Config.Logging.Server, peer)
	if err != nil {
		return "", err
	}
	if strings.Contains(out, "CONNECTION ESTABLISHED") && strings.Contains(out, "Verification: OK") {
		return "trusted, and named as configured", nil
	}
	for line := range strings.Lines(out) {
		if _, reason, ok := strings.Cut(line, "verify error:"); ok {
			return "refused: " + strings.TrimSpace(reason), nil
		}
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "errno") || strings.Contains(line, "alert") || strings.Contains(line, "error:") {
			return "refused: " + strings.TrimSpace(line), nil
		}
	}
	return "no handshake with " + m.Config.Logging.Server, nil
}

// checkAuditPlugin asks auditd how many plugins it feeds, and looks for the one.
func checkAuditPlugin(ctx context.Context, m *Machine) (string, error) {
	out, err := script(ctx, m, "auditd-state", auditStateDump)
	if err != nil {
		return "", fmt.Errorf("ask auditd for its state: %w", err)
	}
	// As root the command line is whole; the name alone is cut to 15 characters.
	ps, err := m.Run(ctx, "ps", "-e", "-o", "comm=")
	if err != nil {
		return "", err
	}
	switch {
	case strings.Contains(out, "Number of active plugins = 0"):
		return "auditd has no active plugin", nil
	case !strings.Contains(ps, "audisp-syslog"):
		return "audisp-syslog does not run", nil
	}
	return "go to the log", nil
}

// checkJournal asks journald's files, and what journald said of its own limit when
// it started. Where that is no longer in the journal the bound was reached since,
// and what the files take says whether it holds.
func checkJournal(ctx context.Context, m *Machine, l profiles.RemoteLog) (string, error) {
	files, err := m.Run(ctx, "sh", "-c", `ls -l /proc/$(pidof systemd-journald)/fd | grep -o '/[^ ]*/system.journal'; exit 0`)
	if err != nil {
		return "", err
	}
	where := "in memory"
	if strings.Contains(files, "/var/log/journal/") {
		where = "on disk"
	}
	said, err := m.Run(ctx, "journalctl", "--boot", "--unit=systemd-journald.service", "--output=cat", "--grep=^System Journal .* max")
	if exitCode(err) == 1 { // no such line
		size, err := journalTaken(ctx, m, l.JournalMiB)
		return where + ", at most " + size, err
	}
	if err != nil {
		return "", fmt.Errorf("ask journald for its limit: %w", err)
	}
	limit := "?"
	for line := range strings.Lines(said) {
		if _, rest, ok := strings.Cut(line, ", max "); ok {
			limit, _, _ = strings.Cut(rest, ",")
		}
	}
	return where + ", at most " + strings.TrimSuffix(strings.Replace(limit, ".0M", "M", 1), "\n"), nil
}

// journalTaken is the bound when the journal's files are within it, or else what
// they take. One file more, an eighth of the bound, is what journald has open while
// it removes the oldest (SystemMaxFileSize=, journald.conf(5)).
func journalTaken(ctx context.Context, m *Machine, mib int) (string, error) {
	out, err := m.Run(ctx, "du", "--summarize", "--block-size=1M", "/var/log/journal")
	if err != nil {
		return "", err
	}
	taken, err := strconv.Atoi(strings.Fields(out + " ?")[0])
	if err != nil {
		return "", fmt.Errorf("du printed %q", out)
	}
	if taken <= mib+mib/8 {
		return journalSize(mib), nil
	}
	return journalSize(taken), nil
}

// checkLogReaders looks for logs that everybody may read.
func checkLogReaders(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "find", "/var/log/journal", "/var/log/audit", withAuthLog(m.Release, authLog), "/"+remoteLogSpool, "/"+remoteLogKeys, "-type", "f", "-perm", "/o=rwx")
	if err != nil && exitCode(err) != 1 { // 1: one of them is not there
		return "", err
	}
	return orFaults(strings.Fields(out), "administrators alone"), nil
}

// alive asks the machine anything at all, so that a check whose answer stands in
// the machine's file is unknown on a machine that does not answer.
func alive(ctx context.Context, m *Machine) error {
	_, err := m.Run(ctx, "true")
	return err
}
