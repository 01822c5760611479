package keysource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/luksheader"
	"ward/initramfs/handoff"
)

// ErrNone says that no source had the key. The error that wraps it has a line
// for each source.
var ErrNone = errors.New("no source has the key")

// ErrSealed says that a source has the key and does not give it to the machine as
// it is now. It is told also where another source has the key: somebody has
// changed the machine, or an update has.
var ErrSealed = errors.New("the key stays sealed")

// Request is a key that is wanted.
type Request struct {
	KeyFile string           // name of the file: "phi-data.key"
	Sources []handoff.Source // tried in this order; the first hit wins
	Disks   *disks.Set       // for "device": the block devices that are known
	// Tokens of the volume's header, for sources that keep their part there (tang, tpm2).
	Tokens []luksheader.Token
	Log    *slog.Logger
	// More are fetchers beyond those of this package, by Source.Type.
	More map[string]Fetcher
	// Module loads a kernel module that a source needs; nil where modules load by themselves.
	Module func(name string) error
}

// Fetcher asks one source. It returns when ctx ends.
type Fetcher func(ctx context.Context, src handoff.Source, req Request) (*Key, error)

// local are the sources that need neither network nor TPM.
var local = map[string]Fetcher{
	"device":   fromDevice,
	"fw_cfg":   fromFirmware,
	"smbios":   fromSMBIOS,
	"embedded": fromEmbedded,
}

// defaultTimeout is how long a source is waited for that says nothing itself.
var defaultTimeout = map[string]time.Duration{
	"device":   10 * time.Second, // a USB stick takes 5 s to appear
	"fw_cfg":   2 * time.Second,
	"smbios":   2 * time.Second,
	"https":    60 * time.Second,
	"tang":     30 * time.Second,
	"tpm2":     15 * time.Second,
	"embedded": time.Second,
}

// Fetch asks the sources in their order, each with its own time limit, and
// returns the first key with the type of its source. The caller wipes the key.
func Fetch(ctx context.Context, req Request) (*Key, string, error) {
	if len(req.Sources) == 0 {
		return nil, "", fmt.Errorf("%s: %w: none is configured", req.KeyFile, ErrNone)
	}
	var errs []error
	for _, s := range req.Sources {
		key, err := fetchOne(ctx, s, req)
		if err == nil {
			for _, e := range errs {
				if errors.Is(e, ErrSealed) {
					req.Log.Warn(req.KeyFile + ": " + e.Error())
				}
			}
			return key, s.Type, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.Type, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, "", fmt.Errorf("%s: %w: %w", req.KeyFile, ErrNone, joinLine(errs))
}

func fetchOne(ctx context.Context, s handoff.Source, req Request) (*Key, error) {
	f := local[s.Type]
	if f == nil {
		f = req.More[s.Type]
	}
	if f == nil {
		return nil, errors.New("this program has no such source")
	}
	limit := defaultTimeout[s.Type]
	if s.TimeoutMS > 0 {
		limit = time.Duration(s.TimeoutMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	key, err := f(ctx, s, req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s: %w", limit, err)
	}
	if err != nil {
		return nil, err
	}
	req.Log.Debug("key found", "file", req.KeyFile, "source", s.Type, "ms", time.Since(start).Milliseconds())
	return key, nil
}

// joined is errors.Join on one line: each failure is one line on the console.
type joined struct{ errs []error }

func joinLine(errs []error) error { return joined{errs} }

func (j joined) Error() string {
	s := ""
	for i, e := range j.errs {
		if i > 0 {
			s += "; "
		}
		s += e.Error()
	}
	return s
}

func (j joined) Unwrap() []error { return j.errs }
