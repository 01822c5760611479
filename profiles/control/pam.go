package control

import (
	"context"
	"fmt"
	"strings"
)

// pamConfigs is where pam-auth-update(8) finds the parts of the PAM stack.
const pamConfigs = "usr/share/pam-configs/"

// A pamPart is one part of the PAM stack, in the form of pam-auth-update(8): the
// distribution's own tool joins the parts to /etc/pam.d/common-*, and does so
// again when a package brings another one. A hand edit there would stop it.
type pamPart struct {
	name string // of its file, which is how the tool calls it
	text string
}

// applyPAM puts the parts in and has the tool join them, without those of the
// distribution that they stand for.
func applyPAM(ctx context.Context, t *Target, parts []pamPart, instead ...string) error {
	switch t.Release.PAMStyle {
	case "pam-auth-update":
	case "authselect":
		return applyAuthselect(ctx, t)
	default:
		return fmt.Errorf("the PAM of %s is put together by %q, which is not known here", t.Release.Name(), t.Release.PAMStyle)
	}
	argv := []string{"env", "DEBIAN_FRONTEND=noninteractive", "pam-auth-update"}
	if len(instead) > 0 {
		argv = append(append(argv, "--disable"), instead...)
	}
	argv = append(argv, "--enable")
	anew := false
	for _, p := range parts {
		changed, err := updateFile(t.Root, pamConfigs+p.name, p.text, 0o644)
		if err != nil {
			return err
		}
		anew = anew || changed
		argv = append(argv, p.name)
	}
	if !anew {
		return nil
	}
	_, err := t.Run(ctx, argv...)
	return err
}

// pamDoors are the programs that let somebody in by a password.
var pamDoors = []string{"/etc/pam.d/login", "/etc/pam.d/su", "/etc/pam.d/sudo"}

// pamCommon is the part that each of them has to include, by PAM style.
var pamCommon = map[string]string{
	"pam-auth-update": `^@include[[:space:]]+common-auth`,
	"authselect":      `^auth[[:space:]]+(include|substack)[[:space:]]+system-auth`,
}

const everyDoor = "login, su and sudo ask through the common stack"

// checkDoors looks for a door that has a stack of its own: what is tried on one
// of them then says nothing about it.
func checkDoors(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, append([]string{"grep", "-LE", pamCommon[m.Release.PAMStyle]}, pamDoors...)...)
	// The status of grep -L differs between its versions, the output does not.
	if code := exitCode(err); code != 0 && code != 1 {
		return "", err
	}
	if alone := strings.Fields(out); len(alone) > 0 {
		return "not through the common stack: " + strings.Join(alone, " "), nil
	}
	return everyDoor, nil
}

// quietSu has su ask for a password and open no session, so that logind is not
// told of the throw-away account.
const quietSu = `
{ grep -vE '^session|common-session' /etc/pam.d/su; echo 'session required pam_permit.so'; } >/tmp/su && cat /tmp/su >/etc/pam.d/su || exit 91
`

// asPerson runs what follows it as an account that is not root's and not the
// one under test.
var asPerson = fmt.Sprintf("setpriv --reuid %d --regid 65534 --clear-groups", probeHelperUID)
