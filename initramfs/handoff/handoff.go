// Package handoff is what the builder, the init in the initramfs and wardctl
// agree on: names that all three must spell alike, the configuration that the
// builder puts into the initramfs, and the report that init leaves in /run for
// wardctl. It imports nothing of ward.
package handoff

// Names that host, init and machine share.
const (
	// PHIType is the GPT type GUID of a PHI partition. It is ward's own, so that
	// no other tool formats or mounts it by itself.
	PHIType = "5d4f1c0e-7a52-4c0b-9b56-77617264504d"
	// RootType is the x86-64 root type of the Discoverable Partitions Specification. It
	// marks ward's root on every architecture: nobody else looks for it (systemd.gpt_auto=0).
	RootType = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	// KeyLabel is the file system label of a key device.
	KeyLabel = "WARD-KEY"
	// ConfigPath is where the builder puts Config (JSON, mode 0400) in the initramfs.
	ConfigPath = "/etc/ward/init.json"
	// ReportPath is where init leaves Report (JSON, mode 0600) for wardctl.
	ReportPath = "/run/ward/handoff.json"
	// PinsPath holds, on the root file system, which volumes this machine knows.
	PinsPath = "/etc/ward/pins.json"
	// VerdictPort is the virtio-serial port on which wardctl writes its verdict.
	VerdictPort = "org.ward.verdict"
	// IgnitionFwCfg is the QEMU firmware configuration entry of the Ignition config.
	IgnitionFwCfg = "opt/com.coreos/config"
)

// Version is the version of Config and Report; a reader refuses another one.
const Version = 1

// Config is what init must do, decided at build time.
type Config struct {
	Version int `json:"version"`
	// Volumes are the PHI volumes, in the order of their partitions.
	Volumes []Volume `json:"volumes"`
	// Sources are tried in this order for each key; the first hit wins.
	Sources []Source `json:"sources"`
	// OnFailure is "degrade" (boot without PHI) or "halt".
	OnFailure string `json:"on_failure"`
	// Verity says that root is verified: a kernel line that does not say what it must
	// be is refused.
	Verity bool `json:"verity,omitempty"`
	// Modules are loaded at once on start, earlier ones first where they compete;
	// dependencies are resolved from modules.dep. "A|B" is B where A cannot be loaded.
	Modules []string `json:"modules"`
}

// Volume is one PHI volume.
type Volume struct {
	Name      string `json:"name"`       // device-mapper name: "phi-data"
	PartLabel string `json:"part_label"` // GPT partition name; equal to Name
	KeyFile   string `json:"key_file"`   // name of its key file: "phi-data.key"
	Mount     string `json:"mount"`      // "/var/data/phi"
}

// Source is one place where a key file may come from.
type Source struct {
	Type      string `json:"type"`                 // device, fw_cfg, smbios, https, tang, tpm2, embedded
	Label     string `json:"label,omitempty"`      // device: file system label
	PartUUID  string `json:"partuuid,omitempty"`   // device: or the partition's UUID
	URL       string `json:"url,omitempty"`        // https, tang
	CA        string `json:"ca,omitempty"`         // https: PEM of the pinned authority
	Identity  string `json:"identity,omitempty"`   // https: type of the local source that has IdentityFile; "": no client certificate
	PCRs      []int  `json:"pcrs,omitempty"`       // tpm2
	TimeoutMS int    `json:"timeout_ms,omitempty"` // 0: the default of the type
}

// State says what init found and did with one volume.
type State string

// The zero State is not Opened: what was not looked at is not open.
const (
	StateAbsent  State = "absent"  // no such partition
	StateBlank   State = "blank"   // the partition has no LUKS header: first boot formats it
	StateLocked  State = "locked"  // no key, or no slot fits
	StateRefused State = "refused" // header, cipher or identity is not acceptable
	StateOpened  State = "opened"  // mapped at /dev/mapper/NAME
)

// Report is what init did, for wardctl.
type Report struct {
	Version int            `json:"version"`
	Volumes []VolumeReport `json:"volumes"`
	Timings []Timing       `json:"timings"`
	// PCRs are what the TPM's registers held when the volumes were opened, SHA-256 in
	// hex: those that a source tpm2 names. Later ones differ.
	PCRs map[int]string `json:"pcrs,omitempty"`
}

// VolumeReport is what became of one volume.
type VolumeReport struct {
	Name      string `json:"name"`
	Device    string `json:"device,omitempty"`
	PartUUID  string `json:"partuuid,omitempty"`
	LUKSUUID  string `json:"luks_uuid,omitempty"`
	State     State  `json:"state"`
	KeySource string `json:"key_source,omitempty"` // type of the source that had the key
	Reason    string `json:"reason,omitempty"`     // why it is not open; never holds key bytes
}

// Timing is how long one phase of init took, in microseconds since init started.
type Timing struct {
	Phase   string `json:"phase"`
	StartUS int64  `json:"start_us"`
	EndUS   int64  `json:"end_us"`
}

// Pins are the volumes that this machine knows; written by wardctl when it
// formats a volume, read by init before it maps one.
type Pins struct {
	Version int   `json:"version"`
	Volumes []Pin `json:"volumes"`
}

// Pin ties a volume name to one LUKS volume.
type Pin struct {
	Name     string `json:"name"`
	LUKSUUID string `json:"luks_uuid"`
	// Digest is hex(HMAC-SHA256(volume key, PinMessage)).
	Digest string `json:"digest"`
}

// PinMessage is what is authenticated under the volume key for Pin.Digest.
const PinMessage = "ward volume pin v1"

// Needs tells which of the sources need more than disks and firmware: a network,
// a TPM. The init for them is another binary, built with -tags netkeys, and the
// drivers are further modules.
func (c Config) Needs() (network, tpm bool) {
	for _, s := range c.Sources {
		network = network || s.Type == "https" || s.Type == "tang"
		tpm = tpm || s.Type == "tpm2"
	}
	return network, tpm
}

// DefaultPCRs are what a source tpm2 seals to unless the profile says otherwise:
// the state of Secure Boot, and the UKI.
var DefaultPCRs = []int{7, 11}

// KeysDir holds embedded key files, in an initramfs and on the machine that has
// to make its next one.
const KeysDir = "/etc/ward/keys"

// Bytes that a key file has.
const (
	MinKey = 32
	MaxKey = 8 << 10
)
