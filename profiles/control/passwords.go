package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ward/images/distro"
	"ward/profiles"
)

// Passwords is that a bad password cannot be set.
func Passwords(p *profiles.Profile, r distro.Release) Control {
	c := p.Controls.Passwords
	return Control{
		ID:    "passwords",
		Title: "A new password is long, mixed, not guessable and not an old one",
		Why:   "A password that a list or a look at the person's name gives away protects nothing, and sudo and the console ask for it.",
		Refs: []string{
			"45 CFR 164.308(a)(5)(ii)(D)", // password management
			"45 CFR 164.312(d)",
			"NIST 800-53 IA-5(1)",
		},
		Settings: []Setting{
			setting{name: "new passwords", apply: applyPasswords(c), want: passwordsWant(passwordTrials(c)), check: checkPasswords(c)},
		},
	}
}

// pwquality holds for root too, which would otherwise only be warned
// (pam_pwquality(8), enforce_for_root).
func pwquality(c profiles.Passwords) string {
	return fmt.Sprintf(`# ward: passwords
minlen = %d
minclass = %d
maxrepeat = %d
gecoscheck = %d
dictcheck = %d
enforce_for_root
`, c.MinLen, c.MinClass, c.MaxRepeat, digit(c.GecosCheck), digit(c.DictCheck))
}

func digit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// passwordParts stand in for the distribution's part "unix". They differ from it
// in two words: nullok is not there, so an empty password opens nothing; and
// no_pass_expiry is, so that a person who has only a key is not shut out when the
// password that they do not have expires (pam_unix(8): it counts only where
// something else than the password was shown).
func passwordParts(c profiles.Passwords) []pamPart {
	parts := []pamPart{{"ward-unix", `Name: ward: Unix authentication, without empty passwords
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so
Account-Type: Primary
Account:
	[success=end new_authtok_reqd=done default=ignore]	pam_unix.so no_pass_expiry
Account-Initial:
	[success=end new_authtok_reqd=done default=ignore]	pam_unix.so no_pass_expiry
Session-Type: Additional
Session:
	required	pam_unix.so
Session-Initial:
	required	pam_unix.so
Password-Type: Primary
Password:
	[success=end default=ignore]	pam_unix.so obscure use_authtok try_first_pass yescrypt
Password-Initial:
	[success=end default=ignore]	pam_unix.so obscure yescrypt
`}}
	if c.Remember > 0 {
		parts = append(parts, pamPart{"ward-history", fmt.Sprintf(`Name: ward: no password that was used before
Default: yes
Priority: 512
Password-Type: Primary
Password:
	requisite	pam_pwhistory.so remember=%d use_authtok enforce_for_root
`, c.Remember)})
	}
	return parts
}

func applyPasswords(c profiles.Passwords) func(context.Context, *Target) error {
	return func(ctx context.Context, t *Target) error {
		if err := writeFile(t.Root, "etc/security/pwquality.conf.d/99-ward-passwords.conf", pwquality(c), 0o644); err != nil {
			return err
		}
		return applyPAM(ctx, t, passwordParts(c), "unix")
	}
}

// A passwordTrial is one password that somebody tries to set.
type passwordTrial struct {
	name     string
	password string
	byRoot   bool
	because  string // is in what passwd(1) then says; empty when it has to be accepted
}

// strong has all four kinds of characters, none of them twice in a row, and no word.
const strong = "Kq7-vTz9#mWp2xRd5!gHt8&nLr6sJf3%bYc4+Ne"

// passwordTrials are passwords that are bad in one way each. A rule that the
// profile leaves out has no trial.
func passwordTrials(c profiles.Passwords) []passwordTrial {
	length := max(c.MinLen, 8)
	trials := []passwordTrial{
		{name: "too short", password: cycle(strong, c.MinLen-1), because: fmt.Sprintf("shorter than %d", c.MinLen)},
		{name: "too short, set by root", password: cycle(strong, c.MinLen-1), byRoot: true, because: fmt.Sprintf("shorter than %d", c.MinLen)},
	}
	if c.MinClass > 1 {
		few := cycle(strings.Map(kinds(c.MinClass-1), strong), length+2)
		trials = append(trials, passwordTrial{name: "too few kinds of characters", password: few, because: "character classes"})
	}
	if c.MaxRepeat > 0 {
		trials = append(trials, passwordTrial{name: "one character again and again", password: cycle(strong, length) + strings.Repeat("x", c.MaxRepeat+1), because: "same characters consecutively"})
	}
	if c.GecosCheck {
		trials = append(trials, passwordTrial{name: "the person's name", password: probeName + cycle(strong, length), because: "real name"})
	}
	// cracklib looks for a word with something around it, so a longer word than
	// this one cannot be made by padding.
	const word = "Straightforwardly1!"
	if c.DictCheck && c.MinLen <= len(word) {
		trials = append(trials, passwordTrial{name: "a word of the dictionary", password: word, because: "dictionary"})
	}
	return append(trials, passwordTrial{name: "a good one", password: cycle(strong, length+3)})
}

