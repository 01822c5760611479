package firstboot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/ignition/v2/config/v3_5/types"

	"ward/profiles/machine"
)

// adminGroups are the groups that mean "may use sudo" in configs written by
// hand: Debian's and Ubuntu's sudo, Red Hat's wheel.
var adminGroups = []string{"sudo", "wheel"}

// machine finds out who the machine is: its machine file when the config
// carries one, then the config's users that the machine file does not name.
func (c *Config) machine() (machine.Machine, []error) {
	var m machine.Machine
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf("config: "+format, a...)) }
	if i := c.machineFile(); i >= 0 {
		r := c.ign.Storage.Files[i].Contents
		f := &fetcher{}
		at := fmt.Sprintf("storage.files[%d] (%s)", i, machine.Path)
		if r.Source == nil || !strings.HasPrefix(*r.Source, "data:") {
			fault("%s: must be written in the config itself, as a data: URL", at)
		} else if b, err := f.resource(context.Background(), r); err != nil {
			fault("%s: %w", at, err)
		} else {
			d := json.NewDecoder(bytes.NewReader(b))
			d.DisallowUnknownFields()
			if err := d.Decode(&m); err != nil {
				fault("%s: %w", at, err)
			}
		}
	}
	for i, u := range c.ign.Passwd.Users {
		at := fmt.Sprintf("passwd.users[%d]", i)
		known := slices.ContainsFunc(m.People, func(p machine.Person) bool { return p.Name == u.Name })
		gone := u.ShouldExist != nil && !*u.ShouldExist
		switch {
		case known && gone:
			fault("%s: %s shall not exist, but the machine file lists them", at, u.Name)
		case known, gone: // who is not listed has no access
		default:
			p, faults := person(u)
			for _, f := range faults {
				fault("%s (%s): %s", at, u.Name, f)
			}
			m.People = append(m.People, p)
		}
	}
	if m.Hostname == "" {
		name, err := c.fileText("/etc/hostname")
		if err != nil {
			fault("/etc/hostname: %w", err)
		}
		m.Hostname = strings.TrimSpace(name)
	}
	return m, errs
}

// person turns a user of a config written by hand into a person, and names
// what ward decides itself.
func person(u types.PasswdUser) (machine.Person, []string) {
	p := machine.Person{Name: u.Name}
	var faults []string
	no := func(field, why string) { faults = append(faults, field+": "+why) }
	if u.Name == "root" {
		no("name", "root is locked and has no keys; give the key to a person")
	}
	if u.Gecos != nil {
		p.FullName = *u.Gecos
	}
	if p.FullName == "" {
		no("gecos", "is missing: an account belongs to a person with a name")
	}
	for _, k := range u.SSHAuthorizedKeys {
		p.SSHKeys = append(p.SSHKeys, string(k))
	}
	for _, g := range u.Groups {
		if slices.Contains(adminGroups, string(g)) {
			p.Sudo = true
			continue
		}
		p.Groups = append(p.Groups, string(g))
	}
	if u.PasswordHash != nil {
		p.PasswordHash = *u.PasswordHash
	}
	const decided = "not supported: ward decides it"
	for field, set := range map[string]bool{
		"uid": u.UID != nil, "homeDir": u.HomeDir != nil, "primaryGroup": u.PrimaryGroup != nil,
		"noCreateHome": isTrue(u.NoCreateHome), "noUserGroup": isTrue(u.NoUserGroup),
		"noLogInit": isTrue(u.NoLogInit), "system": isTrue(u.System),
		"shell": u.Shell != nil && *u.Shell != "/bin/bash",
	} {
		if set {
			no(field, decided)
		}
	}
	slices.Sort(faults)
	return p, faults
}

func isTrue(b *bool) bool { return b != nil && *b }

// machineFile returns the index of the machine file in the config, or -1.
func (c *Config) machineFile() int {
	return slices.IndexFunc(c.ign.Storage.Files, func(f types.File) bool { return f.Path == machine.Path })
}

// fileText returns the text that the config itself gives a file, or "".
func (c *Config) fileText(name string) (string, error) {
	for _, f := range c.ign.Storage.Files {
		if f.Path == name && f.Contents.Source != nil && strings.HasPrefix(*f.Contents.Source, "data:") {
			b, err := (&fetcher{}).resource(context.Background(), f.Contents)
			return string(b), err
		}
	}
	return "", nil
}
