package control

import (
	"slices"

	"ward/images/distro"
	"ward/profiles"
)

// Catalogue returns every control with the profile's parameters, in the order
// in which they are applied. A control that the profile switches off (mfa) is
// left out, and so is one whose program the release does not have (fscrypt).
func Catalogue(p *profiles.Profile, r distro.Release) []Control {
	var all []Control
	all = append(all,
		Accounts(p, r),
		Breakglass(p, r),
		Passwords(p, r),
		Lockout(p, r),
		PHI(p, r),
		SSHD(p, r),
		Logoff(p, r),
		Banners(p, r),
		Audit(p, r),
		TLS(p, r),
		Firewall(p, r),
		Kernel(p, r),
		Time(p, r),
		Updates(p, r),
		Integrity(p, r),
		RemoteLog(p, r),
		Backup(p, r),
	)
	if p.Controls.MFA.Enabled {
		all = append(all, MFA(p, r))
	}
	if p.Controls.Fscrypt.Enabled && !slices.Contains(LeftOut(p, r), "fscrypt") {
		all = append(all, Fscrypt(p, r))
	}
	return all
}

// LeftOut names what the profile asks for and the release has no program for.
func LeftOut(p *profiles.Profile, r distro.Release) []string {
	if p.Controls.Fscrypt.Enabled && r.NoFscrypt {
		return []string{"fscrypt"}
	}
	return nil
}