const probeName = "Hutchinson" // part of the throw-away person's full name

// kinds returns a filter that keeps n kinds of characters: lower case, upper
// case, digits.
func kinds(n int) func(rune) rune {
	return func(r rune) rune {
		kind := 4
		switch {
		case 'a' <= r && r <= 'z':
			kind = 1
		case 'A' <= r && r <= 'Z':
			kind = 2
		case '0' <= r && r <= '9':
			kind = 3
		}
		if kind > n {
			return -1
		}
		return r
	}
}

// cycle returns the first n characters of s, s, s ...
func cycle(s string, n int) string { return strings.Repeat(s, max(n, 0)/len(s)+1)[:max(n, 0)] }

func passwordsWant(trials []passwordTrial) string {
	var words []string
	for _, t := range trials {
		if t.because == "" {
			words = append(words, t.name+": accepted")
		} else {
			words = append(words, t.name+": refused")
		}
	}
	return strings.Join(append(words, "an old one again: refused", "an empty one: does not log in"), "; ")
}

// passwordScript makes one throw-away account for each trial, so that they can
// be tried at the same time: passwd(1) waits two seconds after each refusal.
func passwordScript(trials []passwordTrial) string {
	var b strings.Builder
	b.WriteString(quietSu)
	fmt.Fprintf(&b, `old='%s'
hash='%s'
account() {
	printf '%%s:x:%%d:65534:Margaret %s:/:/bin/sh\n' "%s$1" "$((59000 + $1))" >>/etc/passwd
	printf '%%s:%%s:1::::::\n' "%s$1" "$2" >>/etc/shadow
}
own() { printf '%%s\n' "$2" "$3" "$3" | LC_ALL=C setpriv --reuid $((59000 + $1)) --regid 65534 --clear-groups passwd 2>&1; }
root() { printf '%%s\n' "$2" "$2" | LC_ALL=C passwd "%s$1" 2>&1; }
`, probePassword, probeHash, probeName, probeUser, probeUser, probeUser)
	for i := range trials {
		fmt.Fprintf(&b, "account %d \"$hash\"\n", i+1)
	}
	empty := len(trials) + 1
	fmt.Fprintf(&b, "account %d ''\n", empty)
	for i, t := range trials {
		if t.byRoot {
			fmt.Fprintf(&b, "root %d '%s' >/tmp/said.%d &\n", i+1, t.password, i+1)
		} else {
			fmt.Fprintf(&b, "own %d \"$old\" '%s' >/tmp/said.%d &\n", i+1, t.password, i+1)
		}
	}
	fmt.Fprintf(&b, "{ echo | %s su -s /bin/sh %s%d -c 'echo is in' 2>&1; } >/tmp/said.empty &\nwait\n", asPerson, probeUser, empty)
	// The good one is set by now, so the old one is used up.
	good := slices.IndexFunc(trials, func(t passwordTrial) bool { return t.because == "" })
	fmt.Fprintf(&b, "own %d '%s' \"$old\" >/tmp/said.old\n", good+1, trials[good].password)
	for i := range trials {
		fmt.Fprintf(&b, "say %d $(cat /tmp/said.%d)\n", i+1, i+1)
	}
	b.WriteString("say old $(cat /tmp/said.old)\nsay empty $(cat /tmp/said.empty)\n")
	return b.String()
}

func checkPasswords(c profiles.Passwords) func(context.Context, *Machine) (string, error) {
	trials := passwordTrials(c)
	return func(ctx context.Context, m *Machine) (string, error) {
		lines, err := aside(ctx, m, "passwords", passwordScript(trials))
		if err != nil {
			return "", err
		}
		said := make(map[string]string)
		for _, line := range lines {
			key, text, _ := strings.Cut(line, " ")
			said[key] = text
		}
		var words []string
		judge := func(name, text, because string) {
			accepted := strings.Contains(text, "updated successfully")
			switch {
			case accepted:
				words = append(words, name+": accepted")
			case because != "" && strings.Contains(text, because):
				words = append(words, name+": refused")
			default:
				words = append(words, fmt.Sprintf("%s: refused for another reason: %.120s", name, text))
			}
		}
		for i, t := range trials {
			judge(t.name, said[fmt.Sprint(i+1)], t.because)
		}
		judge("an old one again", said["old"], "already used")
		if strings.Contains(said["empty"], "is in") {
			words = append(words, "an empty one: logs in")
		} else {
			words = append(words, "an empty one: does not log in")
		}
		return strings.Join(words, "; "), nil
	}
}
