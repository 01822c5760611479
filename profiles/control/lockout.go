package control

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

// Lockout is that guessing a password ends after a few tries.
//
// pam_tally2, which many guides name, does not exist since Linux-PAM 1.5; a
// stack with it lets nobody in. `faillock --user NAME --reset` opens an account
// before its time; so does a reboot, since the tally is in /run.
func Lockout(p *profiles.Profile, r distro.Release) Control {
	c := p.Controls.Lockout
	return Control{
		ID:    "lockout",
		Title: "An account is locked for a while after some failed logins, and does not say so",
		Why:   "Without an end to the tries every password is found, given time.",
		Refs: []string{
			"45 CFR 164.308(a)(5)(ii)(C)", // log-in monitoring
			"45 CFR 164.312(d)",
			"NIST 800-53 AC-7",
		},
		Settings: []Setting{
			setting{name: "failed logins", apply: applyLockout(c), want: lockoutWant(c), check: checkLockout(c)},
			setting{name: "every door", want: everyDoor, check: checkDoors},
		},
	}
}

func faillockConf(c profiles.Lockout) string {
	text := fmt.Sprintf(`# ward: lockout
deny = %d
fail_interval = %d
unlock_time = %d
silent
`, c.Deny, c.Interval, c.UnlockTime)
	if c.Root {
		text += fmt.Sprintf("even_deny_root\nroot_unlock_time = %d\n", c.UnlockTime)
	}
	return text
}

// lockoutParts are joined around the module that looks at the password. Both are
// "required" and not "requisite" or "die": a locked account is asked for its
// password and answered like any wrong one, so that nobody can tell from outside
// whether an account is locked, or whether the password was right.
var lockoutParts = []pamPart{
	{"ward-lockout", `Name: ward: an account that is locked after failed logins
Default: yes
Priority: 1024
Auth-Type: Primary
Auth:
	required	pam_faillock.so preauth
Account-Type: Primary
Account:
	required	pam_faillock.so
`},
	{"ward-lockout-count", `Name: ward: count failed logins
Default: yes
Priority: 0
Auth-Type: Primary
Auth:
	required	pam_faillock.so authfail
`},
}

func applyLockout(c profiles.Lockout) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		if err := writeFile(t.Root, "etc/security/faillock.conf", faillockConf(c), 0o644); err != nil {
			return err
		}
		return applyPAM(ctx, t, lockoutParts)
	}
}

// early and late are how far from the end of the lock, in seconds, it is looked at.
const early, late = 120, 60

// A lockoutTrial is a tally of failed logins, and what the right password does then.
type lockoutTrial struct {
	name   string
	user   string
	ages   []int // seconds since each failure
	opened bool
}

func lockoutTrials(c profiles.Lockout) []lockoutTrial {
	same := func(n, age int) []int {
		ages := make([]int, n)
		for i := range ages {
			ages[i] = age
		}
		return ages
	}
	var trials []lockoutTrial
	if c.Deny > 1 {
		trials = append(trials,
			lockoutTrial{fmt.Sprintf("after %d failures", c.Deny-1), probeUser + "2", same(c.Deny-1, 1), true},
			lockoutTrial{fmt.Sprintf("after %d, of which one in the last %d s", c.Deny, c.Interval), probeUser + "3", append(same(c.Deny-1, c.Interval+late), 1), true})
	}
	if c.UnlockTime > 0 {
		if c.UnlockTime > early {
			trials = append(trials, lockoutTrial{fmt.Sprintf("%d s after the last of %d", c.UnlockTime-early, c.Deny), probeUser + "4", same(c.Deny, c.UnlockTime-early), false})
		}
		trials = append(trials, lockoutTrial{fmt.Sprintf("%d s after the last of %d", c.UnlockTime+late, c.Deny), probeUser + "5", same(c.Deny, c.UnlockTime+late), true})
	} else {
		const year = 365 * 24 * 3600
		trials = append(trials, lockoutTrial{fmt.Sprintf("a year after the last of %d", c.Deny), probeUser + "4", same(c.Deny, year), false})
	}
	return append(trials, lockoutTrial{fmt.Sprintf("root after %d", c.Deny), "root", same(c.Deny, 1), !c.Root})
}

func lockoutWant(c profiles.Lockout) string {
	words := []string{
		"the right password: in",
		fmt.Sprintf("after %d wrong ones: %d counted, locked, said like a wrong one", c.Deny, c.Deny),
		"after faillock --reset: in",
	}
	for _, t := range lockoutTrials(c) {
		words = append(words, t.name+": "+inOrLocked(t.opened))
	}
	return strings.Join(words, "; ")
}

