// Package incident preserves what a machine knows at the moment somebody
// suspects a breach: who is on it, what runs, what was read, before it is gone.
// It never stops half way: what it cannot collect it says. The record starts the
// clock of 45 CFR 164.404(b): notice without unreasonable delay, and in no case
// later than 60 calendar days after discovery.
//
//	r, err := incident.Collect(ctx, incident.Options{Reason: "...", Dir: incident.Dir, Run: run})
package incident

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
)

// Dir is where incidents are kept.
const Dir = "/var/log/hipaa-incidents"

// noticeDays is the outer limit of 45 CFR 164.404(b).
const noticeDays = 60

// limits bound what one incident may fill the disk with.
const (
	itemTime  = 2 * time.Minute
	itemBytes = 64 << 20
	copyTime  = 10 * time.Minute
	hashBytes = 256 << 20 // a program larger than this is named and not hashed
)

// Options say what to collect.
type Options struct {
	Reason     string
	By         string // who asked for it: the login name, from loginuid
	Dir        string
	Names      bool // also the names of changed PHI files, which can be PHI themselves
	Memory     bool // also the memory maps of all processes
	Recipients []age.Recipient
	Verify     []byte // report of wardctl verify, JSON
	Run        func(ctx context.Context, argv ...string) (string, error)
	Proc       string // "/proc" but in tests
	PHI        []string
	Now        func() time.Time
	Log        *slog.Logger

	// Sign writes FILE.sig; Send puts a document onto the log server; Copy brings
	// files to the backup server and says where they lie there. Each may be nil.
	Sign func(ctx context.Context, file string) error
	Send func(what, file string, content []byte) error
	Copy func(ctx context.Context, files ...string) (where string, err error)
}

// Record is the chain of custody.
type Record struct {
	Version    int       `json:"version"`
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	Host       string    `json:"host"`
	Discovered time.Time `json:"discovered"`
	NoticeBy   string    `json:"notice_by"` // the last day of the 60 days
	Ended      time.Time `json:"ended"`
	Folder     string    `json:"folder"`
	Items      []Item    `json:"items"`
	Missing    []Missing `json:"missing"` // what could not be collected, and why
	Custody    []Custody `json:"custody"` // who had it; custody.jsonl goes on with it
}

// Item is one thing collected.
type Item struct {
	File   string    `json:"file"`
	What   string    `json:"what"`
	How    string    `json:"how"`
	Time   time.Time `json:"time"`
	Bytes  int       `json:"bytes"`
	SHA256 string    `json:"sha256"`
}

// Missing is one thing that could not be collected.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Custody is one hand-over.
type Custody struct {
	Time time.Time `json:"time"`
	Who  string    `json:"who"`
	Did  string    `json:"did"`
}

// Result is where everything went.
type Result struct {
	Folder  string
	Archive string
	SHA256  string // of the archive
	Copy    string // where its copy lies; empty: there is none, and Record.Missing says why
	Record  Record
}

// question is one program whose answer is kept.
type question struct {
	file, what string
	argv       []string
	ok         []int // exit codes beside 0 that are no failure
}

