package profiles

// PHI is the encrypted volume for patients' data, 45 CFR 164.312(a)(2)(iv).
type PHI struct {
	// Mode of the mount point, octal and in quotes: "0750".
	Mode string `yaml:"mode" json:"mode" jsonschema:"enum=0750,enum=0700,enum=0770,enum=2750,enum=2770"`
	// What to do when a volume cannot be opened: boot without PHI (degrade) or stop (halt).
	OnFailure string `yaml:"on_failure" json:"on_failure" jsonschema:"enum=degrade,enum=halt"`
	// Where the key file may come from, tried in this order.
	KeySources []KeySource `yaml:"key_sources" json:"key_sources" jsonschema:"minItems=1,example=[device]"`
	// The age recipients (age1...) that can open the recovery key; none: no recovery key is made.
	Recipients []string `yaml:"recipients" json:"recipients"`
	// PHI volumes beside phi-data, each on a partition and with a key file of its
	// own; the image file states their sizes in disk.volumes.
	Volumes []Volume `yaml:"volumes" json:"volumes"`
}

// Fscrypt encrypts directories inside the PHI volume, fscrypt(8).
type Fscrypt struct {
	// Whether it is set up.
	Enabled bool `yaml:"enabled" json:"enabled"`
	// The directory, below the mount point of the PHI volume.
	Directory string `yaml:"directory" json:"directory" jsonschema:"pattern=^[A-Za-z0-9_][A-Za-z0-9_.-]*$,example=patient-records"`
}

// Backup is the nightly copy, 45 CFR 164.308(a)(7)(ii)(A).
type Backup struct {
	// When it runs, a calendar event of systemd.time(7).
	OnCalendar string `yaml:"on_calendar" json:"on_calendar" jsonschema:"minLength=1,example=\"*-*-* 01:00:00\""`
	// The tag of the snapshots.
	Tag string `yaml:"tag" json:"tag" jsonschema:"pattern=^[A-Za-z0-9_.-]+$,example=hipaa-backup"`
	// The longest random delay, so that many machines do not start at once.
	Jitter Duration `yaml:"jitter" json:"jitter"`
	// In how many runs all data is read back once, t of restic check --read-data-subset=n/t.
	CheckParts int `yaml:"check_parts" json:"check_parts" jsonschema:"minimum=1,maximum=365"`
}
