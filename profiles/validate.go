package profiles

import (
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"ward/images/strict"
)

// IDs lists the controls that a profile knows, in its order.
func IDs() []string {
	var ids []string
	for f := range reflect.TypeFor[Controls]().Fields() {
		id, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		ids = append(ids, id)
	}
	return ids
}

// check holds what one validation needs. What a single value may be stands in
// its field's tag and was checked when it was read; here is what needs more
// than one value or more than a range.
type check struct {
	p   *Profile
	d   *strict.Document
	now time.Time
}

func (c check) all() {
	c.accounts()
	c.sshd()
	c.calendars()
	c.networks()
	c.audit()
	c.kernel()
	c.paths()
	c.phi()
	c.keySources()
	c.root()
	c.waivers()
}

// root: where it is verified nothing can be installed.
func (c check) root() {
	if c.p.Controls.Integrity.Root == RootVerity && c.p.Controls.Updates.Unattended {
		c.d.Fault("controls.integrity.root", "say updates: {unattended: false} beside it, and bake new images in time", "is verity, and a verified root takes no update of a package")
	}
}

// less wants one number below another. The fault stands at the one that the
// file itself states, not at one that comes from the profile it extends.
func (c check) less(low string, a int, high string, b int, hint string) {
	low, high = "controls."+low, "controls."+high
	if a < b || c.d.Faulty(low) || c.d.Faulty(high) {
		return
	}
	if c.d.Has(high) && !c.d.Has(low) {
		c.d.Fault(high, hint, "is %d, want more than %s, which is %d", b, last(low), a)
		return
	}
	c.d.Fault(low, hint, "is %d, want less than %s, which is %d", a, last(high), b)
}

// last is the last key of a path.
func last(at string) string { return at[strings.LastIndexByte(at, '.')+1:] }

func (c check) accounts() {
	a := c.p.Controls.Accounts
	c.less("accounts.min_days", a.MinDays, "accounts.max_days", a.MaxDays, "")
	c.less("accounts.warn_days", a.WarnDays, "accounts.max_days", a.MaxDays, "")
	if a.Service != "" && a.Service == c.p.Controls.Breakglass.User {
		c.d.Fault("controls.breakglass.user", "", "is %q, which is the service account too", a.Service)
	}
	for at, name := range map[string]string{"accounts.group": a.Group, "accounts.service": a.Service,
		"breakglass.user": c.p.Controls.Breakglass.User, "sshd.group": c.p.Controls.SSHD.Group} {
		if name == "root" || len(name) > 32 {
			c.d.Fault("controls."+at, "choose a name of its own, at most 32 characters", "cannot be %q", name)
		}
	}
	if open := time.Duration(c.p.Controls.Breakglass.MaxOpen); open < time.Minute || open > 7*24*time.Hour {
		c.d.Fault("controls.breakglass.max_open", "", "is %s, want 1m to 168h", open)
	}
	if j := time.Duration(c.p.Controls.Backup.Jitter); j < 0 || j > 24*time.Hour {
		c.d.Fault("controls.backup.jitter", "", "is %s, want 0s to 24h", j)
	}
}

// weakSSH are parts of algorithm names that no server of ours offers: CBC modes
// leak plain text (CVE-2008-5161), SHA-1, MD5 and 1024-bit groups are broken or
// near to it (RFC 9142), RC4 and 3DES are withdrawn.
var weakSSH = []string{"-cbc", "arcfour", "3des", "md5", "-sha1", "group1-", "umac-64", "none"}

var sshAlgorithm = regexp.MustCompile(`^[a-z0-9][a-z0-9@.-]+$`)

func (c check) sshd() {
	s := c.p.Controls.SSHD
	for _, list := range []struct {
		key    string
		values []string
	}{{"ciphers", s.Ciphers}, {"kex", s.KexAlgorithms}, {"macs", s.MACs}} {
		for i, a := range list.values {
			at := fmt.Sprintf("controls.sshd.%s[%d]", list.key, i)
			weak := slices.ContainsFunc(weakSSH, func(w string) bool { return strings.Contains(a, w) }) || a == "hmac-sha1"
			switch {
			case weak:
				c.d.Fault(at, "remove it", "is %q, which is weak", a)
			case !sshAlgorithm.MatchString(a):
				c.d.Fault(at, "ssh -Q "+map[string]string{"ciphers": "cipher", "kex": "kex", "macs": "mac"}[list.key]+" lists them", "is %q, which is no name of an algorithm", a)
			case slices.Index(list.values, a) < i:
				c.d.Fault(at, "remove one", "is %q again", a)
			}
		}
	}
}

func (c check) calendars() {
	for at, event := range map[string]string{"backup.on_calendar": c.p.Controls.Backup.OnCalendar,
		"integrity.on_calendar": c.p.Controls.Integrity.OnCalendar, "updates.window": c.p.Controls.Updates.Window} {
		if event == "" && at == "updates.window" {
			continue
		}
		if err := checkCalendar(event); err != nil {
			c.d.Fault("controls."+at, "see systemd.time(7); systemd-analyze calendar tries one", "%v", err)
		}
	}
}