// questions are asked in the order in which answers fade: sessions and
// connections first, logs last (RFC 3227, 2.1).
func questions(o Options) []question {
	all := []question{
		{"sessions-who.txt", "who is logged in", []string{"who", "-a"}, nil},
		{"sessions-w.txt", "what they do", []string{"w", "-f"}, nil},
		{"sessions-loginctl.txt", "sessions of logind", []string{"loginctl", "list-sessions", "--no-pager", "--full"}, nil},
		{"sockets.txt", "sockets with their processes", []string{"ss", "--all", "--numeric", "--processes", "--extended"}, nil},
		{"processes.txt", "processes", []string{"ps", "-e", "-o", "pid,ppid,user,luid,lstart,stat,args"}, nil},
		{"routes.txt", "routes", []string{"ip", "-details", "route", "show", "table", "all"}, nil},
		{"addresses.txt", "addresses", []string{"ip", "-details", "address"}, nil},
		{"neighbours.txt", "neighbours", []string{"ip", "neighbour"}, nil},
		{"modules.txt", "loaded kernel modules", []string{"lsmod"}, nil},
		{"mounts.txt", "mounts", []string{"findmnt", "--list", "--output-all"}, nil},
		{"firewall.txt", "firewall rules", []string{"nft", "list", "ruleset"}, nil},
		{"logins.txt", "last logins", []string{"last", "-F", "-w", "-n", "1000"}, nil},
		{"logins-failed.txt", "failed logins", []string{"lastb", "-F", "-w", "-n", "1000"}, nil},
		{"lockout.txt", "locked accounts", []string{"faillock"}, nil},
		// ausearch exits 1 when it finds nothing.
		{"audit-phi.txt", "access to PHI in 24 hours", []string{"ausearch", "--input-logs", "-k", "phi_access", "--start", "yesterday", "-i"}, []int{1}},
		{"audit-auth.txt", "authentication in 24 hours", []string{"ausearch", "--input-logs", "-m", "USER_AUTH,USER_LOGIN,USER_ACCT,USER_CMD,ADD_USER,DEL_USER,GRP_MGMT", "--start", "yesterday", "-i"}, []int{1}},
		{"audit-root.txt", "commands of root in 24 hours", []string{"ausearch", "--input-logs", "-k", "root_commands", "--start", "yesterday", "-i"}, []int{1}},
		{"audit-status.txt", "state of the audit system", []string{"auditctl", "-s"}, nil},
		{"audit-rules.txt", "loaded audit rules", []string{"auditctl", "-l"}, nil},
		{"accounts.txt", "accounts", []string{"getent", "passwd"}, nil},
		{"groups.txt", "groups", []string{"getent", "group"}, nil},
		{"units.txt", "units", []string{"systemctl", "list-units", "--all", "--no-pager", "--full"}, nil},
		{"timers.txt", "timers", []string{"systemctl", "list-timers", "--all", "--no-pager", "--full"}, nil},
		{"journal.txt", "journal of 24 hours", []string{"journalctl", "--since=-24h", "--no-pager", "--output=short-iso-precise"}, nil},
	}
	for i, dir := range o.PHI {
		changed := []string{"find", dir, "-xdev", "-newermt", "-24 hours", "-type", "f", "-printf"}
		if o.Names {
			changed = append(changed, "%TY-%Tm-%TdT%TH:%TM:%TS %u %s %p\n")
		} else {
			changed = append(changed, "%TY-%Tm-%TdT%TH:%TM:%TS %u %s\n")
		}
		all = append(all, question{fmt.Sprintf("phi-changed-%d.txt", i), "PHI files changed in 24 hours", changed, nil})
	}
	return all
}

// Collect makes the folder and the archive of one incident.
func Collect(ctx context.Context, o Options) (*Result, error) {
	if strings.TrimSpace(o.Reason) == "" {
		return nil, errors.New("a reason is missing")
	}
	start := o.Now().UTC()
	host, _ := os.Hostname()
	r := &Result{Folder: filepath.Join(o.Dir, start.Format("20060102T150405Z"))}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(r.Folder, 0o700); err != nil {
		return nil, err
	}
	r.Record = Record{Version: 1, Reason: o.Reason, By: o.By, Host: host, Discovered: start.Truncate(time.Second), Folder: r.Folder,
		NoticeBy: start.AddDate(0, 0, noticeDays).Format(time.DateOnly)}
	c := &collection{Options: o, folder: r.Folder, record: &r.Record}
	for _, q := range questions(o) {
		c.ask(ctx, q)
	}
	c.programs()
	c.openFiles()
	if o.Memory {
		c.maps()
	}
	if len(o.Verify) > 0 {
		c.keep("verify.json", "result of every control", "wardctl verify", o.Verify)
	} else {
		c.missing("result of every control", errors.New("wardctl verify gave none"))
	}
	r.Record.Ended = o.Now().UTC().Truncate(time.Second)
	r.Record.Custody = []Custody{{r.Record.Ended, o.By, "collected with wardctl incident on " + host}}
	record, err := json.MarshalIndent(r.Record, "", "  ")
	if err != nil {
		return nil, err
	}
	record = append(record, '\n')
	c.recorded = len(r.Record.Missing)
	c.keep("record.json", "chain of custody", "wardctl incident", record)
	var sums strings.Builder
	for _, i := range r.Record.Items {
		fmt.Fprintf(&sums, "%s  %s\n", i.SHA256, i.File)
	}
	manifest := filepath.Join(r.Folder, "SHA256SUMS")
	if err := writeNew(manifest, []byte(sums.String())); err != nil {
		return nil, err
	}
	c.sign(ctx, manifest)
	if err := r.seal(o); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	c.sign(ctx, r.Archive+".sha256")
	o.Log.Error("incident preserved", "reason", o.Reason, "by", o.By, "folder", r.Folder, "archive_sha256", r.SHA256, "notice_by", r.Record.NoticeBy,
		"collected", len(r.Record.Items), "missing", len(r.Record.Missing))
	c.away(ctx, r, record)
	return r, c.close(ctx, r)
}

