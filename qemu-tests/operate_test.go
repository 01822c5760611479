package qemutests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/crypto/ssh"

	"ward/builder/proof"
	"ward/builder/vm"
	"ward/firstboot"
	"ward/firstboot/incident"
	"ward/firstboot/risk"
	"ward/profiles/evidence"
	machinefile "ward/profiles/machine"
)

// operated is one machine that the parts of the test below share.
type operated struct {
	m    *vm.VM
	f    *proof.Fixture
	root *vm.RootShell
	// pages are reports that a person reads, by what they are.
	pages map[string]string
}

// TestOperateEvidenceRiskIncidentAccessDoctor works through the days of one
// machine after its first, as the runbooks say. Its parts come in an order in
// which none spoils the next.
func TestOperateEvidenceRiskIncidentAccessDoctor(t *testing.T) {
	t.Parallel()
	m, f, r := reboot(t, nil)
	o := &operated{m: m, f: f, root: rootShell(t, m, f), pages: map[string]string{}}
	t.Run("Doctor/WellAtFirst", o.well)
	t.Run("Risk", o.risk)
	t.Run("Backup", func(t *testing.T) {
		run(t, m, o.root, "echo 'PHI of patient 4711' > "+phiFile+"; sync")
		if out := openBook(t, "backup.md").rest(m, o.root); !strings.Contains(out, "restored and equal") {
			t.Errorf("the drill restored nothing: %q", out)
		}
	})
	t.Run("Incident", o.incident)
	t.Run("IncidentSealed", o.incidentSealed)
	t.Run("Access", o.access)
	t.Run("Evidence", func(t *testing.T) { o.evidence(t, r) })
	t.Run("Pages", o.readable)
	t.Run("Doctor", o.doctor)
	t.Run("Doctor/WellAgain", o.well)
}

// clock is what the risk snapshot and the incident may be off the host's, under TCG.
const clock = 10 * time.Minute

func (o *operated) risk(t *testing.T) {
	m, root := o.m, o.root
	out := openBook(t, "risk-report.md").rest(m, root)
	if !regexp.MustCompile(`(?m)ward-risk\.timer`).MatchString(out) {
		t.Errorf("the timer is not listed: %q", out)
	}
	name := strings.TrimSpace(run(t, m, root, "ls /var/log/ward/risk/*.json | tail -1"))
	text := getFile(t, m, root, name)
	var s risk.Snapshot
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	for _, missing := range s.Missing {
		t.Errorf("the snapshot could not look at %s", missing)
	}
	if s.Host != o.f.Config.Hostname || time.Since(s.Time).Abs() > clock || s.Report == nil || len(s.Report.Findings) == 0 {
		t.Errorf("snapshot of %s at %s, with controls: %v", s.Host, s.Time, s.Report != nil)
	}
	rows := map[string]string{}
	for _, section := range s.Sections {
		var b strings.Builder
		for _, r := range section.Rows {
			if len(r) != len(section.Head) {
				t.Errorf("%s: a row has %d fields of %d", section.ID, len(r), len(section.Head))
			}
			b.WriteString(strings.Join(r, "|") + "\n")
		}
		rows[section.ID] = b.String()
	}
	for id, want := range map[string]string{
		"system": `release\|debian-12\n`, "encryption": `/var/data/phi\|/dev/mapper/phi-data\|ext4\|\S*nosuid\S*\|type LUKS2, cipher aes-xts-plain64, keysize 512 bits`,
		"ports": `tcp\|\S+:22\|sshd`, "firewall": `input \(input\)\|drop`, "accounts": `(?m)^proof-admin\|Ada Proof\|.*phi-access`, "policy": `password length, at least\|\d\d`,
		"audit": `(?m)^phi_access\|\d+`, "hardware": `CPU\|.*Model name`, "disks": `phi-data\|crypt\|\S+\|ext4\|/var/data/phi`, "network": `address\|\S+ UP 10\.0\.2\.15/24`,
		"software": `(?m)^openssh-server\|1:9`,
	} {
		if !regexp.MustCompile(want).MatchString(rows[id]) {
			t.Errorf("section %s has no %s:\n%s", id, want, rows[id])
		}
	}
	for _, id := range []string{"updates", "failed"} { // may rightly be empty
		if !slices.ContainsFunc(s.Sections, func(s risk.Section) bool { return s.ID == id }) {
			t.Errorf("there is no section %s", id)
		}
	}
	signed(t, m, root, "ward-risk", name)
	if got := document(t, o.f, "risk snapshot", path.Base(name)); string(got) != text {
		t.Errorf("the log server has another snapshot of %d bytes", len(got))
	}
	if out := run(t, m, root, "stat -c '%U %a' "+name+"; systemctl is-enabled ward-risk.timer; systemctl show -P TimersCalendar ward-risk.timer"); !regexp.MustCompile(`^root 600\nenabled\n.*OnCalendar=Mon \*-\*-\* 00:00:00`).MatchString(out) {
		t.Errorf("snapshot and timer: %q", out)
	}
	o.pages["risk"] = getFile(t, m, root, strings.TrimSuffix(name, ".json")+".html")
}

