// Package risk writes the snapshot that a risk analysis starts from, 45 CFR
// 164.308(a)(1)(ii)(A): what the machine is, who can get in, what protects it,
// what is open and what is pending. It collects; the judgement is a person's.
//
//	s := risk.Collect(ctx, risk.Options{Run: run, Report: last})
//	err := s.WriteHTML(w)
package risk

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/evidence"
)

// Version is the version of Snapshot's JSON.
const Version = 1

// Options say where to look.
type Options struct {
	Run     func(ctx context.Context, argv ...string) (string, error)
	Now     func() time.Time
	Release distro.Release
	Profile *profiles.Profile
	Report  *evidence.Report // the last verification; nil when there was none
	Mounts  []string         // of the PHI volumes
}

// Snapshot is what was seen.
type Snapshot struct {
	Version  int              `json:"version"`
	Time     time.Time        `json:"time"`
	Host     string           `json:"host"`
	Sections []Section        `json:"sections"`
	Report   *evidence.Report `json:"verify,omitempty"`
	Missing  []string         `json:"missing"` // what could not be looked at, and why
}

// Section is one table.
type Section struct {
	ID    string     `json:"id"`
	Title string     `json:"title"`
	Note  string     `json:"note,omitempty"`
	Head  []string   `json:"head"`
	Rows  [][]string `json:"rows"`
}

// Collect looks at everything and never stops early.
func Collect(ctx context.Context, o Options) *Snapshot {
	host, _ := os.Hostname()
	s := &Snapshot{Version: Version, Time: o.Now().UTC().Truncate(time.Second), Host: host, Report: o.Report}
	for _, q := range []struct {
		id, title string
		head      []string
		ask       func(context.Context, Options) ([][]string, string, error)
	}{
		{"system", "System", []string{"what", "value"}, system},
		{"encryption", "Encryption of PHI at rest", []string{"mount point", "source", "file system", "options", "volume"}, encryption},
		{"ports", "Open ports", []string{"protocol", "address", "process"}, ports},
		{"firewall", "Firewall", []string{"chain", "policy"}, firewall},
		{"accounts", "Accounts that can log in", []string{"name", "full name", "groups", "shell"}, accounts},
		{"policy", "Password and lockout policy", []string{"rule", "value"}, policy},
		{"audit", "Loaded audit rules", []string{"key", "rules"}, audit},
		{"failed", "Failed logins in 7 days", []string{"account", "from", "count"}, failedLogins},
		{"updates", "Pending updates and known-vulnerable packages", []string{"package", "new version", "from", "installed version is known to be vulnerable"}, updates},
		{"hardware", "Assets: hardware", []string{"kind", "what"}, hardware},
		{"disks", "Assets: disks", []string{"name", "type", "size", "file system", "mounted at"}, disks},
		{"network", "Assets: network", []string{"kind", "what"}, network},
		{"software", "Assets: software", []string{"package", "version"}, software},
	} {
		rows, note, err := q.ask(ctx, o)
		if err != nil {
			s.Missing = append(s.Missing, q.title+": "+strings.Join(strings.Fields(err.Error()), " "))
			if len(rows) == 0 {
				continue
			}
		}
		s.Sections = append(s.Sections, Section{q.id, q.title, note, q.head, rows})
	}
	return s
}

func system(ctx context.Context, o Options) ([][]string, string, error) {
	var rows [][]string
	var errs []error
	for _, q := range [][]string{{"kernel", "uname", "-srvm"}, {"up since", "uptime", "--since"}, {"time synchronised", "timedatectl", "show", "--property=NTPSynchronized", "--value"}, {"virtualisation", "systemd-detect-virt"}} {
		out, err := o.Run(ctx, q[1:]...)
		if err != nil && out == "" {
			errs = append(errs, err)
			continue
		}
		rows = append(rows, []string{q[0], strings.TrimSpace(out)})
	}
	rows = append([][]string{{"release", o.Release.Name()}, {"profile", o.Profile.Name}}, rows...)
	return rows, "", errors.Join(errs...)
}

func encryption(ctx context.Context, o Options) ([][]string, string, error) {
	var rows [][]string
	for _, dir := range o.Mounts {
		out, err := o.Run(ctx, "findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "--mountpoint", dir)
		f := strings.Fields(out)
		if err != nil || len(f) != 3 {
			rows = append(rows, []string{dir, "not mounted", "", "", ""})
			continue
		}
		st, err := o.Run(ctx, "cryptsetup", "status", f[0])
		if err != nil {
			return rows, "", err
		}
		rows = append(rows, []string{dir, f[0], f[1], f[2], strings.Join(pick(st, "type", "cipher", "keysize"), ", ")})
	}
	return rows, "", nil
}

// pick takes "name:  value" lines.
func pick(text string, names ...string) []string {
	var all []string
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok && slices.Contains(names, k) {
			all = append(all, k+" "+strings.TrimSpace(v))
		}
	}
	return all
}

