package control

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"ward/profiles"
	"ward/profiles/machine"
)

// loginName is what a person's account may be called. There is no dot in it:
// sudo does not read a file of sudoers.d with one in its name.
var loginName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

var groupName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// cryptHash is a hash of crypt(5) with a method that resists guessing.
var cryptHash = regexp.MustCompile(`^\$(y|gy|2b|6|5)\$[./A-Za-z0-9$=,]{20,400}$`)

// sharedNames are names of jobs, rooms and defaults. An account with such a name
// is used by more than one person sooner or later, and then no record says who.
var sharedNames = []string{
	"admin", "administrator", "ansible", "clinic", "cloud-user", "debian", "demo", "deploy", "doctor", "doctors",
	"ec2-user", "emergency", "everyone", "frontdesk", "guest", "lab", "medic", "nurse", "nurses", "office", "patient",
	"pharmacy", "public", "reception", "rocky", "service", "shared", "staff", "support", "temp", "test", "ubuntu",
	"user", "users", "vagrant", "ward",
}

// systemNames are accounts that distributions make. Those that exist on the
// machine itself are refused as well, whatever they are called.
var systemNames = []string{
	"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup",
	"list", "irc", "nobody", "sshd", "messagebus", "operator", "shutdown", "halt", "adm", "ftp", "tss", "polkitd",
	"chrony", "syslog", "aide", "dbus", "systemd-network", "systemd-resolve", "systemd-timesync", "systemd-coredump",
}

// rootGroups are groups whose members can become root without sudo's log, or
// read what only root may.
var rootGroups = []string{"root", "sudo", "wheel", "admin", "shadow", "disk", "kmem", "docker", "lxd", "libvirt", "kvm"}

// ValidatePeople returns every fault of a machine's people at once, each with
// its place in the machine file.
func ValidatePeople(people []machine.Person, p *profiles.Profile) error {
	var faults []error
	fault := func(i int, field, format string, a ...any) {
		faults = append(faults, fmt.Errorf("people[%d].%s: %s", i, field, fmt.Sprintf(format, a...)))
	}
	names, keys := make(map[string]int), make(map[string]int)
	for i, person := range people {
		switch name := person.Name; {
		case !loginName.MatchString(name):
			fault(i, "name", "%q is not a login name: a letter, then at most 31 of a-z 0-9 _ -", name)
		case slices.Contains(systemNames, name):
			fault(i, "name", "%q is a system account; give the person's own name", name)
		case name == p.Controls.Breakglass.User || name == p.Controls.Accounts.Service || name == p.Controls.Accounts.Group:
			fault(i, "name", "%q is used by the profile itself; give the person's own name", name)
		case slices.Contains(sharedNames, name):
			fault(i, "name", "%q does not name one person; each person has an account of their own (45 CFR 164.312(a)(2)(i))", name)
		}
		if j, twice := names[person.Name]; twice {
			fault(i, "name", "%q is people[%d] already", person.Name, j)
		}
		names[person.Name] = i
		switch {
		case strings.TrimSpace(person.FullName) == "":
			fault(i, "full_name", "is missing: it says who %q is", person.Name)
		case strings.ContainsAny(person.FullName, ":,\n\r\x00") || strings.TrimSpace(person.FullName) != person.FullName:
			fault(i, "full_name", "%q has a comma, a colon, a line break or a blank at its end, which passwd(5) cannot hold", person.FullName)
		}
		for k, line := range person.SSHKeys {
			key, err := ParseKey(line)
			if err != nil {
				fault(i, fmt.Sprintf("ssh_keys[%d]", k), "%v", err)
				continue
			}
			if j, used := keys[key]; used {
				fault(i, fmt.Sprintf("ssh_keys[%d]", k), "is a key of people[%d] (%s) already; nobody shares one", j, people[j].Name)
			}
			keys[key] = i
		}
		for k, g := range person.Groups {
			switch {
			case !groupName.MatchString(g):
				fault(i, fmt.Sprintf("groups[%d]", k), "%q is not the name of a group", g)
			case slices.Contains(rootGroups, g):
				fault(i, fmt.Sprintf("groups[%d]", k), "%q is as good as root; write sudo: true, which is logged", g)
			case g == person.Name:
				fault(i, fmt.Sprintf("groups[%d]", k), "%q is the person's own group, made without asking", g)
			case slices.Index(person.Groups, g) != k:
				fault(i, fmt.Sprintf("groups[%d]", k), "%q is there twice", g)
			}
		}
		if h := person.PasswordHash; h != "" && !cryptHash.MatchString(h) {
			// The value is not repeated: it may be a password.
			fault(i, "password_hash", "is not a hash of crypt(5) by yescrypt, bcrypt, sha512 or sha256; mkpasswd -m yescrypt makes one")
		}
		if len(person.SSHKeys) == 0 && person.PasswordHash == "" {
			fault(i, "ssh_keys", "%q has neither a key nor a password, and could never log in", person.Name)
		}
	}
	return errors.Join(faults...)
}