// host is a DNS name of RFC 1123.
var host = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

func (c check) networks() {
	for i, n := range c.p.Controls.Firewall.SSHFrom {
		at := fmt.Sprintf("controls.firewall.ssh_from[%d]", i)
		prefix, err := netip.ParsePrefix(n)
		if err != nil {
			hint := "write it as 10.0.0.0/8 or fd00::/8"
			if _, err := netip.ParseAddr(n); err == nil {
				hint = fmt.Sprintf("write the single address as %s/32 (or /128)", n)
			}
			c.d.Fault(at, hint, "is %q, which is no network", n)
			continue
		}
		if prefix.Masked() != prefix {
			c.d.Fault(at, "did you mean "+prefix.Masked().String()+"?", "is %q, which has bits set beyond its length", n)
		}
	}
	for i, s := range c.p.Controls.Time.Servers {
		if _, err := netip.ParseAddr(s); err != nil && (!host.MatchString(s) || len(s) > 253) {
			c.d.Fault(fmt.Sprintf("controls.time.servers[%d]", i), "", "is %q, which is no host name or address", s)
		}
	}
}

func (c check) audit() {
	a := c.p.Controls.Audit
	c.less("audit.admin_space_left", a.AdminSpaceLeft, "audit.space_left", a.SpaceLeft, "auditd refuses to start otherwise")
}

var sysctlName = regexp.MustCompile(`^[a-z0-9_]+([.][A-Za-z0-9_*-]+)+$`)

func (c check) kernel() {
	for name, value := range c.p.Controls.Kernel.Sysctl {
		at := "controls.kernel.sysctl." + name
		if !sysctlName.MatchString(name) {
			c.d.Fault(at, "such as kernel.dmesg_restrict", "is no name of sysctl(8)")
		}
		if strings.TrimSpace(value) == "" || strings.ContainsAny(value, "\r\n") {
			c.d.Fault(at, "", "is %q, want a value on one line", value)
		}
	}
}

func (c check) paths() {
	for key, list := range map[string][]string{"integrity.paths": c.p.Controls.Integrity.Paths, "audit.app_dirs": c.p.Controls.Audit.AppDirs} {
		for i, p := range list {
			if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, " \t\r\n\"'") {
				c.d.Fault(fmt.Sprintf("controls.%s[%d]", key, i), "such as /opt/app", "is %q, want a clean absolute path below / without spaces", p)
			}
		}
	}
}

func (c check) phi() {
	p := c.p.Controls.PHI
	for i, r := range p.Recipients {
		if err := recipient(r); err != nil {
			c.d.Fault(fmt.Sprintf("controls.phi.recipients[%d]", i), "age-keygen -y prints it", "%v", err)
		}
	}
	c.volumes()
}

// recipient accepts the public half of an age key and never repeats a private one.
func recipient(s string) error {
	if strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-") {
		return fmt.Errorf("is a private key, which must not be in a profile; take its public half")
	}
	list, err := age.ParseRecipients(strings.NewReader(s + "\n"))
	if err != nil || len(list) != 1 {
		return fmt.Errorf("is not an age recipient (age1...)")
	}
	return nil
}

func (c check) waivers() {
	seen := map[string]int{}
	for i, w := range c.p.Waivers {
		at := fmt.Sprintf("waivers[%d]", i)
		if w.Control != "" && !slices.Contains(IDs(), w.Control) {
			hint := "known are: " + strings.Join(IDs(), ", ")
			if near := strict.Nearest(w.Control, IDs()); near != "" {
				hint = "did you mean " + near + "?"
			}
			c.d.Fault(at+".control", hint, "is %q, which is no control", w.Control)
		}
		if first, twice := seen[w.Control]; twice && w.Control != "" {
			c.d.Fault(at+".control", "keep one of them", "is %q again, first in waivers[%d]", w.Control, first)
		} else {
			seen[w.Control] = i
		}
		c.expires(at+".expires", w.Expires)
	}
}

// expires checks the last day of a waiver. A waiver is a decision for a time,
// so it must end, and within what a periodic evaluation (45 CFR 164.308(a)(8)) looks over.
func (c check) expires(at, day string) {
	end, err := time.Parse(time.DateOnly, day)
	today := c.now.UTC().Format(time.DateOnly)
	switch {
	case err != nil:
		c.d.Fault(at, "write it as 2027-06-30", "is %q, which is no date", day)
	case day <= today:
		c.d.Fault(at, "decide again, or remove the waiver", "is %s, which is over (today is %s)", day, today)
	case end.After(c.now.AddDate(3, 0, 0)):
		c.d.Fault(at, "a decision is looked at again within three years", "is %s, which is too far away", day)
	}
}
