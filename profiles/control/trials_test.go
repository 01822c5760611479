package control

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

// Each trial has to be bad in its own way only, whatever the profile asks for:
// a password that is refused for its length proves nothing about the dictionary.
func TestPasswordTrials(t *testing.T) {
	for _, c := range []profiles.Passwords{
		{MinLen: 14, MinClass: 3, MaxRepeat: 2, GecosCheck: true, DictCheck: true},
		{MinLen: 8, MinClass: 4, MaxRepeat: 1, GecosCheck: true, DictCheck: true},
		{MinLen: 19, MinClass: 2, MaxRepeat: 10, DictCheck: true},
		{MinLen: 128, MinClass: 0, MaxRepeat: 0, GecosCheck: true, DictCheck: true},
	} {
		trials := passwordTrials(c)
		good := 0
		for _, x := range trials {
			long := len(x.password) >= c.MinLen
			if short := strings.HasPrefix(x.name, "too short"); short == long {
				t.Errorf("%+v: %q has %d characters", c, x.name, len(x.password))
			}
			if many := classes(x.password) >= c.MinClass; many == (x.name == "too few kinds of characters") {
				t.Errorf("%+v: %q has %d kinds of characters", c, x.name, classes(x.password))
			}
			if c.MaxRepeat > 0 {
				if often := longestRun(x.password) > c.MaxRepeat; often != (x.name == "one character again and again") {
					t.Errorf("%+v: %q repeats a character %d times", c, x.name, longestRun(x.password))
				}
			}
			if named := strings.Contains(x.password, probeName); named != (x.name == "the person's name") {
				t.Errorf("%+v: %q is %q", c, x.name, x.password)
			}
			if strings.Contains(x.password, "'") {
				t.Errorf("%+v: %q has a quote, which ends the shell's", c, x.name)
			}
			if x.because == "" {
				good++
			}
		}
		if good != 1 {
			t.Errorf("%+v: %d trials are good ones, want 1", c, good)
		}
	}
}

func classes(s string) int {
	n := 0
	for _, set := range []string{"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"} {
		if strings.ContainsAny(s, set) {
			n++
		}
		s = strings.Map(func(r rune) rune {
			if strings.ContainsRune(set, r) {
				return -1
			}
			return r
		}, s)
	}
	if s != "" {
		n++
	}
	return n
}

func longestRun(s string) int {
	longest, n := 0, 0
	for i := range s {
		if i > 0 && s[i] == s[i-1] {
			n++
		} else {
			n = 1
		}
		longest = max(longest, n)
	}
	return longest
}

func TestTally(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := tally(now, []int{0, 1800})
	if len(b) != 128 {
		t.Fatalf("two failures take %d bytes, want 128", len(b))
	}
	for i, want := range []uint64{1_800_000_000, 1_799_998_200} {
		r := b[64*i : 64*i+64]
		if got := binary.NativeEndian.Uint64(r[56:]); got != want {
			t.Errorf("failure %d is at %d, want %d", i, got, want)
		}
		if got := binary.NativeEndian.Uint16(r[54:]); got != 1 {
			t.Errorf("failure %d has the status %d, want 1 (valid)", i, got)
		}
	}
}

func TestLockoutTrials(t *testing.T) {
	for _, c := range []profiles.Lockout{
		{Deny: 5, Interval: 900, UnlockTime: 1800, Root: true},
		{Deny: 1, Interval: 900, UnlockTime: 60},
		{Deny: 3, Interval: 60, UnlockTime: 0, Root: true},
	} {
		trials := lockoutTrials(c)
		users := make(map[string]bool)
		opened, locked := 0, 0
		for _, x := range trials {
			if users[x.user] || x.user == probeUser+"1" {
				t.Errorf("%+v: %q shares the account %s with another trial", c, x.name, x.user)
			}
			users[x.user] = true
			// What pam_faillock does, said again in a line: it counts what lies
			// within the interval before the last failure, and then looks at the last.
			last := x.ages[len(x.ages)-1]
			n := 0
			for _, age := range x.ages {
				if age-last < c.Interval {
					n++
				}
			}
			isLocked := n >= c.Deny && (c.UnlockTime == 0 || last <= c.UnlockTime) && (x.user != "root" || c.Root)
			if isLocked == x.opened {
				t.Errorf("%+v: %q with failures %v ago: opened is %v", c, x.name, x.ages, x.opened)
			}
			if x.opened {
				opened++
			} else {
				locked++
			}
		}
		if opened+locked < 2 {
			t.Errorf("%+v: %d trials", c, opened+locked)
		}
		if !c.Root && users["root"] && locked != 0 && c.UnlockTime <= early {
			t.Errorf("%+v: root is locked in a trial", c)
		}
	}
}

