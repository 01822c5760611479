package firstboot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/keysource/remote"
	"ward/initramfs/boot/keysource/tpmkey"
	"ward/initramfs/handoff"
)

// KeyFunc finds the key file of a volume, and the type of the source that had
// it. An error that wraps keysource.ErrNone means that no source has it.
type KeyFunc func(ctx context.Context, sources []handoff.Source, v handoff.Volume) (*keysource.Key, string, error)

// hostKey asks the sources that init asks, in the running machine.
func hostKey(log *slog.Logger, run RunFunc) KeyFunc {
	known := sync.OnceValues(func() (*disks.Set, error) {
		set := disks.New(log)
		// Listen before the scan, so that a device which appears in between is seen.
		// The listener lives as long as wardctl, which is short: a receive on a
		// netlink socket cannot be interrupted.
		l, err := disks.Listen()
		if err != nil {
			return nil, fmt.Errorf("listen for devices: %w", err)
		}
		go func() {
			if err := set.Follow(l, nil); err != nil {
				log.Warn("no more news of devices", "err", err)
			}
		}()
		set.Scan()
		return set, nil
	})
	more := remote.Fetchers(nil) // the network of a running machine is there
	more["tpm2"] = tpmkey.Fetcher
	return func(ctx context.Context, sources []handoff.Source, v handoff.Volume) (*keysource.Key, string, error) {
		set, err := known()
		if err != nil {
			return nil, "", err
		}
		return keysource.Fetch(ctx, keysource.Request{
			KeyFile: v.KeyFile, Sources: sources, Disks: set, Log: log, More: more,
			Module: func(name string) error {
				_, err := run(ctx, nil, "modprobe", "-q", name)
				return err
			},
		})
	}
}