var folder = regexp.MustCompile(`(?m)^folder +(/var/log/hipaa-incidents/(\S+))$`)

func (o *operated) incident(t *testing.T) {
	m, root := o.m, o.root
	clerk := login(t, m, o.f.Clerk)
	if _, err := vm.Command(t.Context(), clerk, "", "cat "+phiFile+"; true"); err != nil {
		t.Fatal(err)
	}
	run(t, m, root, "cat "+phiFile)
	atTerminal(t, login(t, m, o.f.Admin))
	book := openBook(t, "incident.md", "REASON=a laptop of alice's is missing", "OFFICER=Olga Officer")
	began := time.Now()
	out := book.next(m, root)
	took := time.Since(began)
	at := folder.FindStringSubmatch(out)
	if at == nil {
		t.Fatalf("incident printed no folder: %q", out)
	}
	dir := at[1]
	if strings.Contains(out, "missing ") {
		t.Errorf("a machine that lacks nothing could not collect all:\n%s", out)
	}
	if !regexp.MustCompile(`(?m)^copy +snapshot [0-9a-f]+ of the backup repository$`).MatchString(out) {
		t.Errorf("no copy on the backup server: %q", out)
	}
	book.vars += "INCIDENT=" + at[2] + "\n"
	book.rest(m, root)
	var r incident.Record
	record := getFile(t, m, root, dir+"/record.json")
	if err := json.Unmarshal([]byte(record), &r); err != nil {
		t.Fatal(err)
	}
	if r.By != o.f.Admin.Name || r.Reason != "a laptop of alice's is missing" || r.NoticeBy != r.Discovered.AddDate(0, 0, 60).Format(time.DateOnly) || time.Since(r.Discovered).Abs() > clock {
		t.Errorf("record: by %s because %q, discovered %s, notice by %s", r.By, r.Reason, r.Discovered, r.NoticeBy)
	}
	sshd := strings.Fields(run(t, m, root, "sha256sum /usr/sbin/sshd"))[0]
	for file, want := range map[string]string{
		"sessions-who.txt": "proof-admin", "sessions-loginctl.txt": "proof-clerk", "sockets.txt": ":22", "routes.txt": "default via 10.0.2.2", "processes.txt": "rsyslogd", "programs.txt": sshd,
		"modules.txt": "dm_crypt", "mounts.txt": "/var/data/phi", "firewall.txt": "policy drop", "audit-phi.txt": "phi_access", "audit-auth.txt": "USER_", "journal.txt": "ward-apply",
		"accounts.txt": "proof-clerk", "verify.json": `"findings"`, "audit-rules.txt": "phi_access", "logins.txt": "proof-admin",
	} {
		if text := getFile(t, m, root, dir+"/"+file); !strings.Contains(text, want) {
			t.Errorf("%s has no %q: %.300q", file, want, text)
		}
	}
	signed(t, m, root, "ward-incident", dir+"/SHA256SUMS")
	signed(t, m, root, "ward-incident", dir+".tar.gz.sha256")
	if got := document(t, o.f, "incident record", at[2]+".json"); string(got) != record {
		t.Errorf("the log server has another record: %.200q", got)
	}
	if line, err := o.f.Lab.Logs.Expect(within(t, m, time.Minute), "incident preserved"); err != nil || !strings.Contains(line, "notice_by="+r.NoticeBy) {
		t.Errorf("the log server's line is %q, %v", line, err)
	}
	custody := getFile(t, m, root, dir+"/custody.jsonl")
	if strings.Count(custody, "\n") != 3 || !strings.Contains(custody, "Olga Officer") || !strings.Contains(custody, "copied the archive to snapshot") {
		t.Errorf("custody: %q", custody)
	}
	// Not even root changes it by accident.
	for _, script := range []string{"rm " + dir + "/record.json", "echo x > " + dir + "/record.json", "rm -r " + dir, "echo x > " + dir + "/custody.jsonl", "rm " + dir + ".tar.gz"} {
		if out, code, err := root.Run(within(t, m, time.Minute), script); err != nil || code == 0 || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("%s: exit code %d, %v, %q, want it refused", script, code, err, out)
		}
	}
	t.Logf("preserved in %s", took.Round(time.Second))
}