// The scripts run as root on the machine; the shell has to read them at least.
func TestScriptsAreShell(t *testing.T) {
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"passwords": asideScript + passwordScript(passwordTrials(p.Controls.Passwords)),
		"lockout":   asideScript + lockoutScript(p.Controls.Lockout, time.Now()),
		"motd":      asideScript + motdScript,
		"mfa":       asideScript + mfaScript([]byte("12345678901234567890"), time.Now()),
		"sessions":  endSessions,
		"tmout":     tmoutProfile(900),
	} {
		if strings.Contains(script, "%!") {
			t.Errorf("%s: a format that does not fit: %s", name, script)
		}
		c := exec.Command("sh", "-n")
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("sh -n %s: %v: %s", name, err, out)
		}
	}
}

// A profile read twice in one shell must not end with an error.
func TestTMOUTProfile(t *testing.T) {
	profile := tmoutProfile(900)
	for _, c := range []struct{ name, script, want string }{
		{"once", profile + "echo $TMOUT", "900\n"},
		{"twice", profile + profile + "echo $TMOUT", "900\n"},
		{"readonly", profile + "(unset TMOUT) 2>/dev/null || echo kept", "kept\n"},
		{"inherited", "export TMOUT=5\n" + profile + "echo $TMOUT", "900\n"},
		{"exported", profile + "sh -c 'echo $TMOUT'", "900\n"},
	} {
		out, err := exec.Command("bash", "-e", "-c", c.script).CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, out, err, c.want)
		}
	}
}

func TestKnownTo(t *testing.T) {
	names := []string{"mlkem768x25519-sha256", "sntrup761x25519-sha512@openssh.com", "curve25519-sha256"}
	for _, c := range []struct {
		openssh [2]int
		want    string
	}{
		{[2]int{9, 2}, "[sntrup761x25519-sha512@openssh.com curve25519-sha256]"},
		{[2]int{10, 0}, "[mlkem768x25519-sha256 sntrup761x25519-sha512@openssh.com curve25519-sha256]"},
		{[2]int{8, 0}, "[curve25519-sha256]"},
	} {
		if got := fmt.Sprint(knownTo(distro.Release{OpenSSH: c.openssh}, names)); got != c.want {
			t.Errorf("knownTo(OpenSSH %v) = %s, want %s", c.openssh, got, c.want)
		}
	}
	if names[0] != "mlkem768x25519-sha256" {
		t.Error("knownTo changed the profile's own list")
	}
}

// The vectors of RFC 6238 appendix B, of which these are the last six digits.
func TestTOTP(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := TOTP(secret, time.Unix(at, 0)); got != want {
			t.Errorf("TOTP at %d = %s, want %s", at, got, want)
		}
	}
}

func TestWithMFA(t *testing.T) {
	const line = "auth required " + mfaModule + "\n"
	const stock = "# PAM\n@include common-auth\naccount required pam_nologin.so\n"
	got, err := withMFA(stock)
	if err != nil || !strings.Contains(got, line) || strings.Contains(got, "common-auth") || !strings.Contains(got, "pam_nologin") {
		t.Errorf("withMFA() = %q, %v", got, err)
	}
	if again, err := withMFA(got); err != nil || again != got {
		t.Errorf("again: %q, %v, want it unchanged", again, err)
	}
	for _, text := range []string{"", "account required pam_nologin.so\n", stock + line, "@include common-auth\n@include common-auth\n"} {
		if got, err := withMFA(text); err == nil || !strings.Contains(err.Error(), "lines ask for the password, want one") {
			t.Errorf("withMFA(%q) = %q, %v, want an error about the lines", text, got, err)
		}
	}
}

func TestPAMStyleThatIsNotKnown(t *testing.T) {
	root := openRoot(t, t.TempDir())
	err := applyPAM(t.Context(), &Target{Root: root, Release: distro.Release{ID: "x", Version: "1", PAMStyle: "hand"}}, lockoutParts)
	if err == nil || !strings.Contains(err.Error(), `PAM of x-1 is put together by "hand"`) {
		t.Errorf("applyPAM() = %v, want an error that names the style", err)
	}
}
