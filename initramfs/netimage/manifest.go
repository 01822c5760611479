// Package netimage is what `ward pxe export` writes and the init of a network
// installation reads: a signed manifest, and a disk image in chunks that are
// compressed and checked one by one, so that any of them can be fetched alone.
//
//	m, err := netimage.Open(text, signature, publicKey)   // verifies, then parses
//	data, err := m.Disk.Unpack(i, frame)                   // verifies, then unpacks
//
// Nothing in it is secret but the machines' configs, which the manifest only
// names. A manifest is never parsed before its signature has been verified.
package netimage

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"ward/initramfs/handoff"
)

// Version is the version of the form; a reader refuses another one.
const Version = 1

// Names of the files of an export that the installing machine fetches.
const (
	ManifestFile  = "netboot.json"
	SignatureFile = ManifestFile + ".minisig"
	DiskFile      = "disk.zst"
	// ReportPath takes what becomes of an installation, POST, one line of text.
	ReportPath = "report"
	// LivePath is there in an initramfs that loads root into memory.
	LivePath = "/etc/ward/live"
	// PinsPath is where Pins lie in the initramfs.
	PinsPath = "/etc/ward/netboot.json"
)

// Limits of what a reader takes.
const (
	MaxManifest  = 16 << 20
	MaxSignature = 4 << 10
	MaxConfig    = 4 << 20
	minChunk     = 64 << 10
	maxChunk     = 16 << 20
	maxDisk      = 64 << 40
)

// ChunkSize is what Pack cuts a disk into.
const ChunkSize = 4 << 20

// Manifest says what is to be installed, and where.
type Manifest struct {
	Version int       `json:"version"`
	Image   string    `json:"image"`
	Digest  string    `json:"digest"` // of the image, as the machine's own reports name it
	Made    time.Time `json:"made"`
	Disk    Disk      `json:"disk"`
	// Target says which disk is written; see Rule. A machine's own goes first.
	Target   string    `json:"target"`
	Machines []Machine `json:"machines,omitempty"`
}

// Disk is the disk image.
type Disk struct {
	File      string  `json:"file"`
	Size      int64   `json:"size"`   // plain, in bytes
	SHA256    string  `json:"sha256"` // of the plain disk, for other tools
	Sector    int     `json:"sector"` // logical sectors that its partition table counts in
	ChunkSize int64   `json:"chunk_size"`
	Chunks    []Chunk `json:"chunks"` // in order; the last one may be shorter
}

// Chunk is one zstd frame of the file.
type Chunk struct {
	Bytes  int64  `json:"bytes"`  // of the frame
	SHA256 string `json:"sha256"` // of the frame
	Zero   bool   `json:"zero,omitempty"`
}

// Machine is one machine that the manifest knows, by MAC address or serial number.
type Machine struct {
	MAC    string `json:"mac,omitempty"`
	Serial string `json:"serial,omitempty"` // of the machine, SMBIOS type 1
	Config string `json:"config"`           // file of its Ignition config
	SHA256 string `json:"sha256"`           // of that file
	Target string `json:"target,omitempty"`
}

// Pins is what an exported initramfs trusts.
type Pins struct {
	Version   int    `json:"version"`
	PublicKey string `json:"public_key"` // minisign's
	CA        string `json:"ca"`         // PEM of the only authority
	URL       string `json:"url,omitempty"`
}

// DecodePins reads Pins.
func DecodePins(data []byte) (Pins, error) {
	var p Pins
	if err := handoff.Strict("netboot pins", data, &p, &p.Version, Version); err != nil {
		return Pins{}, err
	}
	if p.PublicKey == "" || p.CA == "" {
		return Pins{}, errors.New("netboot pins: want a public key and an authority")
	}
	return p, nil
}

// Decode reads a manifest whose signature has been verified; see Open.
func Decode(data []byte) (*Manifest, error) {
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("manifest: %d bytes are more than %d", len(data), MaxManifest)
	}
	m := &Manifest{}
	if err := handoff.Strict("manifest", data, m, &m.Version, Version); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// Validate returns every fault. It changes nothing.