// atTerminal gives a person a session with a terminal: utmp(5) and wtmp have no other.
func atTerminal(t *testing.T, client *ssh.Client) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestPty("vt100", 25, 80, nil); err != nil {
		t.Fatal(err)
	}
	prompt, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	// It is logged in when it prints.
	if _, err := prompt.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// incidentSealed breaks a tool, and seals to an officer: nothing stops it, what
// is missing is named, and only the officer reads the archive.
func (o *operated) incidentSealed(t *testing.T) {
	m, root := o.m, o.root
	profile := getFile(t, m, root, "/usr/lib/ward/profile.json")
	officer := appoint(t, m, root)
	run(t, m, root, "chmod a-x /usr/bin/ss /usr/bin/w*")
	out := run(t, m, root, "wardctl incident --reason 'a second look' --names --memory; code=$?; chmod a+x /usr/bin/ss /usr/bin/w*; exit $code")
	putFile(t, m, root, "/usr/lib/ward/profile.json", []byte(profile))
	run(t, m, root, "chmod 644 /usr/lib/ward/profile.json")
	at := folder.FindStringSubmatch(out)
	if at == nil {
		t.Fatalf("incident printed no folder: %q", out)
	}
	for _, want := range []string{"missing  sockets with their processes: ", "missing  what they do: ", "executable file not found"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	archive := getFile(t, m, root, at[1]+".tar.gz.age")
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := age.Decrypt(strings.NewReader(archive), other); err == nil || !strings.Contains(err.Error(), "identity did not match any of the recipients") {
		t.Errorf("somebody else opens the archive: %v", err)
	}
	plain, err := age.Decrypt(strings.NewReader(archive), officer)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(plain)
	if err != nil {
		t.Fatal(err)
	}
	inside := map[string]string{}
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		inside[path.Base(h.Name)] = string(b)
	}
	if !strings.Contains(inside["phi-changed-0.txt"], phiFile) || !strings.Contains(inside["memory-maps.txt"], "r-xp") || !strings.Contains(inside["record.json"], "sockets with their processes") {
		t.Errorf("the archive has %d files; changed PHI: %.200q", len(inside), inside["phi-changed-0.txt"])
	}
}