func ports(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric", "--processes")
	if err != nil {
		return nil, "", err
	}
	var rows [][]string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		process := ""
		if len(f) > 6 {
			if _, rest, ok := strings.Cut(f[6], `"`); ok {
				process, _, _ = strings.Cut(rest, `"`)
			}
		}
		rows = append(rows, []string{f[0], f[4], process})
	}
	return rows, "Loopback addresses cannot be reached from outside.", nil
}

func firewall(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "nft", "--json", "list", "chains")
	if err != nil {
		return nil, "", err
	}
	var doc struct {
		NFTables []struct {
			Chain *struct {
				Family, Table, Name, Hook, Policy string
			} `json:"chain"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return nil, "", fmt.Errorf("nft list chains: %w", err)
	}
	var rows [][]string
	for _, e := range doc.NFTables {
		if c := e.Chain; c != nil && c.Hook != "" {
			rows = append(rows, []string{c.Family + " " + c.Table + " " + c.Name + " (" + c.Hook + ")", c.Policy})
		}
	}
	return rows, "", nil
}

func accounts(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "getent", "passwd")
	if err != nil {
		return nil, "", err
	}
	var rows [][]string
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 || strings.HasSuffix(f[6], "/nologin") || strings.HasSuffix(f[6], "/false") || f[6] == "/bin/sync" {
			continue
		}
		groups, err := o.Run(ctx, "id", "-nG", f[0])
		if err != nil {
			return rows, "", err
		}
		name, _, _ := strings.Cut(f[4], ",")
		rows = append(rows, []string{f[0], name, strings.TrimSpace(groups), f[6]})
	}
	return rows, "", nil
}

func policy(_ context.Context, o Options) ([][]string, string, error) {
	c := o.Profile.Controls
	return [][]string{
		{"password length, at least", strconv.Itoa(c.Passwords.MinLen)},
		{"kinds of letters, at least", strconv.Itoa(c.Passwords.MinClass)},
		{"passwords remembered", strconv.Itoa(c.Passwords.Remember)},
		{"days until a change", strconv.Itoa(c.Accounts.MaxDays)},
		{"failures until lockout", strconv.Itoa(c.Lockout.Deny)},
		{"seconds locked out", strconv.Itoa(c.Lockout.UnlockTime)},
		{"seconds until an idle session ends", strconv.Itoa(c.Logoff.Idle)},
		{"one-time password beside the key", strconv.FormatBool(c.MFA.Enabled)},
	}, "What the profile asks for; whether it holds is in the last table.", nil
}

func audit(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "auditctl", "-l")
	if err != nil {
		return nil, "", err
	}
	n := map[string]int{}
	for line := range strings.Lines(out) {
		key := "(no key)"
		f := strings.Fields(line)
		for i, w := range f {
			if v, ok := strings.CutPrefix(w, "key="); ok {
				key = v
			} else if w == "-k" && i+1 < len(f) {
				key = f[i+1]
			}
		}
		if len(f) > 1 && strings.HasPrefix(f[0], "-") {
			n[key]++
		}
	}
	return counted(n), "", nil
}

// counted are rows of a count, the largest first.
func counted(n map[string]int) [][]string {
	var rows [][]string
	for k, v := range n {
		rows = append(rows, append(strings.Split(k, "\x00"), strconv.Itoa(v)))
	}
	slices.SortFunc(rows, func(a, b []string) int {
		x, _ := strconv.Atoi(a[len(a)-1])
		y, _ := strconv.Atoi(b[len(b)-1])
		if x != y {
			return y - x
		}
		return strings.Compare(a[0], b[0])
	})
	return rows
}

func failedLogins(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "lastb", "-w", "-s", "-7days")
	if err != nil {
		return nil, "", err
	}
	n := map[string]int{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] == "btmp" {
			continue
		}
		n[f[0]+"\x00"+f[2]]++
	}
	return counted(n), "", nil
}

// pending asks the package manager of a format what is newer than installed.
var pending = map[string][]string{
	"deb": {"apt-get", "--simulate", "--quiet", "dist-upgrade"},
	"rpm": {"dnf", "--quiet", "check-update", "--cacheonly"},
}

func updates(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, pending[o.Release.Format]...)
	if o.Release.Format == "rpm" { // dnf(8): 100, there are updates
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) && exit.ExitCode() == 100 {
			err = nil
		}
	}
	if err != nil {
		return nil, "", err
	}
	var rows [][]string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		// Inst openssl [3.0.1] (3.0.2 Debian-Security:12/stable-security [amd64])
		case o.Release.Format == "deb" && len(f) > 3 && f[0] == "Inst":
			_, rest, _ := strings.Cut(line, "(")
			v := strings.Fields(strings.TrimRight(rest, ")\n"))
			if len(v) > 1 {
				rows = append(rows, []string{f[1], v[0], v[1], vulnerable(v[1])})
			}
		case o.Release.Format == "rpm" && len(f) == 3:
			rows = append(rows, append(f, vulnerable(f[2])))
		}
	}
	return rows, "As of the last refresh of the package lists. An update from a security archive means that the installed version is known to be vulnerable.", nil
}

// vulnerable tells from the archive: an update in a security archive closes a
// hole of the version before.
func vulnerable(archive string) string {
	if strings.Contains(strings.ToLower(archive), "security") {
		return "yes"
	}
	return "not said"
}

func hardware(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "lscpu")
	if err != nil {
		return nil, "", err
	}
	rows := [][]string{{"CPU", strings.Join(pick(out, "Model name", "CPU(s)", "Architecture"), ", ")}}
	mem, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		rows = append(rows, []string{"memory", strings.Join(pick(string(mem), "MemTotal"), "")})
	}
	for _, f := range []string{"sys_vendor", "product_name", "product_serial", "bios_version"} {
		if b, err := os.ReadFile("/sys/class/dmi/id/" + f); err == nil && strings.TrimSpace(string(b)) != "" {
			rows = append(rows, []string{strings.ReplaceAll(f, "_", " "), strings.TrimSpace(string(b))})
		}
	}
	return rows, "", err
}

func disks(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, "lsblk", "--json", "--list", "--output", "NAME,TYPE,SIZE,FSTYPE,MOUNTPOINT")
	if err != nil {
		return nil, "", err
	}
	var doc struct {
		Blockdevices []map[string]*string `json:"blockdevices"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return nil, "", fmt.Errorf("lsblk: %w", err)
	}
	var rows [][]string
	for _, d := range doc.Blockdevices {
		row := make([]string, 5)
		for i, k := range []string{"name", "type", "size", "fstype", "mountpoint"} {
			if v := d[k]; v != nil {
				row[i] = *v
			}
		}
		rows = append(rows, row)
	}
	return rows, "", nil
}

