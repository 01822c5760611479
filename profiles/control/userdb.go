package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// An account is a line of passwd(5).
type account struct {
	name     string
	password string // "x": it is in shadow(5)
	uid, gid int
	fullName string // the first part of GECOS
	home     string
	shell    string
}

// A shadow is a line of shadow(5). Days are as written there; "" is unset.
type shadow struct {
	name           string
	hash           string
	min, max, warn string
	expire         string
}

// A group is a line of group(5).
type group struct {
	name    string
	gid     int
	members []string
}

// runner is the Run of a target or of a machine.
type runner func(ctx context.Context, argv ...string) (string, error)

// userDB is what the name service switch says of accounts and groups.
type userDB struct {
	accounts []account
	shadows  []shadow
	groups   []group
}

func readUserDB(ctx context.Context, run runner) (*userDB, error) {
	db := &userDB{}
	if err := eachEntry(ctx, run, "passwd", 7, func(f []string) error {
		uid, err := strconv.Atoi(f[2])
		if err != nil {
			return err
		}
		gid, err := strconv.Atoi(f[3])
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(f[4], ",")
		db.accounts = append(db.accounts, account{name: f[0], password: f[1], uid: uid, gid: gid, fullName: name, home: f[5], shell: f[6]})
		return nil
	}); err != nil {
		return nil, err
	}
	if err := eachEntry(ctx, run, "shadow", 9, func(f []string) error {
		db.shadows = append(db.shadows, shadow{name: f[0], hash: f[1], min: f[3], max: f[4], warn: f[5], expire: f[7]})
		return nil
	}); err != nil {
		return nil, err
	}
	if err := eachEntry(ctx, run, "group", 4, func(f []string) error {
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			return err
		}
		g := group{name: f[0], gid: gid}
		if f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		db.groups = append(db.groups, g)
		return nil
	}); err != nil {
		return nil, err
	}
	return db, nil
}

// eachEntry calls one for the fields of every line that getent prints.
func eachEntry(ctx context.Context, run runner, database string, fields int, one func([]string) error) error {
	out, err := run(ctx, "getent", database)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != fields {
			return fmt.Errorf("getent %s: entry of %s has %d fields, want %d", database, f[0], len(f), fields)
		}
		if err := one(f); err != nil {
			return fmt.Errorf("getent %s: entry of %s: %w", database, f[0], err)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("getent %s printed no entry", database)
	}
	return nil
}

func (db *userDB) account(name string) (account, bool) {
	for _, a := range db.accounts {
		if a.name == name {
			return a, true
		}
	}
	return account{}, false
}

func (db *userDB) shadow(name string) (shadow, bool) {
	for _, s := range db.shadows {
		if s.name == name {
			return s, true
		}
	}
	return shadow{}, false
}

func (db *userDB) group(name string) (group, bool) {
	for _, g := range db.groups {
		if g.name == name {
			return g, true
		}
	}
	return group{}, false
}

// groupsOf returns the names of all groups that a is in but the one that is its
// own by name, in the order of the database.
func (db *userDB) groupsOf(a account) []string {
	var names []string
	for _, g := range db.groups {
		if g.name == a.name {
			continue
		}
		in := g.gid == a.gid
		for _, m := range g.members {
			in = in || m == a.name
		}
		if in {
			names = append(names, g.name)
		}
	}
	return names
}

// usable tells whether a password can match: crypt(5) makes no hash that starts
// with ! or *. An empty one matches the empty password.
func (s shadow) usable() bool {
	return !strings.HasPrefix(s.hash, "!") && !strings.HasPrefix(s.hash, "*")
}
