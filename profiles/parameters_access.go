package profiles

// The ranges in the tags keep a typing error from switching a safeguard off;
// how strict a site is within them is its risk analysis (45 CFR 164.308(a)(1)(ii)(A)).

// Accounts are the rules for people's accounts, 45 CFR 164.312(a)(2)(i).
type Accounts struct {
	// Days after which a password must change, login.defs(5) PASS_MAX_DAYS.
	MaxDays int `yaml:"max_days" json:"max_days" jsonschema:"minimum=1,maximum=365"`
	// Days before a password may change again, PASS_MIN_DAYS.
	MinDays int `yaml:"min_days" json:"min_days" jsonschema:"minimum=0,maximum=90"`
	// Days of warning before a password must change, PASS_WARN_AGE.
	WarnDays int `yaml:"warn_days" json:"warn_days" jsonschema:"minimum=1,maximum=90"`
	// The group of the people who may use PHI.
	Group string `yaml:"group" json:"group" jsonschema:"pattern=^[a-z_][a-z0-9_-]*$,example=phi-access"`
	// The system account that owns PHI.
	Service string `yaml:"service" json:"service" jsonschema:"pattern=^[a-z_][a-z0-9_-]*$,example=phi-service"`
	// Minutes for which sudo remembers a person, sudoers(5) timestamp_timeout; 0 asks each time.
	SudoTimeout int `yaml:"sudo_timeout" json:"sudo_timeout" jsonschema:"minimum=0,maximum=60"`
}

// Breakglass is the emergency account, 45 CFR 164.312(a)(2)(ii). It is locked until it is opened.
type Breakglass struct {
	// The login name of the emergency account.
	User string `yaml:"user" json:"user" jsonschema:"pattern=^[a-z_][a-z0-9_-]*$,example=breakglass"`
	// The longest time that it can be opened for, such as 4h; it closes by itself.
	MaxOpen Duration `yaml:"max_open" json:"max_open"`
}

// Passwords are the rules for new passwords, pwquality.conf(5).
type Passwords struct {
	// Smallest number of characters.
	MinLen int `yaml:"minlen" json:"minlen" jsonschema:"minimum=8,maximum=128"`
	// Smallest number of kinds among lower case, upper case, digits and others.
	MinClass int `yaml:"minclass" json:"minclass" jsonschema:"minimum=0,maximum=4"`
	// Most times that a character may follow itself; 0 is no limit.
	MaxRepeat int `yaml:"maxrepeat" json:"maxrepeat" jsonschema:"minimum=0,maximum=10"`
	// Refuse passwords that hold words of the person's full name.
	GecosCheck bool `yaml:"gecoscheck" json:"gecoscheck"`
	// Refuse passwords found in the dictionary of cracklib.
	DictCheck bool `yaml:"dictcheck" json:"dictcheck"`
	// How many old passwords are refused, pam_pwhistory(8).
	Remember int `yaml:"remember" json:"remember" jsonschema:"minimum=0,maximum=400"`
}

// Lockout is what follows failed logins, faillock.conf(5).
type Lockout struct {
	// Failures before the account is locked.
	Deny int `yaml:"deny" json:"deny" jsonschema:"minimum=1,maximum=20"`
	// Seconds in which the failures count, fail_interval.
	Interval int `yaml:"interval" json:"interval" jsonschema:"minimum=1,maximum=604800"`
	// Seconds until the account opens by itself; 0 is never.
	UnlockTime int `yaml:"unlock_time" json:"unlock_time" jsonschema:"minimum=0,maximum=604800"`
	// Whether root is locked too, even_deny_root.
	Root bool `yaml:"root" json:"root"`
}

// SSHD is what the SSH server accepts, sshd_config(5).
type SSHD struct {
	// The only group that may log in, AllowGroups.
	Group string `yaml:"group" json:"group" jsonschema:"pattern=^[a-z_][a-z0-9_-]*$,example=phi-access"`
	// Tries for each connection.
	MaxAuthTries int `yaml:"max_auth_tries" json:"max_auth_tries" jsonschema:"minimum=1,maximum=6"`
	// Seconds of silence after which the client is asked for a sign of life, ClientAliveInterval.
	AliveInterval int `yaml:"alive_interval" json:"alive_interval" jsonschema:"minimum=1,maximum=3600"`
	// Unanswered questions after which the connection is cut, ClientAliveCountMax. 0 would switch it off.
	AliveCount int `yaml:"alive_count" json:"alive_count" jsonschema:"minimum=1,maximum=10"`
	// Seconds within which a login must be complete.
	LoginGrace int `yaml:"login_grace" json:"login_grace" jsonschema:"minimum=5,maximum=120"`
	// Accepted ciphers, best first; a release that does not know one leaves it out.
	Ciphers []string `yaml:"ciphers" json:"ciphers" jsonschema:"minItems=1,example=[aes256-gcm@openssh.com]"`
	// Accepted key exchanges, best first.
	KexAlgorithms []string `yaml:"kex" json:"kex" jsonschema:"minItems=1,example=[curve25519-sha256]"`
	// Accepted message authentication codes, best first.
	MACs []string `yaml:"macs" json:"macs" jsonschema:"minItems=1,example=[hmac-sha2-512-etm@openssh.com]"`
}

// MFA asks for a time-based one-time password beside the key, 45 CFR 164.312(d).
type MFA struct {
	// Whether it is asked for.
	Enabled bool `yaml:"enabled" json:"enabled"`
}

// Logoff ends idle sessions, 45 CFR 164.312(a)(2)(iii).
type Logoff struct {
	// Seconds without activity after which a session ends.
	Idle int `yaml:"idle" json:"idle" jsonschema:"minimum=5,maximum=3600"`
}

// Banners are the texts shown before login and after it.
type Banners struct {
	// Shown before login, on consoles and by SSH.
	Login string `yaml:"login" json:"login" jsonschema:"minLength=1"`
	// Shown after login.
	MOTD string `yaml:"motd" json:"motd" jsonschema:"minLength=1"`
}