// sign has a file signed; evidence without a signature is still evidence.
func (c *collection) sign(ctx context.Context, file string) {
	if c.Sign == nil {
		c.missing("signature of "+filepath.Base(file), errors.New("there is no key to sign with"))
		return
	}
	if err := c.Sign(ctx, file); err != nil {
		c.missing("signature of "+filepath.Base(file), err)
	}
}

// away brings the record to the log server and the archive to the backup server,
// out of reach of whoever has taken the machine over.
func (c *collection) away(ctx context.Context, r *Result, record []byte) {
	if c.Send != nil {
		if err := c.Send("incident record", filepath.Base(r.Folder)+".json", record); err != nil {
			c.missing("record on the log server", err)
		}
	}
	if c.Copy == nil {
		c.missing("copy on the backup server", errors.New("this machine has none"))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	files := []string{r.Archive, r.Archive + ".sha256"}
	if _, err := os.Stat(r.Archive + ".sha256.sig"); err == nil {
		files = append(files, r.Archive+".sha256.sig")
	}
	where, err := c.Copy(ctx, files...)
	if err != nil {
		c.missing("copy on the backup server", err)
		return
	}
	r.Copy = where
	c.record.Custody = append(c.record.Custody, Custody{c.Now().UTC().Truncate(time.Second), c.By, "copied the archive to " + where})
}

// custodyFile grows from here on: one line of JSON for each who had the evidence.
const custodyFile = "custody.jsonl"

// close writes who had the evidence so far and lets nobody change it afterwards:
// append-only lets that record grow and nothing else. A file system without the
// attributes is no reason to fail.
func (c *collection) close(ctx context.Context, r *Result) error {
	var b bytes.Buffer
	for _, x := range c.record.Missing[c.recorded:] {
		c.record.Custody = append(c.record.Custody, Custody{c.Now().UTC().Truncate(time.Second), c.By, "could not make the " + x.What + ": " + x.Why})
	}
	for _, h := range c.record.Custody {
		line, err := json.Marshal(h)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	f, err := os.OpenFile(filepath.Join(r.Folder, custodyFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	for _, argv := range [][]string{{"chattr", "-R", "+a", r.Folder}, {"chattr", "+i", r.Archive, r.Archive + ".sha256"}} {
		if _, err := c.Run(ctx, argv...); err != nil {
			c.Log.Warn("the incident is not protected against change", "err", err)
		}
	}
	return nil
}

type collection struct {
	Options
	folder string
	record *Record
	// recorded is how many of what is missing record.json names; the rest is in the
	// record of custody.
	recorded int
}

func (c *collection) missing(what string, err error) {
	c.record.Missing = append(c.record.Missing, Missing{what, strings.Join(strings.Fields(err.Error()), " ")})
}

func (c *collection) keep(file, what, how string, b []byte) {
	if len(b) > itemBytes {
		c.missing("the end of "+what, fmt.Errorf("more than %d bytes", itemBytes))
		b = b[:itemBytes]
	}
	if err := writeNew(filepath.Join(c.folder, file), b); err != nil {
		c.missing(what, err)
		return
	}
	sum := sha256.Sum256(b)
	c.record.Items = append(c.record.Items, Item{file, what, how, c.Now().UTC(), len(b), hex.EncodeToString(sum[:])})
}

func (c *collection) ask(ctx context.Context, q question) {
	ctx, cancel := context.WithTimeout(ctx, itemTime)
	defer cancel()
	out, err := c.Run(ctx, q.argv...)
	if err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) || !slices.Contains(q.ok, exit.ExitCode()) {
			c.missing(q.what, err)
			if out == "" {
				return
			}
		}
	}
	c.keep(q.file, q.what, strings.Join(q.argv, " "), []byte(out))
}

// openFiles lists which process has which PHI file open; the names only on
// request, because they can be PHI themselves.
func (c *collection) openFiles() {
	links, err := filepath.Glob(filepath.Join(c.Proc, "[0-9]*/fd/*"))
	if err != nil || len(links) == 0 {
		c.missing("open PHI files", fmt.Errorf("%s lists no open file", c.Proc))
		return
	}
	var b strings.Builder
	for _, l := range links {
		name, err := os.Readlink(l)
		if err != nil || !slices.ContainsFunc(c.PHI, func(dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }) {
			continue
		}
		if !c.Names {
			name = "a PHI file"
		}
		pid, _, _ := strings.Cut(strings.TrimPrefix(l, c.Proc+"/"), "/")
		fmt.Fprintf(&b, "%s\t%s\n", pid, name)
	}
	c.keep("open-files.txt", "open PHI files", "/proc/PID/fd", []byte(b.String()))
}

// programs lists each running program with the digest of the file that the
// kernel runs, also when it was deleted or replaced since.
func (c *collection) programs() {
	pids, err := filepath.Glob(filepath.Join(c.Proc, "[0-9]*"))
	if err != nil || len(pids) == 0 {
		c.missing("programs of processes", fmt.Errorf("%s lists no process", c.Proc))
		return
	}
	sums := map[string]string{}
	var b strings.Builder
	for _, p := range pids {
		exe := filepath.Join(p, "exe")
		name, err := os.Readlink(exe)
		if err != nil {
			continue // a thread of the kernel, or gone
		}
		st, err := os.Stat(exe)
		if err != nil {
			fmt.Fprintf(&b, "%s\t-\t%s\t%v\n", filepath.Base(p), name, err)
			continue
		}
		id := fmt.Sprintf("%s %d %d", name, st.Size(), st.ModTime().UnixNano())
		if _, known := sums[id]; !known {
			sums[id] = hashFile(exe, st.Size())
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\n", filepath.Base(p), sums[id], name)
	}
	c.keep("programs.txt", "programs of processes", "sha256 of /proc/PID/exe", []byte(b.String()))
}

func hashFile(name string, size int64) string {
	if size > hashBytes {
		return "too large"
	}
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

// maps keeps the memory maps of all processes; not the memory, which is PHI.
func (c *collection) maps() {
	files, _ := filepath.Glob(filepath.Join(c.Proc, "[0-9]*/maps"))
	var b bytes.Buffer
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || len(text) == 0 {
			continue
		}
		fmt.Fprintf(&b, "== %s\n%s", f, text)
	}
	if b.Len() == 0 {
		c.missing("memory maps", errors.New("no process shows one"))
		return
	}
	c.keep("memory-maps.txt", "memory maps", "/proc/PID/maps", b.Bytes())
}

// seal packs the folder, encrypted when there are recipients.
func (r *Result) seal(o Options) (err error) {
	r.Archive = r.Folder + ".tar.gz"
	if len(o.Recipients) > 0 {
		r.Archive += ".age"
	}
	f, err := os.OpenFile(r.Archive, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	h := sha256.New()
	var to io.WriteCloser = nopClose{io.MultiWriter(f, h)}
	if len(o.Recipients) > 0 {
		if to, err = age.Encrypt(to, o.Recipients...); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	z := gzip.NewWriter(to)
	t := tar.NewWriter(z)
	err = addFolder(t, r.Folder)
	if err := errors.Join(err, t.Close(), z.Close(), to.Close(), f.Sync(), f.Close()); err != nil {
		return err
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return writeNew(r.Archive+".sha256", []byte(r.SHA256+"  "+filepath.Base(r.Archive)+"\n"))
}

type nopClose struct{ io.Writer }

func (nopClose) Close() error { return nil }

func addFolder(t *tar.Writer, dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			return err
		}
		st, err := n.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: filepath.Base(dir) + "/" + n.Name(), Mode: 0o400, Size: int64(len(b)), ModTime: st.ModTime(), Typeflag: tar.TypeReg}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func writeNew(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// Caller is the login name of whoever asked, also through sudo: the kernel keeps
// the id of the first login, pam_loginuid(8).
func Caller(lookup func(uid string) (string, error)) string {
	b, err := os.ReadFile("/proc/self/loginuid")
	if err != nil {
		return "unknown"
	}
	uid := strings.TrimSpace(string(b))
	if uid == "4294967295" {
		return "the machine itself"
	}
	if name, err := lookup(uid); err == nil {
		return name
	}
	return "uid " + uid
}
