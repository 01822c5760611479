package builder

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"ward/builder/lock"
	"ward/builder/provenance"
	"ward/builder/secureboot"
	"ward/images"
	"ward/profiles"
)

// Options say what to build and where.
type Options struct {
	Image    *images.Image
	Profile  *profiles.Profile
	Output   string            // final folder, for example "out/debian-12"
	Cache    string            // folder of the cache; empty: DefaultCache
	Remote   string            // repository that shares packages between machines, see package registry; empty: none
	Update   bool              // ask the mirror again even if the packages are in the cache
	Check    bool              // read the whole output before it is taken for up to date, not only sizes and times
	Lock     *lock.Lock        // build from exactly these packages; nil: what the mirror has
	Offline  bool              // with Lock: use the store alone
	EmbedKey string            // key file of the PHI volume to put into the image: for laboratories; empty: none
	Sign     provenance.Signer // signs the provenance; nil: nobody does
	// SecureBoot signs what the firmware starts; nil: nothing is signed.
	SecureBoot *secureboot.Signer
	Version    string // of ward
	Binaries   Binaries
	Log        *slog.Logger
	Events     func(Event) // called from one goroutine at a time
}

// Binaries are ward's own programs: the two that go into the image, and the one
// that builds it, whose code decides what the image becomes.
type Binaries struct {
	Ward    string
	Init    string // ward-init, with local key sources
	NetInit string // ward-init with all of them: network and TPM
	Wardctl string
}

// Beside returns the programs that lie in the folder of the running one.
func Beside() (Binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return Binaries{}, fmt.Errorf("find own program: %w", err)
	}
	dir := filepath.Dir(self)
	b := Binaries{Ward: self, Init: filepath.Join(dir, "ward-init"), NetInit: filepath.Join(dir, "ward-init-net"), Wardctl: filepath.Join(dir, "wardctl")}
	for _, name := range []string{b.Init, b.NetInit, b.Wardctl} {
		if _, e := os.Stat(name); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return Binaries{}, fmt.Errorf("%w\nhint: ward, wardctl, ward-init and ward-init-net are built together by make build and must lie in one folder", err)
	}
	return b, nil
}

// For returns the programs for images of an architecture: those for another than
// ward's own lie in a folder of its name.
func (b Binaries) For(arch string) (Binaries, error) {
	if arch == runtime.GOARCH {
		return b, nil
	}
	at := func(name string) string { return filepath.Join(filepath.Dir(name), arch, filepath.Base(name)) }
	b.Init, b.NetInit, b.Wardctl = at(b.Init), at(b.NetInit), at(b.Wardctl)
	var err error
	for _, name := range []string{b.Init, b.NetInit, b.Wardctl} {
		if _, e := os.Stat(name); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return b, fmt.Errorf("%w\nhint: make build-%s builds ward's programs for it", err, arch)
	}
	return b, nil
}

// DefaultCache is where entries are kept when nobody says otherwise.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache: %w\nhint: set HOME or XDG_CACHE_HOME, or say --cache DIR", err)
	}
	return filepath.Join(dir, "ward"), nil
}

// Event is what a build tells while it runs.
type Event struct {
	Kind   EventKind
	Step   string        // name of the step
	Text   string        // Note: what it is doing; Cached, Done: what came out
	Have   int64         // Note: bytes that are there of Want, for a bar
	Want   int64         // Note: bytes; 0: nobody knows
	Took   time.Duration // Done, Cached, Failed
	Bytes  int64         // Done, Cached: size of the result
	Err    error         // Failed
	Number int           // of the step, from 1
	Total  int           // how many steps there are
}

// EventKind is what happened.
type EventKind string

const (
	Started EventKind = "started"
	Note    EventKind = "note"
	Done    EventKind = "done"
	Cached  EventKind = "cached" // the result was there
	Failed  EventKind = "failed"
)
