package control

import (
	"fmt"
	"slices"
	"strings"

	"ward/images/arch"
	"ward/profiles"
)

// breakglassUID is the fixed number of the emergency account. It is below 1000,
// so that no rule for people (auid>=1000) sees it, and has rules of its own. It is
// in the middle of the numbers of system accounts: adduser(8) gives them away from
// 100 upwards, useradd(8) and systemd-sysusers(8) from 999 downwards.
const breakglassUID = 600

// An auditRule is what the kernel has to record, once for each of the two
// system call tables: a 32-bit program on a 64-bit kernel uses the other one
// (audit.rules(7)). Old -w watches are not used: auditctl(8) calls them
// deprecated since audit 4.0, because each is tried for every system call.
type auditRule struct {
	key    string
	calls  []string // system calls that both tables have; none: those that fit perm
	only64 []string // and those of the 64-bit table
	only32 []string // and those of the 32-bit table
	fields []string // what -F takes, key and arch excluded
}

// byPeople is what tells a person's process from the system's: auid is the login
// that it descends from, whatever su or sudo made of it since.
var byPeople = []string{"auid>=1000", "auid!=unset"}

// watch is a rule on one path; perm as in auditctl(8): r, w, x, a(ttribute).
func watch(key, path, perm string) auditRule {
	return auditRule{key: key, fields: []string{path, "perm=" + perm}}
}

// auditRules are the rules, in order, that are the same on every machine with
// this profile; the privileged programs of an image come on top.
func auditRules(p *profiles.Profile) []auditRule {
	var rules []auditRule
	for _, v := range phiVolumes(p) {
		rules = append(rules, watch("phi_access", "dir="+v.Mount, "rwxa"))
	}
	for _, dir := range p.Controls.Audit.AppDirs {
		rules = append(rules, watch("app_access", "dir="+dir, "rwxa"))
	}
	rules = append(rules,
		watch("user_changes", "path=/etc/passwd", "wa"),
		watch("shadow_changes", "path=/etc/shadow", "wa"),
		watch("shadow_changes", "path=/etc/security/opasswd", "wa"),
		watch("group_changes", "path=/etc/group", "wa"),
		watch("group_changes", "path=/etc/gshadow", "wa"),
		watch("sudoers_changes", "path=/etc/sudoers", "wa"),
		watch("sudoers_changes", "dir=/etc/sudoers.d", "wa"),
		watch("pam_changes", "dir=/etc/pam.d", "wa"),
		watch("pam_changes", "dir=/etc/security", "wa"),

		watch("auth_log", "path=/var/log/auth.log", "wa"),
		watch("auth_log", "path=/var/log/secure", "wa"), // its name on rpm releases
		watch("auth_log", "path=/var/log/lastlog", "wa"),
		watch("auth_log", "path=/var/log/wtmp", "wa"),
		watch("auth_log", "path=/var/log/btmp", "wa"),
		watch("auth_log", "dir=/run/faillock", "wa"),

		// Who reads or alters the records and the rules themselves.
		auditRule{key: "audit_log", fields: append([]string{"dir=/var/log/audit", "perm=rwa"}, byPeople...)},
		watch("audit_config", "dir=/etc/audit", "wa"),
		watch("log_config", "path=/etc/rsyslog.conf", "wa"),
		watch("log_config", "dir=/etc/rsyslog.d", "wa"),
		watch("ward_config", "dir=/etc/ward", "wa"),

		// auditctl knows no pattern for /home/*/.ssh, so the whole of /home is watched.
		watch("ssh_key_changes", "dir=/home", "wa"),
		watch("ssh_key_changes", "dir=/root", "wa"),
		watch("ssh_key_changes", "dir=/etc/ssh", "wa"),

		auditRule{key: "root_commands", calls: []string{"execve", "execveat"}, fields: append([]string{"euid=0"}, byPeople...)},
		auditRule{key: "breakglass", calls: []string{"execve", "execveat"}, fields: []string{fmt.Sprintf("auid=%d", breakglassUID)}},
		auditRule{key: "file_deletion", calls: []string{"unlink", "unlinkat", "rename", "renameat", "renameat2", "rmdir"}, fields: byPeople},
		auditRule{key: "breakglass", calls: []string{"unlink", "unlinkat", "rename", "renameat", "renameat2", "rmdir"}, fields: []string{fmt.Sprintf("auid=%d", breakglassUID)}},

		auditRule{key: "permission_changes", calls: []string{"chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"}, only32: []string{"chown32", "fchown32", "lchown32"}, fields: byPeople},
		auditRule{key: "permission_changes", calls: []string{"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"}, fields: byPeople},
		auditRule{key: "access_denied", calls: []string{"open", "openat", "openat2", "creat", "truncate", "ftruncate"}, only32: []string{"truncate64", "ftruncate64"}, fields: append([]string{"exit=-EACCES"}, byPeople...)},
		auditRule{key: "access_denied", calls: []string{"open", "openat", "openat2", "creat", "truncate", "ftruncate"}, only32: []string{"truncate64", "ftruncate64"}, fields: append([]string{"exit=-EPERM"}, byPeople...)},
		auditRule{key: "mounts", calls: []string{"mount"}, only64: []string{"umount2"}, only32: []string{"umount", "umount2"}, fields: byPeople},

		// chronyd steers the clock by clock_adjtime without end, so only people's
		// calls of that one are recorded.
		auditRule{key: "time_change", calls: []string{"settimeofday", "adjtimex", "clock_settime"}, only32: []string{"stime", "clock_settime64"}},
		auditRule{key: "time_change", calls: []string{"clock_adjtime"}, only32: []string{"clock_adjtime64"}, fields: byPeople},
		watch("time_change", "path=/etc/localtime", "wa"),

		auditRule{key: "modules", calls: []string{"init_module", "finit_module", "delete_module"}},
		watch("modules", "dir=/etc/modprobe.d", "wa"),
		watch("modules", "path=/usr/bin/kmod", "x"),

		auditRule{key: "host_name", calls: []string{"sethostname", "setdomainname"}},
		watch("network_config", "path=/etc/hosts", "wa"),
		watch("network_config", "dir=/etc/systemd/network", "wa"),
		watch("firewall", "path=/etc/nftables.conf", "wa"),
		watch("service_changes", "dir=/etc/systemd/system", "wa"),
	)
	return rules
}