func login(t *testing.T, m *vm.VM, p proof.Person) *ssh.Client {
	t.Helper()
	client, err := proof.Login(within(t, m, time.Minute), m, p)
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// access takes one person off the machine file and puts another on it.
func (o *operated) access(t *testing.T) {
	m, root := o.m, o.root
	fresh, err := proof.NewPerson("proof-fresh")
	if err != nil {
		t.Fatal(err)
	}
	config := o.f.Config
	config.People = slices.Clone(config.People)
	i := slices.IndexFunc(config.People, func(p machinefile.Person) bool { return p.Name == o.f.Clerk.Name })
	config.People[i] = machinefile.Person{Name: fresh.Name, FullName: "Frida Proof", Groups: config.People[i].Groups,
		SSHKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(fresh.Key.PublicKey())))}}
	raw, err := json.Marshal(config) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "machine.yaml"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ign := filepath.Join(dir, "new.ign")
	book := openBook(t, "access.md", "MACHINE="+filepath.Join(dir, "machine.yaml"), "NEW="+ign)
	book.next(m, root)
	compiled, err := os.ReadFile(ign)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, m, root, "/run/new.ign", compiled)
	book.vars += "NEW=/run/new.ign\n"

	// The clerk works, in a session with a program that goes on by itself.
	clerk := login(t, m, o.f.Clerk)
	if _, err := vm.Command(t.Context(), clerk, "", "nohup sleep 3000 >/dev/null 2>&1 & true"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- clerk.Wait() }()
	dry := book.next(m, root)
	for _, want := range []string{"add         proof-fresh (Frida Proof), 1 keys", "remove      proof-clerk (Carl Proof)"} {
		if !strings.Contains(dry, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, dry)
		}
	}
	if strings.Contains(dry, "proof-admin") {
		t.Errorf("the dry run changes somebody who stays as they are:\n%s", dry)
	}
	if out := run(t, m, root, "id proof-fresh 2>&1; pgrep -u proof-clerk sleep"); !strings.Contains(out, "no such user") || !regexp.MustCompile(`(?m)^\d+$`).MatchString(out) {
		t.Errorf("the dry run changed something: %q", out)
	}
	began := time.Now()
	run(t, m, root, "true")
	book.next(m, root)
	took := time.Since(began)
	if limit := m.Timeout(time.Minute); took > limit {
		t.Errorf("it took %s, want less than %s", took, limit)
	}
	t.Logf("the change took %s (%s)", took.Round(time.Second), m.Accel())
	select {
	case <-ended:
	case <-within(t, m, 10*time.Second).Done():
		t.Error("the clerk's session goes on")
	}
	if out := run(t, m, root, "pgrep -u proof-clerk || echo none; passwd -S proof-clerk; id proof-clerk"); !strings.HasPrefix(out, "none\nproof-clerk L ") || strings.Contains(out, "phi-access") {
		t.Errorf("what the clerk still has: %q", out)
	}
	if _, err := proof.Login(within(t, m, 30*time.Second), m, o.f.Clerk); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("the clerk's login: %v, want it refused", err)
	}
	got, err := vm.Command(t.Context(), login(t, m, fresh), "", "id -un; cat "+phiFile+" >/dev/null; id -nG")
	if err != nil || !strings.HasPrefix(got, "proof-fresh\n") || !strings.Contains(got, "phi-access") {
		t.Errorf("the new person is %q, %v", got, err)
	}
	// Once more there is nothing to do, and the people who stayed were left alone.
	book.rest(m, root)
	again := run(t, m, root, "wardctl apply --config /run/new.ign --dry-run")
	for line := range strings.Lines(again) {
		if strings.HasPrefix(line, "run ") || strings.HasPrefix(line, "add ") || strings.HasPrefix(line, "remove ") {
			t.Errorf("the second time: %s", line)
		}
	}
}