func inOrLocked(in bool) string {
	if in {
		return "in"
	}
	return "locked"
}

// tally is what pam_faillock keeps for an account: one record for each failure,
// 52 bytes of source, 2 reserved, 2 of status (1: counts), 8 of time (faillock.h of
// Linux-PAM 1.4 and later).
func tally(now time.Time, ages []int) []byte {
	var b []byte
	for _, age := range ages {
		record := make([]byte, 64)
		copy(record, "ward")
		binary.NativeEndian.PutUint16(record[54:], 1)
		binary.NativeEndian.PutUint64(record[56:], uint64(now.Unix()-int64(age)))
		b = append(b, record...)
	}
	return b
}

// lockoutScript really fails to log in, as one throw-away account, as often as
// is allowed. What lies half an hour apart is not waited for: other accounts have
// tallies with times in the past. Accounts are apart, so that all this can go on at
// the same time: su waits after each refusal.
func lockoutScript(c profiles.Lockout, now time.Time) string {
	var b strings.Builder
	b.WriteString(quietSu)
	fmt.Fprintf(&b, `good='%[4]s'
hash='%[5]s'
sed -i "s|^root:[^:]*:|root:$hash:|" /etc/shadow || exit 91
for i in 1 2 3 4 5; do
	printf '%%s:x:%%d:65534::/:/bin/sh\n' "%[1]s$i" "$((59000 + i))" >>/etc/passwd
	printf '%%s:%%s:1::::::\n' "%[1]s$i" "$hash" >>/etc/shadow
done
printf '%%s\n' '%[1]s-asks:x:%[2]d:65534::/:/bin/sh' >>/etc/passwd
printf '%%s\n' '%[1]s-asks:*:1::::::' >>/etc/shadow
ask() { printf '%%s\n' "$2" | LC_ALL=C %[3]s su -s /bin/sh "$1" -c 'echo is in' 2>&1; }
`, probeUser, probeHelperUID, asPerson, probePassword, probeHash)
	trials := lockoutTrials(c)
	for i, t := range trials {
		fmt.Fprintf(&b, "echo %s | base64 -d >/run/faillock/%s\n", base64.StdEncoding.EncodeToString(tally(now, t.ages)), t.user)
		fmt.Fprintf(&b, "ask %s \"$good\" >/tmp/said.%d &\n", t.user, i+1)
	}
	fmt.Fprintf(&b, `u=%s1
say fresh $(ask $u "$good")
i=0
while [ $i -lt %d ]; do ask $u wrong-$i >/tmp/wrong.$i & i=$((i + 1)); done
wait
say counted $(faillock --user $u | grep -cE ' V *$')
say wrong $(cat /tmp/wrong.0)
ask $u wrong-again >/tmp/wrong.again &
say locked $(ask $u "$good")
wait
say again $(cat /tmp/wrong.again)
faillock --user $u --reset
say reset $(ask $u "$good")
`, probeUser, c.Deny)
	for i := range trials {
		fmt.Fprintf(&b, "say %d $(cat /tmp/said.%d)\n", i+1, i+1)
	}
	return b.String()
}

func checkLockout(c profiles.Lockout) func(context.Context, *Machine) (string, error) {
	return func(ctx context.Context, m *Machine) (string, error) {
		lines, err := aside(ctx, m, "lockout", lockoutScript(c, time.Now()))
		if err != nil {
			return "", err
		}
		said := make(map[string]string)
		for _, line := range lines {
			key, text, _ := strings.Cut(line, " ")
			said[key] = text
		}
		in := func(key string) string { return inOrLocked(strings.Contains(said[key], "is in")) }
		manner := "said like a wrong one"
		if said["locked"] != said["wrong"] || said["again"] != said["wrong"] {
			manner = fmt.Sprintf("said as %q and %q, a wrong one as %q", said["locked"], said["again"], said["wrong"])
		}
		words := []string{
			"the right password: " + in("fresh"),
			fmt.Sprintf("after %d wrong ones: %s counted, %s, %s", c.Deny, said["counted"], in("locked"), manner),
			"after faillock --reset: " + in("reset"),
		}
		for i, t := range lockoutTrials(c) {
			words = append(words, t.name+": "+in(fmt.Sprint(i+1)))
		}
		return strings.Join(words, "; "), nil
	}
}