func (m *Manifest) Validate() error {
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf("manifest: "+format, a...)) }
	d := m.Disk
	if !isFile(d.File) {
		fault("disk.file: %q is not the name of a file", d.File)
	}
	if !isSum(d.SHA256) {
		fault("disk.sha256: want 64 hex digits")
	}
	if d.Sector != 512 && d.Sector != 4096 {
		fault("disk.sector: %d, want 512 or 4096", d.Sector)
	}
	if d.ChunkSize < minChunk || d.ChunkSize > maxChunk || d.ChunkSize%4096 != 0 {
		fault("disk.chunk_size: %d, want whole pages from %d to %d", d.ChunkSize, minChunk, maxChunk)
	} else if d.Size <= 0 || d.Size > maxDisk || d.Size%512 != 0 {
		fault("disk.size: %d", d.Size)
	} else if want := (d.Size + d.ChunkSize - 1) / d.ChunkSize; int64(len(d.Chunks)) != want {
		fault("disk.chunks: %d, a disk of %d bytes has %d", len(d.Chunks), d.Size, want)
	}
	for i, c := range d.Chunks {
		if c.Bytes <= 0 || c.Bytes > d.ChunkSize+d.ChunkSize/16+1024 || !isSum(c.SHA256) {
			fault("disk.chunks[%d]: %d bytes, sha256 %.64q", i, c.Bytes, c.SHA256)
		}
	}
	if _, err := ParseRule(m.Target); err != nil {
		fault("target: %w", err)
	}
	seen := map[string]bool{}
	for i, x := range m.Machines {
		who := x.MAC + x.Serial
		switch {
		case (x.MAC == "") == (x.Serial == ""):
			fault("machines[%d]: want a mac or a serial, and not both", i)
		case x.MAC != "" && !isMAC(x.MAC):
			fault("machines[%d].mac: %q, want six bytes such as 52:54:00:12:34:56", i, x.MAC)
		case seen[who]:
			fault("machines[%d]: %s is there twice", i, who)
		}
		seen[who] = true
		if !isFile(x.Config) || !isSum(x.SHA256) {
			fault("machines[%d].config: want the name of a file and its sha256", i)
		}
		if x.Target != "" {
			if _, err := ParseRule(x.Target); err != nil {
				fault("machines[%d].target: %w", i, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Find returns the machine that has one of these MAC addresses or this serial
// number. Two entries that fit are an error: which is meant cannot be known.
func (m *Manifest) Find(macs []string, serial string) (Machine, bool, error) {
	var found []Machine
	for _, x := range m.Machines {
		fits := x.Serial != "" && x.Serial == serial
		for _, mac := range macs {
			fits = fits || x.MAC != "" && strings.EqualFold(x.MAC, mac)
		}
		if fits {
			found = append(found, x)
		}
	}
	switch len(found) {
	case 0:
		return Machine{}, false, nil
	case 1:
		return found[0], true, nil
	}
	return Machine{}, false, fmt.Errorf("the manifest has %d machines that are this one: %s and %s", len(found), found[0].Name(), found[1].Name())
}

// Name is how the manifest knows the machine.
func (x Machine) Name() string {
	if x.MAC != "" {
		return x.MAC
	}
	return "serial:" + x.Serial
}

// Offset is where the frame of chunk i begins in the file.
func (d Disk) Offset(i int) int64 {
	var at int64
	for _, c := range d.Chunks[:i] {
		at += c.Bytes
	}
	return at
}

// Length is how many plain bytes chunk i has.
func (d Disk) Length(i int) int64 {
	return min(d.ChunkSize, d.Size-int64(i)*d.ChunkSize)
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}

func isMAC(s string) bool {
	hw, err := net.ParseMAC(s)
	return err == nil && len(hw) == 6 && hw.String() == s
}

// isFile accepts the name of a file in the export's folder or one below it.
func isFile(s string) bool {
	if s == "" || len(s) > 255 || strings.HasPrefix(s, "/") {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return false
		}
	}
	return true
}