// evidence makes a bundle of this machine's reports and lets NIST's schema and a
// changed byte judge it.
func (o *operated) evidence(t *testing.T, first *evidence.Report) {
	m, root := o.m, o.root
	reports, bundle := t.TempDir(), filepath.Join(t.TempDir(), "bundle")
	var b bytes.Buffer
	if err := first.Encode(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(reports, "boot.json"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	book := openBook(t, "evidence.md", "REPORTS="+reports, "BUNDLE="+bundle)
	book.next(m, root)
	if err := os.WriteFile(filepath.Join(reports, "now.json"), []byte(getFile(t, m, root, "/run/report.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	out := book.rest(m, root)
	if !strings.Contains(out, "2 observations of 1 machines") {
		t.Errorf("the bundle: %q", out)
	}
	where, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/defenseunicorns/go-oscal").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(strings.TrimSpace(string(where)), "src/internal/schemas/oscal_complete_schema-1-1-3.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"assessment-results.json", "component-definition.json"} {
		data, err := os.ReadFile(filepath.Join(bundle, name))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Contains(data, []byte("cfr45-164.312-a-2-iv")) || !bytes.Contains(data, []byte(image(t).Manifest.Digest)) && name == "assessment-results.json" {
			t.Errorf("%s names no paragraph or no image", name)
		}
	}
	page, err := os.ReadFile(filepath.Join(bundle, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("helps to show")) || regexp.MustCompile(`(?i)\bis compliant\b`).Match(page) {
		t.Error("the overview does not say what it is")
	}
	o.pages["overview"] = string(page)
	var html bytes.Buffer
	p := &evidence.Proof{Version: evidence.ReportVersion, Tool: "qemu-tests", Started: first.Time, Finished: first.Time, Image: first.Image, Digest: first.Digest, Where: "QEMU",
		Parts: []evidence.Part{{Name: "boot", Report: first}}}
	if err := p.HTML(&html); err != nil {
		t.Fatal(err)
	}
	o.pages["proof"] = html.String()
	file := filepath.Join(bundle, "assessment-results.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o600)
	if err := os.WriteFile(file, bytes.Replace(data, []byte(`"pass"`), []byte(`"fail"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(programs(t), "ward"), "evidence", "verify", bundle).CombinedOutput(); err == nil || !strings.Contains(string(out), "assessment-results.json") {
		t.Errorf("evidence verify of a changed bundle: %v: %s", err, out)
	}
}

// doctorOf returns what doctor finds wrong, by question.
func (o *operated) doctorOf(t *testing.T) (map[string][]firstboot.Trouble, int) {
	t.Helper()
	out, code, err := o.root.Run(within(t, o.m, time.Minute), "wardctl doctor --json 2>/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	var all []firstboot.Diagnosis
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) == 0 {
		t.Fatalf("doctor: exit code %d, %v: %.300q", code, err, out)
	}
	wrong := map[string][]firstboot.Trouble{}
	for _, d := range all {
		if d.Err != "" {
			t.Errorf("doctor could not look at %s: %s", d.Name, d.Err)
		}
		if len(d.Troubles) > 0 {
			wrong[d.Name] = d.Troubles
		}
	}
	return wrong, code
}

func (o *operated) well(t *testing.T) {
	if wrong, code := o.doctorOf(t); len(wrong) > 0 || code != 0 {
		t.Errorf("doctor of a machine that is well: exit code %d, %+v", code, wrong)
	}
}

// doctor breaks what usually breaks, one after the other.
func (o *operated) doctor(t *testing.T) {
	m, root, f := o.m, o.root, o.f
	_, logPort, err := net.SplitHostPort(f.Config.Logging.Server)
	if err != nil {
		t.Fatal(err)
	}
	_, strange, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	hostKey := strings.Join(strings.Fields(run(t, m, root, "cat /etc/ssh/ssh_host_ed25519_key.pub"))[:2], " ")
	before := getFile(t, m, root, machinefile.Path)
	// backupTo points the backup at the machine's own SSH server.
	backupTo := func(known string) string {
		var c machinefile.Machine
		if err := json.Unmarshal([]byte(before), &c); err != nil {
			t.Fatal(err)
		}
		private, _, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		c.Backup = &machinefile.Backup{Repository: "sftp:" + f.Admin.Name + "@127.0.0.1:/tmp/repository", Password: "a password for the test", SSHKey: private, KnownHosts: "127.0.0.1 " + known}
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return "printf %s " + base64.StdEncoding.EncodeToString(raw) + " | base64 -d > " + machinefile.Path + "; ! systemctl start ward-backup.service"
	}
	backupBack := "printf %s " + base64.StdEncoding.EncodeToString([]byte(before)) + " | base64 -d > " + machinefile.Path + "; systemctl reset-failed ward-backup.service; systemctl start ward-backup.service"
	for _, c := range []struct {
		name, do, undo string
		question       string
		what           string // is wrong
		cause          string
		remedy         string
	}{
		// auditd is gone first: one that runs halts the machine, as the profile says.
		{"AuditDiskFull", "pkill -TERM -x auditd; sleep 2; ! pgrep -x auditd && fallocate -l $(( $(stat -f -c '%a*%S' /var/log/audit) - 40*1024*1024 )) /var/log/full",
			"rm /var/log/full; systemctl start auditd; systemctl is-active auditd", "audit", "nothing is audited", "the disk is full", "systemctl start auditd"},
		{"PHIPermissions", "chmod 0777 /var/data/phi", "chmod 0750 /var/data/phi", "PHI permissions", "/var/data/phi is phi-service:phi-access 777", "ausearch -k phi_access", "chmod 0750 /var/data/phi"},
		{"LogServerAway", "nft -f - <<'EOF'\ntable inet away {\n chain out {\n  type filter hook output priority -10;\n  tcp dport " + logPort + " reject with tcp reset\n }\n}\nEOF\nseq 3000 | systemd-cat -t ward-flood && journalctl --sync",
			"nft delete table inet away && systemctl restart rsyslog.service && for i in $(seq 100); do wardctl log queue | grep -q 'or more' || exit 0; sleep 2; done; exit 1", "log queue", "1000 lines or more wait", f.Config.Logging.Server, "journalctl -u rsyslog"},
		{"LogDaemonStopped", "systemctl stop rsyslog.service syslog.socket 2>/dev/null || systemctl stop rsyslog.service", "systemctl start rsyslog.service", "log queue", "no log line leaves the machine", "rsyslog is inactive", "journalctl -b -u rsyslog"},
		{"KeySourceMissing", `for d in /sys/block/vd*; do [ "$(cat $d/serial)" = ward-key ] && k=$d; done; echo 1 > $(readlink -f $k/device)/../remove`,
			"echo 1 > /sys/bus/pci/rescan; udevadm settle", "key source", "no source has the key of volume phi-data", "device", "attach the key device"},
		{"ClockOff", "systemctl stop chrony", "systemctl start chrony; for i in $(seq 120); do chronyc -c tracking | grep -q 'Not synch' || break; sleep 1; done", "clock", "the clock is not disciplined", "chronyd does not answer", "systemctl restart chrony"},
		{"BackupHostKey", backupTo(strange), backupBack, "backup", "the last backup failed", "", "backup.known_hosts"},
		{"BackupSSHKey", backupTo(hostKey), backupBack, "backup", "the last backup failed", "", "the server refuses the SSH key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, m, root, c.do)
			wrong, code := o.doctorOf(t)
			list := wrong[c.question]
			if code != 1 || !slices.ContainsFunc(list, func(x firstboot.Trouble) bool {
				return strings.Contains(x.What, c.what) && strings.Contains(x.Cause, c.cause) && strings.Contains(x.Remedy, c.remedy)
			}) {
				t.Errorf("doctor: exit code %d, %s: %+v, want %q because %q, with %q; all: %+v", code, c.question, list, c.what, c.cause, c.remedy, wrong)
			}
			run(t, m, root, c.undo)
		})
	}
	t.Run("LockedAccount", func(t *testing.T) {
		client := login(t, m, f.Admin)
		for range image(t).Profile.Controls.Lockout.Deny {
			if _, err := vm.Command(within(t, m, time.Minute), client, "not the password\n", "sudo -k -S -p '' true"); err == nil {
				t.Fatal("sudo takes a wrong password")
			}
		}
		sudo := func() error {
			_, err := vm.Command(within(t, m, time.Minute), client, f.Admin.Password+"\n", "sudo -k -S -p '' true")
			return err
		}
		if err := sudo(); err == nil {
			t.Error("the account is not locked")
		}
		book := openBook(t, "troubleshoot.md", "PERSON="+f.Admin.Name)
		if out := book.next(m, root); !strings.Contains(out, f.Admin.Name+" (Ada Proof) is locked out") || !strings.Contains(out, "wardctl unlock "+f.Admin.Name) {
			t.Errorf("doctor does not name the locked account: %s", out)
		}
		if out := book.next(m, root); !strings.Contains(out, "may try again") {
			t.Errorf("unlock printed %q", out)
		}
		if err := sudo(); err != nil {
			t.Errorf("after the unlock: %v", err)
		}
		book.rest(m, root)
		if out, code, err := root.Run(within(t, m, time.Minute), "wardctl unlock nobody-here"); err != nil || code != 1 || !strings.Contains(out, `account "nobody-here": there is none`) {
			t.Errorf("unlock of nobody: exit code %d, %v, %q", code, err, out)
		}
	})
	if _, code := o.doctorOf(t); code == 0 {
		return
	}
	run(t, m, root, "systemctl reset-failed")
}

// newKey makes an SSH key pair: the private half as a file has it, the public as
// a line of known_hosts has it.
func newKey() (private, public string, err error) {
	dir, err := os.MkdirTemp("", "ward-key-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	a, err1 := os.ReadFile(file)
	b, err2 := os.ReadFile(file + ".pub")
	return string(a), strings.TrimSpace(string(b)), errors.Join(err1, err2)
}
