package profiles

// Audit is what the kernel records, 45 CFR 164.312(b), auditd.conf(5).
type Audit struct {
	// Events that the kernel holds for auditd, audit_backlog_limit of the kernel line.
	Backlog int `yaml:"backlog" json:"backlog" jsonschema:"minimum=64,maximum=65536"`
	// Size of one log file in MiB.
	MaxLogFile int `yaml:"max_log_file" json:"max_log_file" jsonschema:"minimum=1,maximum=4096"`
	// How many log files are kept, the current one included.
	NumLogs int `yaml:"num_logs" json:"num_logs" jsonschema:"minimum=2,maximum=999"`
	// Free MiB at which space_left_action happens.
	SpaceLeft int `yaml:"space_left" json:"space_left" jsonschema:"minimum=2,maximum=65536"`
	// Free MiB at which admin_space_left_action happens; less than space_left.
	AdminSpaceLeft int `yaml:"admin_space_left" json:"admin_space_left" jsonschema:"minimum=1,maximum=65536"`
	// The first warning.
	SpaceLeftAction string `yaml:"space_left_action" json:"space_left_action" jsonschema:"enum=syslog,enum=rotate,enum=single"`
	// The last chance to act.
	AdminSpaceLeftAction string `yaml:"admin_space_left_action" json:"admin_space_left_action" jsonschema:"enum=syslog,enum=rotate,enum=suspend,enum=single,enum=halt"`
	// What happens when the disk is full; suspend loses records in silence.
	DiskFullAction string `yaml:"disk_full_action" json:"disk_full_action" jsonschema:"enum=syslog,enum=rotate,enum=suspend,enum=single,enum=halt"`
	// What happens when the log cannot be written.
	DiskErrorAction string `yaml:"disk_error_action" json:"disk_error_action" jsonschema:"enum=syslog,enum=suspend,enum=single,enum=halt"`
	// What the kernel does when it loses a record: 1 prints, 2 panics, auditctl(8) -f.
	FailureMode int `yaml:"failure_mode" json:"failure_mode" jsonschema:"minimum=1,maximum=2"`
	// Directories of applications, watched with the key app_access.
	AppDirs []string `yaml:"app_dirs" json:"app_dirs"`
}

// TLS is the system-wide minimum, 45 CFR 164.312(e)(2)(ii).
type TLS struct {
	// The oldest version that programs may speak.
	MinVersion string `yaml:"min_version" json:"min_version" jsonschema:"enum=1.2,enum=1.3"`
}

// Firewall is the default-deny packet filter.
type Firewall struct {
	// The networks that may reach SSH, in CIDR form.
	SSHFrom []string `yaml:"ssh_from" json:"ssh_from" jsonschema:"minItems=1,example=[10.0.0.0/8]"`
	// Limit what goes out as well: DNS, time, log, backup and updates only.
	Egress bool `yaml:"egress" json:"egress"`
}

// Time is clock discipline; audit records need a true clock.
type Time struct {
	// Names or addresses of time servers.
	Servers []string `yaml:"servers" json:"servers" jsonschema:"minItems=1,example=[time.example.org]"`
	// The largest offset in seconds that passes.
	MaxDrift float64 `yaml:"max_drift" json:"max_drift" jsonschema:"minimum=0.001,maximum=60"`
}

// Kernel hardens the kernel's interfaces.
type Kernel struct {
	// Values of sysctl(8) by name, in quotes; a profile that extends another adds to its list.
	Sysctl map[string]string `yaml:"sysctl" json:"sysctl"`
	// Modules that cannot be loaded.
	DenyModules []string `yaml:"deny_modules" json:"deny_modules" jsonschema:"pattern=^[a-z0-9_-]+$"`
	// Whether USB storage may be used.
	USBStorage bool `yaml:"usb_storage" json:"usb_storage"`
	// Ports of applications that may listen beside SSH.
	Listen []string `yaml:"listen" json:"listen" jsonschema:"pattern=^(tcp|udp)/[0-9]+$,example=[tcp/443]"`
}

// Updates installs security updates by itself, 45 CFR 164.308(a)(5)(ii)(B).
type Updates struct {
	// Whether it does.
	Unattended bool `yaml:"unattended" json:"unattended"`
	// When, a calendar event of systemd.time(7); empty: the distribution's own time.
	Window string `yaml:"window" json:"window"`
}

// Integrity finds changed programs, 45 CFR 164.312(c)(1).
type Integrity struct {
	// When the machine is compared with its database, a calendar event of systemd.time(7).
	OnCalendar string `yaml:"on_calendar" json:"on_calendar" jsonschema:"minLength=1,example=\"*-*-* 03:30:00\""`
	// Whether root is writable (plain), or read-only and verified block by block
	// against a hash in the kernel image (verity); updates are then new images.
	Root string `yaml:"root" json:"root" jsonschema:"enum=plain,enum=verity"`
	// What is in the database; absolute paths.
	Paths []string `yaml:"paths" json:"paths" jsonschema:"minItems=1,example=[/usr/bin]"`
}

// RootVerity is the value of Integrity.Root for a verified root.
const RootVerity = "verity"

// RemoteLog sends every log line to the log server by TLS, 45 CFR 164.312(b) and (e)(1).
type RemoteLog struct {
	// Syslog over TLS, or RELP over TLS, which confirms each message.
	Transport string `yaml:"transport" json:"transport" jsonschema:"enum=tls,enum=relp"`
	// MiB on disk for the journal, which is also what waits for the server in.
	JournalMiB int `yaml:"journal_mib" json:"journal_mib" jsonschema:"minimum=16,maximum=65536"`
	// When the server is away until the journal is full: drop the oldest lines, or
	// halt the machine at 95%, so that no line is lost.
	OnFull string `yaml:"on_full" json:"on_full" jsonschema:"enum=drop,enum=halt"`
}
