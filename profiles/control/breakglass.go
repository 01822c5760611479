package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

// BreakglassState is where each use of the emergency account is written down.
const BreakglassState = "var/lib/ward/breakglass.json"

// BreakglassUses is the content of BreakglassState; the last use is the newest.
type BreakglassUses struct {
	Version int             `json:"version"`
	Uses    []BreakglassUse `json:"uses"`
}

// BreakglassUse is one time that the emergency account was opened.
type BreakglassUse struct {
	Opened   time.Time `json:"opened"`
	Until    time.Time `json:"until"` // when it closes by itself
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
	Key      string    `json:"key,omitempty"` // the SSH key that was let in; none: a password
	Closed   time.Time `json:"closed,omitzero"`
	ClosedBy string    `json:"closed_by,omitempty"`
}

// Open returns the use that has not been closed yet, or nil.
func (u *BreakglassUses) Open() *BreakglassUse {
	if n := len(u.Uses); n > 0 && u.Uses[n-1].Closed.IsZero() {
		return &u.Uses[n-1]
	}
	return nil
}

// BreakglassHome is where the emergency account works.
func BreakglassHome(p *profiles.Profile) string { return "/home/" + p.Controls.Breakglass.User }

// Breakglass is the way in when nobody else can get in: an account that is
// sealed until `wardctl breakglass open` opens it, for a reason and for a time.
//
// While it is open the control fails, on purpose: an open emergency account is a
// fact that a reviewer has to see, with who opened it and why, and not a state in
// which all is well.
func Breakglass(p *profiles.Profile, r distro.Release) Control {
	c := p.Controls.Breakglass
	return Control{
		ID:    "breakglass",
		Title: "The emergency account is sealed; each use of it has a reason and an end, and is recorded",
		Why:   "In an emergency care goes on; and a way in that nobody watches is a way in for anybody.",
		Refs: []string{
			"45 CFR 164.312(a)(2)(ii)",    // emergency access procedure
			"45 CFR 164.308(a)(7)(ii)(C)", // emergency mode operation plan
			"45 CFR 164.312(b)",           // audit controls
			"NIST 800-53 AC-2(2)",
		},
		Settings: []Setting{
			setting{name: "seal", apply: makeBreakglass(c), want: "sealed", check: checkSeal},
			setting{name: "record", want: "what it does is recorded as breakglass", check: checkBreakglassAudit},
			drop{
				name: "sealed after a reboot", path: "etc/systemd/system/" + breakglassUnit, content: breakglassService(r),
				after: func(ctx context.Context, t *Target) error { return unit{breakglassUnit, unitRunning}.Apply(ctx, t) },
				want:  unitRunning, check: unit{breakglassUnit, unitRunning}.Check,
			},
		},
	}
}

const breakglassUnit = "ward-breakglass.service"

// breakglassService runs before anybody can log in. It stays active, so that
// systemctl tells whether it has run.
func breakglassService(r distro.Release) string {
	return `# ward: breakglass. An emergency does not outlast a reboot.
[Unit]
Description=ward: seal the emergency account
After=local-fs.target
Before=systemd-user-sessions.service ` + r.SSHService() + `

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/wardctl breakglass close --boot

[Install]
WantedBy=multi-user.target
`
}

func makeBreakglass(c profiles.Breakglass) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		if t.Phase != Bake {
			return nil
		}
		if _, err := t.Run(ctx, "getent", "passwd", c.User); exitCode(err) != 2 {
			return err
		}
		_, err := t.Run(ctx, "useradd", "--system", "--uid", strconv.Itoa(breakglassUID), "--user-group", "--create-home", "--key", "HOME_MODE=0700",
			"--home-dir", BreakglassHome(t.Profile), "--shell", nologin, "--expiredate", "1970-01-02", "--comment", "emergency access", c.User)
		if err != nil {
			return fmt.Errorf("%w\nhint: the audit rules name uid %d, so no other account of the image may have it", err, breakglassUID)
		}
		return nil
	}
}

// SealBreakglass takes every way in from the emergency account; again, it
// changes nothing.
func SealBreakglass(ctx context.Context, t *Target) error {
	user := t.Profile.Controls.Breakglass.User
	// In this order: who is in loses root first, then the way back in, then the session.
	if err := removeFile(t.Root, sudoersPath(user)); err != nil {
		return err
	}
	db, err := readUserDB(ctx, t.Run)
	if err != nil {
		return err
	}
	a, there := db.account(user)
	if !there {
		return fmt.Errorf("the emergency account %s is not there", user)
	}
	if err := removeKeys(t.Root, strings.TrimPrefix(a.home, "/")); err != nil {
		return err
	}
	if s, _ := db.shadow(user); s.hash != "!" || s.expire != "1" || a.shell != nologin || len(db.groupsOf(a)) > 0 {
		if _, err := t.Run(ctx, "usermod", "--password", "!", "--expiredate", "1970-01-02", "--shell", nologin, "--groups", "", user); err != nil {
			return err
		}
	}
	if out, err := t.Run(ctx, "sh", "-c", endSessions, "end-sessions", user); err != nil {
		return fmt.Errorf("sessions go on: %w: %s", err, out)
	}
	return nil
}

