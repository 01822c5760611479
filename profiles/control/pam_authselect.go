package control

import (
	"context"
	"fmt"
	"strings"

	"ward/profiles"
)

// authselectProfile is ward's own profile of authselect(8), the whole PAM stack of
// the machine. The tool puts its files in the place of /etc/pam.d/system-auth and
// the like, and checks that nobody has changed them since.
const authselectProfile = "etc/authselect/custom/ward/"

// systemAuth is the stack of everybody who shows a password, as authselect's own
// profiles have it but for three things: nullok is not there, so an empty password
// opens nothing; pam_faillock is "required" on both sides and silent, so a locked
// account is answered like a wrong password; and no_pass_expiry is, so that a person
// who has only a key is not shut out (see passwordParts).
const systemAuth = `# ward: passwords and lockout
auth        required      pam_env.so
auth        required      pam_faillock.so preauth                  {include if "with-faillock"}
auth        sufficient    pam_unix.so
auth        required      pam_faillock.so authfail                 {include if "with-faillock"}
auth        required      pam_deny.so

account     required      pam_faillock.so                          {include if "with-faillock"}
account     required      pam_unix.so no_pass_expiry

password    requisite     pam_pwquality.so
%spassword    sufficient    pam_unix.so sha512 shadow use_authtok
password    required      pam_deny.so

session     optional      pam_keyinit.so revoke
session     required      pam_limits.so
-session    optional      pam_systemd.so
session     [success=1 default=ignore] pam_succeed_if.so service in crond quiet use_uid
session     required      pam_unix.so
`

// noAuth is the stack of what no machine of ours asks for.
const noAuth = `# ward: passwords
auth        required      pam_deny.so
account     required      pam_deny.so
password    required      pam_deny.so
session     required      pam_deny.so
`

// authselectFiles are the files of the profile; authselect wants each of them
// (authselect-profiles(5)).
func authselectFiles(c profiles.Passwords) [][2]string {
	history := ""
	if c.Remember > 0 {
		history = fmt.Sprintf("password    requisite     pam_pwhistory.so remember=%d use_authtok enforce_for_root {include if \"with-pwhistory\"}\n", c.Remember)
	}
	auth := fmt.Sprintf(systemAuth, history)
	return [][2]string{
		{"README", "ward's profile: local accounts, locked after failed logins, passwords of a certain quality.\n"},
		{"REQUIREMENTS", ""},
		{"system-auth", auth},
		{"password-auth", auth},
		{"fingerprint-auth", noAuth},
		{"smartcard-auth", noAuth},
		{"postlogin", "# ward: passwords\nsession     optional      pam_umask.so silent\n"},
		{"nsswitch.conf", "# ward: passwords\npasswd:     files systemd\ngroup:      files systemd\nshadow:     files\ngshadow:    files\nhosts:      files dns myhostname\nservices:   files\nprotocols:  files\nrpc:        files\nethers:     files\nnetworks:   files dns\n"},
		{"dconf-db", ""},
		{"dconf-locks", ""},
	}
}

// applyAuthselect writes the profile and selects it, for each control that is about
// PAM: the stack is one.
func applyAuthselect(ctx context.Context, t *Target) error {
	c := t.Profile.Controls.Passwords
	anew := false
	for _, f := range authselectFiles(c) {
		changed, err := updateFile(t.Root, authselectProfile+f[0], f[1], 0o644)
		if err != nil {
			return err
		}
		anew = anew || changed
	}
	if !anew {
		return nil
	}
	argv := []string{"authselect", "select", "custom/ward", "with-faillock"}
	if c.Remember > 0 {
		argv = append(argv, "with-pwhistory")
	}
	if out, err := t.Run(ctx, append(argv, "--force", "--nobackup")...); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return nil
}