// privilegedRule records who runs a program that has the set-user or
// set-group bit.
func privilegedRule(path string) auditRule {
	return auditRule{key: "privileged", fields: append([]string{"path=" + path, "perm=x"}, byPeople...)}
}

// lines are the rule as auditctl reads it, for the 64-bit table of an architecture and
// for the 32-bit one.
func (r auditRule) lines(a arch.Arch) []string {
	one := func(arch string, calls []string) string {
		var b strings.Builder
		b.WriteString("-a always,exit -F arch=" + arch)
		if len(calls) > 0 {
			b.WriteString(" -S " + strings.Join(calls, ","))
		}
		for _, f := range r.fields {
			b.WriteString(" -F " + f)
		}
		b.WriteString(" -F key=" + r.key)
		return b.String()
	}
	calls64 := slices.DeleteFunc(slices.Concat(r.calls, r.only64), func(c string) bool { return slices.Contains(a.NoCalls, c) })
	return []string{one("b64", calls64), one("b32", slices.Concat(r.calls, r.only32))}
}

// path returns the value of a path or dir field, and whether it is a dir.
func (r auditRule) path() (path string, dir bool) {
	for _, f := range r.fields {
		if p, ok := strings.CutPrefix(f, "path="); ok {
			return p, false
		}
		if p, ok := strings.CutPrefix(f, "dir="); ok {
			return p, true
		}
	}
	return "", false
}

// normalRule brings a rule as written and as auditctl -l prints it back to one
// form, so that they can be compared: the two differ in the order of words
// (exit,always), the name of the unset login (unset, -1, 4294967295), -k beside
// -F key=, and in -S all, which stands in the list and not in a watch.
// auditctl 4 prints a watch with the system calls that fit its perm, so the
// calls of a rule with perm say nothing and are left out.
func normalRule(line string) string {
	words := strings.Fields(line)
	var head string
	var calls, fields []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		if i+1 >= len(words) {
			fields = append(fields, word)
			break
		}
		value := words[i+1]
		switch word {
		case "-a", "-A":
			parts := strings.Split(value, ",")
			slices.Sort(parts)
			head = strings.Join(parts, ",")
		case "-S":
			calls = append(calls, strings.Split(value, ",")...)
		case "-k":
			fields = append(fields, "key="+value)
		case "-F", "-C":
			fields = append(fields, normalField(value))
		default:
			fields = append(fields, word)
			continue
		}
		i++
	}
	if slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "perm=") }) || slices.Equal(calls, []string{"all"}) {
		calls = nil
	}
	slices.Sort(calls)
	slices.Sort(fields)
	return strings.TrimSpace(head + " " + strings.Join(calls, ",") + " " + strings.Join(fields, " "))
}

func normalField(f string) string {
	switch {
	case strings.HasPrefix(f, "perm="):
		perms := strings.Split(strings.TrimPrefix(f, "perm="), "")
		slices.Sort(perms)
		return "perm=" + strings.Join(perms, "")
	case strings.HasPrefix(f, "dir="):
		return "dir=" + strings.TrimSuffix(strings.TrimPrefix(f, "dir="), "/")
	case f == "auid!=-1" || f == "auid!=4294967295":
		return "auid!=unset"
	}
	return f
}
