// Package breakglass opens and seals the emergency account (45 CFR
// 164.312(a)(2)(ii)). It is sealed but for the time of an emergency: opening it
// takes a reason, is logged at priority alert before it happens, and ends by
// itself: by a timer, by a reboot, or by `wardctl breakglass close`.
//
// The account may do everything as root. What it does is recorded by audit rules
// on its uid, under the key "breakglass":
//
//	ausearch --input-logs -k breakglass -i
package breakglass

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/syslog"
	"math/big"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"ward/profiles/control"
)

// Timer is the transient unit that seals the account when its time is over.
const Timer = "ward-breakglass-close"

const (
	wardctl   = "/usr/sbin/wardctl"
	lockPath  = "var/lib/ward/.breakglass.lock"
	maxReason = 500  // characters
	minReason = 10   // fewer say nothing
	keepUses  = 1000 // older ones are in the journal
)

// Account is the emergency account of one machine.
type Account struct {
	Target *control.Target
	Now    func() time.Time
	// Alert tells whoever watches the log; it returns once the log has it.
	Alert func(text string) error
	// Who returns the person who asks.
	Who func() string
}

// New returns the emergency account of the machine that it runs on.
func New(t *control.Target) *Account {
	return &Account{Target: t, Now: time.Now, Alert: alert, Who: func() string { return who(t.Root) }}
}

// alert writes to the journal with priority alert; rsyslog sends it on at once.
func alert(text string) error {
	w, err := syslog.New(syslog.LOG_ALERT|syslog.LOG_AUTHPRIV, "ward-breakglass")
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return errors.Join(w.Alert(text), w.Close())
}

// who returns the login that this process descends from. It is the kernel's
// word, which neither su nor sudo changes (pam_loginuid(8)).
func who(root *os.Root) string {
	const unset = 1<<32 - 1
	b, err := root.ReadFile("proc/self/loginuid")
	if err != nil {
		return "root"
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil || uid == unset {
		return "root (no login)"
	}
	passwd, err := root.ReadFile("etc/passwd")
	if err != nil {
		return fmt.Sprintf("uid %d", uid)
	}
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.FormatUint(uid, 10) {
			return f[0]
		}
	}
	return fmt.Sprintf("uid %d", uid)
}

// Request is what somebody asks for who opens the account.
type Request struct {
	Reason string
	For    time.Duration
	Key    string // a line of authorized_keys; empty: a password is made
}

// validate returns every fault of a request.
func (r Request) validate(most time.Duration) error {
	var faults []error
	reason := strings.TrimSpace(r.Reason)
	switch {
	case len(reason) < minReason:
		faults = append(faults, fmt.Errorf("--reason: say why in at least %d characters; it is what a reviewer reads", minReason))
	case len(reason) > maxReason:
		faults = append(faults, fmt.Errorf("--reason: has %d characters, more than %d", len(reason), maxReason))
	case strings.ContainsFunc(reason, unicode.IsControl):
		faults = append(faults, errors.New("--reason: has a line break or another control character"))
	}
	if r.For < time.Minute || r.For > most {
		faults = append(faults, fmt.Errorf("--for: %v is not between 1m and %v, which is the profile's limit", r.For, most))
	}
	if r.Key != "" {
		if _, err := control.ParseKey(strings.TrimSpace(r.Key)); err != nil {
			faults = append(faults, fmt.Errorf("--key: %w", err))
		}
	}
	return errors.Join(faults...)
}

// Open opens the account and returns the use and, when no key was given, the
// password. In this order: it is written down, it is told, its end is arranged,
// and only then it is opened. What fails on the way seals it again.
func (a *Account) Open(ctx context.Context, r Request) (use control.BreakglassUse, password string, err error) {
	if err := r.validate(time.Duration(a.Target.Profile.Controls.Breakglass.MaxOpen)); err != nil {
		return use, "", err
	}
	unlock, err := a.lock()
	if err != nil {
		return use, "", err
	}
	defer unlock()
	uses, err := a.load()
	if err != nil {
		return use, "", err
	}
	if u := uses.Open(); u != nil {
		return use, "", fmt.Errorf("it is open already, until %s, by %s\nhint: wardctl breakglass close", u.Until.UTC().Format(time.RFC3339), u.By)
	}
	key := strings.TrimSpace(r.Key)
	if key == "" {
		if password, err = newPassword(); err != nil {
			return use, "", err
		}
	}
	now := a.Now().UTC().Truncate(time.Second)
	use = control.BreakglassUse{Opened: now, Until: now.Add(r.For), By: a.Who(), Reason: strings.TrimSpace(r.Reason), Key: key}
	uses.Uses = append(uses.Uses, use)
	if err := a.save(uses); err != nil {
		return use, "", err
	}
	err = a.Alert(fmt.Sprintf("emergency account %s is opened by %s until %s, because: %s", a.user(), use.By, use.Until.Format(time.RFC3339), use.Reason))
	if err == nil {
		err = a.startTimer(ctx, r.For)
	}
	if err == nil {
		err = control.UnsealBreakglass(ctx, a.Target, key, password)
	}
	if err != nil {
		// The one who asked may have gone; the seal is not theirs to cancel.
		return use, "", errors.Join(fmt.Errorf("not opened: %w", err), a.seal(context.WithoutCancel(ctx), uses, "ward, since it could not be opened"))
	}
	return use, password, nil
}

