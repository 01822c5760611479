// Package profiles says what must hold on a machine: the parameters of every
// control and the waivers, read from strict YAML. The hipaa profile is embedded
// and is the default; a profile file states only what differs from it.
//
//	p, err := profiles.Load("hipaa")        // an embedded one, or
//	p, err := profiles.Load("./clinic.yaml") // a file
package profiles

// Profile is what must hold on every machine made with it.
type Profile struct {
	// The profile's name, printed in every report.
	Name string `yaml:"name" json:"name" jsonschema:"pattern=^[a-z0-9][a-z0-9.-]*$,example=clinic"`
	// One sentence for people.
	Description string `yaml:"description,omitempty" json:"description"`
	// The profile that this one changes: a name such as hipaa, or a path beginning
	// with ./ or / or ending in .yaml. Lists are replaced, kernel.sysctl is added to.
	Extends string `yaml:"extends,omitempty" json:"extends,omitempty"`
	// What each control must hold, by the control's ID.
	Controls Controls `yaml:"controls" json:"controls"`
	// Decisions that a control need not hold for a time.
	Waivers []Waiver `yaml:"waivers,omitempty" json:"waivers,omitempty"`
}

// Waiver is the recorded decision that a control need not hold for a time
// (45 CFR 164.306(d)(3): document why, and who decided). It never hides a
// finding: reports print it as waived, with these four fields.
type Waiver struct {
	// The ID of the control.
	Control string `yaml:"control" json:"control"`
	// Why it need not hold, and what is done instead.
	Reason string `yaml:"reason" json:"reason" jsonschema:"minLength=1,example=\"the gateway in front does it\""`
	// The person who answers for it.
	Owner string `yaml:"owner" json:"owner" jsonschema:"minLength=1,example=\"J. Doe\""`
	// YYYY-MM-DD in UTC; from that day on it counts no more.
	Expires string `yaml:"expires" json:"expires" jsonschema:"pattern=^[0-9]{4}-[0-9]{2}-[0-9]{2}$,example=2027-06-30"`
}

// Controls are the parameters of each control, keyed by the control's ID.
type Controls struct {
	Accounts   Accounts   `yaml:"accounts" json:"accounts"`
	Breakglass Breakglass `yaml:"breakglass" json:"breakglass"`
	Passwords  Passwords  `yaml:"passwords" json:"passwords"`
	Lockout    Lockout    `yaml:"lockout" json:"lockout"`
	SSHD       SSHD       `yaml:"sshd" json:"sshd"`
	MFA        MFA        `yaml:"mfa" json:"mfa"`
	Logoff     Logoff     `yaml:"logoff" json:"logoff"`
	Audit      Audit      `yaml:"audit" json:"audit"`
	PHI        PHI        `yaml:"phi" json:"phi"`
	Fscrypt    Fscrypt    `yaml:"fscrypt" json:"fscrypt"`
	TLS        TLS        `yaml:"tls" json:"tls"`
	Firewall   Firewall   `yaml:"firewall" json:"firewall"`
	Time       Time       `yaml:"time" json:"time"`
	Kernel     Kernel     `yaml:"kernel" json:"kernel"`
	Updates    Updates    `yaml:"updates" json:"updates"`
	Integrity  Integrity  `yaml:"integrity" json:"integrity"`
	Banners    Banners    `yaml:"banners" json:"banners"`
	RemoteLog  RemoteLog  `yaml:"remote-log" json:"remote-log"`
	Backup     Backup     `yaml:"backup" json:"backup"`
}
