package control

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"time"

	"ward/images/distro"
	"ward/profiles"
)

// MFADir has the secret of each person who is enrolled, in a file of their name
// that only root may read. In the home directory, where the module looks unless it
// is told otherwise, whoever has the key could read the secret and change it.
const MFADir = "var/lib/ward/mfa"

// mfaModule asks for the code. There is no nullok: who is not enrolled does not
// get in. user=root has it read and write the file as root.
const mfaModule = "pam_google_authenticator.so secret=/" + MFADir + "/${USER} user=root allowed_perm=0600"

// MFA is that a key alone lets nobody in over SSH. The profile switches it on.
func MFA(p *profiles.Profile, r distro.Release) Control {
	methods := sshdGroup{keywords: []keyword{
		{"AuthenticationMethods", "publickey,keyboard-interactive"},
		{"KbdInteractiveAuthentication", "yes"},
	}}
	return Control{
		ID:    "mfa",
		Title: "Over SSH a person shows a key and a one-time password",
		Why:   "A key is a file, and a copied file is not missed.",
		Refs:  []string{"45 CFR 164.312(d)", "NIST 800-53 IA-2(1)", "NIST 800-53 IA-2(2)"},
		Settings: []Setting{
			// The keywords are in the file of the control sshd.
			setting{name: "both are asked for", want: methods.want(), check: methods.check},
			setting{name: "one-time passwords", apply: applyMFA, want: mfaWant, check: checkMFA},
		},
	}
}

// applyMFA puts the module in the place of the password in sshd's PAM stack,
// which is a file without drop-ins.
func applyMFA(_ context.Context, t *Target) error {
	const file = "etc/pam.d/sshd"
	old, err := t.Root.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := withMFA(string(old))
	if err != nil {
		return fmt.Errorf("/%s: %w", file, err)
	}
	if err := t.Root.MkdirAll(MFADir, 0o700); err != nil {
		return err
	}
	if err := t.Root.Chmod(MFADir, 0o700); err != nil {
		return err
	}
	return writeFile(t.Root, file, text, 0o644)
}

func withMFA(text string) (string, error) {
	const line = "auth required " + mfaModule
	var b strings.Builder
	done := 0
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		switch {
		case strings.TrimSuffix(l, "\n") == line:
			done++
		case len(f) == 2 && f[0] == "@include" && f[1] == "common-auth", // Debian's
			len(f) == 3 && f[0] == "auth" && f[2] == "password-auth": // authselect's
			done++
			l = "# ward: mfa. sshd has seen the key; this is what is asked for beside it.\n" + line + "\n"
		}
		b.WriteString(l)
	}
	if done != 1 {
		return "", fmt.Errorf("%d lines ask for the password, want one (@include common-auth, auth substack password-auth)", done)
	}
	return b.String(), nil
}

const mfaWant = "the right code: in; the same again: refused; a wrong one: refused; not enrolled: refused"

// mfaScript takes the auth part of sshd's PAM stack for su, so that codes can be
// tried without a key.
func mfaScript(secret []byte, now time.Time) string {
	right := TOTP(secret, now)
	wrong := []byte(right)
	wrong[0] = '0' + (wrong[0]-'0'+5)%10
	return fmt.Sprintf(`
mkdir -p /%[1]s && mount -t tmpfs -o mode=0700,size=1m ward-probe /%[1]s || exit 91
{ grep -E '^(auth|@include[[:space:]]+common-auth)' /etc/pam.d/sshd; echo 'account required pam_permit.so'; echo 'session required pam_permit.so'; } >/tmp/su && cat /tmp/su >/etc/pam.d/su || exit 91
for i in 1 2 3; do
	printf '%%s:x:%%d:65534::/:/bin/sh\n' "%[2]s$i" "$((59000 + i))" >>/etc/passwd
	printf '%%s:%%s:1::::::\n' "%[2]s$i" '*' >>/etc/shadow
done
printf '%%s\n' '%[2]s-asks:x:%[3]d:65534::/:/bin/sh' >>/etc/passwd
printf '%%s\n' '%[2]s-asks:*:1::::::' >>/etc/shadow
umask 077
for i in 1 2; do
	cat >/%[1]s/%[2]s$i <<'END'
%[4]sEND
	chmod 600 /%[1]s/%[2]s$i
done
ask() { printf '%%s\n' "$2" | LC_ALL=C %[5]s su -s /bin/sh "$1" -c 'echo is in' 2>&1; }
say right $(ask %[2]s1 %[6]s)
say same $(ask %[2]s1 %[6]s)
say wrong $(ask %[2]s2 %[7]s)
say none $(ask %[2]s3 %[6]s)
`, MFADir, probeUser, probeHelperUID, MFASecret(secret, nil), asPerson, right, wrong)
}

func checkMFA(ctx context.Context, m *Machine) (string, error) {
	secret := make([]byte, 20)
	rand.Read(secret)
	lines, err := aside(ctx, m, "mfa", mfaScript(secret, time.Now()))
	if err != nil {
		return "", err
	}
	said := make(map[string]string)
	for _, line := range lines {
		key, text, _ := strings.Cut(line, " ")
		said[key] = text
	}
	var words []string
	for _, q := range []struct{ key, name string }{{"right", "the right code"}, {"same", "the same again"}, {"wrong", "a wrong one"}, {"none", "not enrolled"}} {
		outcome := "refused"
		if strings.Contains(said[q.key], "is in") {
			outcome = "in"
		}
		words = append(words, q.name+": "+outcome)
	}
	return strings.Join(words, "; "), nil
}

// MFASecret is the file that pam_google_authenticator reads for one person: the
// secret, the rules, and codes that each work once.
func MFASecret(secret []byte, scratch []string) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret) + "\n" +
		"\" RATE_LIMIT 3 30\n\" WINDOW_SIZE 3\n\" DISALLOW_REUSE\n\" TOTP_AUTH\n" +
		strings.Join(append(scratch, ""), "\n")
}

// NewScratch returns n codes of eight digits that each work once.
func NewScratch(n int) ([]string, error) {
	codes := make([]string, n)
	for i := range codes {
		// The module takes 8 digits of which the first is not 0.
		v, err := rand.Int(rand.Reader, big.NewInt(90_000_000))
		if err != nil {
			return nil, err
		}
		codes[i] = fmt.Sprintf("%08d", v.Int64()+10_000_000)
	}
	return codes, nil
}

// TOTP is the code of six digits for a moment, RFC 6238 with the defaults that
// every app has: SHA-1, 30 seconds.
func TOTP(secret []byte, now time.Time) string {
	h := hmac.New(sha1.New, secret)
	binary.Write(h, binary.BigEndian, uint64(now.Unix()/30))
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[at:])&0x7fffffff%1_000_000)
}