// UnsealBreakglass opens the emergency account. With a key it may log in by SSH
// with that key; with a password, at the console with that.
func UnsealBreakglass(ctx context.Context, t *Target, key, password string) error {
	c := t.Profile.Controls
	user := c.Breakglass.User
	if _, err := t.Run(ctx, "usermod", "--expiredate", "", "--shell", shell, "--groups", c.SSHD.Group, user); err != nil {
		return err
	}
	// No password is asked for: whoever is here has just been let in, and has no time.
	rule := "# ward: breakglass\n" + user + " ALL=(ALL:ALL) NOPASSWD: ALL\n"
	if err := putSudoers(ctx, t, sudoersPath(user), rule); err != nil {
		return err
	}
	if key != "" {
		return putKeys(ctx, t, user, key+"\n")
	}
	_, err := t.RunInput(ctx, user+":"+password+"\n", "chpasswd")
	return err
}

// checkSeal looks at the account itself. What was written down is only used to
// say who opened it.
func checkSeal(ctx context.Context, m *Machine) (string, error) {
	user := m.Profile.Controls.Breakglass.User
	db, err := readUserDB(ctx, m.Run)
	if err != nil {
		return "", err
	}
	a, there := db.account(user)
	if !there {
		return "there is no account " + user, nil
	}
	var open []string
	s, _ := db.shadow(user)
	if s.usable() {
		open = append(open, "it has a password")
	}
	if s.expire != "1" {
		open = append(open, "it has not expired")
	}
	if a.shell != nologin {
		open = append(open, "it has the shell "+a.shell)
	}
	if a.uid != breakglassUID {
		open = append(open, fmt.Sprintf("its uid is %d, want %d, which the audit rules name", a.uid, breakglassUID))
	}
	if groups := db.groupsOf(a); len(groups) > 0 {
		open = append(open, "it is in "+strings.Join(groups, " "))
	}
	may, err := m.Run(ctx, "sudo", "--list", "--other-user="+user)
	if err != nil {
		return "", err
	}
	if !strings.Contains(may, "is not allowed to run sudo") {
		open = append(open, "it may use sudo")
	}
	keys := a.home + "/.ssh/authorized_keys"
	switch _, err := m.Run(ctx, "stat", "--format=%F", keys); exitCode(err) {
	case 0:
		open = append(open, "it has "+keys)
	case 1:
	default:
		return "", err
	}
	switch out, err := m.Run(ctx, "pgrep", "--list-name", "--uid", strconv.Itoa(a.uid)); exitCode(err) {
	case 0:
		open = append(open, "it runs "+oneLine(out))
	case 1: // pgrep(1): nothing matched
	default:
		return "", err
	}
	if len(open) == 0 {
		return "sealed", nil
	}
	said, err := whoOpened(ctx, m)
	if err != nil {
		return "", err
	}
	return said + ": " + strings.Join(open, ", "), nil
}

func whoOpened(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "cat", "/"+BreakglassState)
	if err != nil {
		return "OPEN, and nobody wrote down why", nil
	}
	uses, err := ParseBreakglass([]byte(out))
	if err != nil {
		return "", err
	}
	u := uses.Open()
	if u == nil {
		return "OPEN, and nobody wrote down why", nil
	}
	return fmt.Sprintf("open until %s, by %s, because: %s", u.Until.UTC().Format(time.RFC3339), u.By, u.Reason), nil
}

// maxBreakglassState limits what is read; a use takes less than 1 KiB.
const maxBreakglassState = 1 << 20

// ParseBreakglass reads the content of BreakglassState.
func ParseBreakglass(data []byte) (*BreakglassUses, error) {
	if len(data) > maxBreakglassState {
		return nil, fmt.Errorf("/%s has %d bytes, more than %d", BreakglassState, len(data), maxBreakglassState)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	var u BreakglassUses
	if err := d.Decode(&u); err != nil {
		return nil, fmt.Errorf("/%s: %w", BreakglassState, err)
	}
	if u.Version != 1 {
		return nil, fmt.Errorf("/%s has version %d, want 1", BreakglassState, u.Version)
	}
	var faults []error
	for i, one := range u.Uses {
		if one.Opened.IsZero() || !one.Until.After(one.Opened) || one.By == "" || one.Reason == "" {
			faults = append(faults, fmt.Errorf("/%s: uses[%d] does not say when, by whom and why", BreakglassState, i))
		}
	}
	return &u, errors.Join(faults...)
}

// checkBreakglassAudit asks the kernel for a rule on the account's commands.
func checkBreakglassAudit(ctx context.Context, m *Machine) (string, error) {
	out, err := m.Run(ctx, "auditctl", "-l")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "execve") && strings.Contains(line, fmt.Sprintf("auid=%d", breakglassUID)) && strings.Contains(line, "key=breakglass") && strings.Contains(line, "always") {
			return "what it does is recorded as breakglass", nil
		}
	}
	return "no audit rule on the commands of its uid", nil
}