// Close seals the account, whoever opened it, and also when nothing says that
// it is open: what somebody did to it by hand is undone.
func (a *Account) Close(ctx context.Context, by string) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	uses, err := a.load()
	if err != nil {
		// A state that cannot be read must not keep the account open.
		return errors.Join(err, control.SealBreakglass(ctx, a.Target))
	}
	return a.seal(ctx, uses, by)
}

func (a *Account) seal(ctx context.Context, uses *control.BreakglassUses, by string) error {
	if err := control.SealBreakglass(ctx, a.Target); err != nil {
		return errors.Join(fmt.Errorf("seal the emergency account %s: %w", a.user(), err), a.Alert("emergency account "+a.user()+" could NOT be sealed: "+err.Error()))
	}
	// The timer is not there after it has run, or when it was never started.
	if _, err := a.Target.Run(ctx, "systemctl", "stop", Timer+".timer"); err != nil {
		a.Target.Log.Debug("timer of the emergency account", "err", err)
	}
	u := uses.Open()
	if u == nil {
		return nil
	}
	u.Closed, u.ClosedBy = a.Now().UTC().Truncate(time.Second), by
	if err := a.save(uses); err != nil {
		return err
	}
	return a.Alert(fmt.Sprintf("emergency account %s is sealed by %s; it was opened by %s at %s", a.user(), by, u.By, u.Opened.Format(time.RFC3339)))
}

// startTimer arranges the end. It counts on the monotonic clock, so that setting
// the clock back does not put it off. A seal that fails is tried again.
func (a *Account) startTimer(ctx context.Context, after time.Duration) error {
	_, err := a.Target.Run(ctx, "systemd-run", "--unit="+Timer, "--description=ward: seal the emergency account", "--collect",
		"--on-active="+strconv.Itoa(int(after.Seconds())), "--timer-property=AccuracySec=1s",
		"--property=Restart=on-failure", "--property=RestartSec=10s",
		wardctl, "breakglass", "close", "--expired")
	return err
}

// Uses returns what was written down.
func (a *Account) Uses() (*control.BreakglassUses, error) { return a.load() }

func (a *Account) user() string { return a.Target.Profile.Controls.Breakglass.User }

func (a *Account) load() (*control.BreakglassUses, error) {
	data, err := a.Target.Root.ReadFile(control.BreakglassState)
	if errors.Is(err, fs.ErrNotExist) {
		return &control.BreakglassUses{Version: 1}, nil
	}
	if err != nil {
		return nil, err
	}
	return control.ParseBreakglass(data)
}

func (a *Account) save(uses *control.BreakglassUses) error {
	if n := len(uses.Uses); n > keepUses {
		uses.Uses = uses.Uses[n-keepUses:]
	}
	data, err := json.MarshalIndent(uses, "", "  ")
	if err != nil {
		return err
	}
	return control.WriteFile(a.Target.Root, control.BreakglassState, string(data)+"\n", 0o600)
}

// lock keeps opening and closing apart.
func (a *Account) lock() (unlock func(), err error) {
	root := a.Target.Root
	if err := root.MkdirAll(path.Dir(lockPath), 0o755); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(lockPath, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock /%s: %w", lockPath, err)
	}
	return func() { f.Close() }, nil
}

// letters are what a person in a hurry reads and types without a mistake: no 0
// beside O, no 1 beside l and I.
const letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"

// newPassword returns 25 random letters in groups of five: 145 bits. It has
// capitals, small letters and digits, and none three times in a row, as the rules
// for passwords ask.
func newPassword() (string, error) {
	for {
		var b strings.Builder
		for i := range 25 {
			if i > 0 && i%5 == 0 {
				b.WriteByte('-')
			}
			n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
			if err != nil {
				return "", err
			}
			b.WriteByte(letters[n.Int64()])
		}
		if p := b.String(); fits(p) {
			return p, nil
		}
	}
}

func fits(p string) bool {
	for i := 1; i < len(p); i++ {
		if p[i] == p[i-1] {
			return false
		}
	}
	return strings.ContainsFunc(p, unicode.IsUpper) && strings.ContainsFunc(p, unicode.IsLower) && strings.ContainsFunc(p, unicode.IsDigit)
}