func network(ctx context.Context, o Options) ([][]string, string, error) {
	var rows [][]string
	var errs []error
	for _, q := range [][]string{{"address", "ip", "-brief", "address"}, {"route", "ip", "route"}, {"neighbour", "ip", "neighbour"}} {
		out, err := o.Run(ctx, q[1:]...)
		errs = append(errs, err)
		for line := range strings.Lines(out) {
			rows = append(rows, []string{q[0], strings.Join(strings.Fields(line), " ")})
		}
	}
	return rows, "", errors.Join(errs...)
}

// installed asks the package database of a format.
var installed = map[string][]string{
	"deb": {"dpkg-query", "--show", "--showformat", "${Package}\t${Version}\n"},
	"rpm": {"rpm", "--query", "--all", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\n"},
}

func software(ctx context.Context, o Options) ([][]string, string, error) {
	out, err := o.Run(ctx, installed[o.Release.Format]...)
	if err != nil {
		return nil, "", err
	}
	var rows [][]string
	for line := range strings.Lines(out) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			rows = append(rows, []string{name, version})
		}
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return rows, fmt.Sprintf("%d packages", len(rows)), nil
}

//go:embed risk.html.tmpl
var page string

// WriteHTML writes a page that stands alone: no script, no other file.
func (s *Snapshot) WriteHTML(w io.Writer) error {
	t, err := template.New("risk").Funcs(template.FuncMap{
		"count": func(r *evidence.Report, status string) int {
			n := 0
			for _, f := range r.Findings {
				if f.Status.String() == status {
					n++
				}
			}
			return n
		},
		"bad":  func(st control.Status) bool { return st == control.Fail || st == control.Unknown },
		"join": func(list []string) string { return strings.Join(list, ", ") },
		"long": func(rows [][]string) bool { return len(rows) > 40 },
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, s)
}
