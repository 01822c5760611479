package boot

import "log/slog"

// Early is the beginning of Run for an init that does something else: it mounts
// what the kernel offers and gives a logger to the kernel log.
func Early() (*slog.Logger, *slog.LevelVar, error) {
	if err := mountBasics(); err != nil {
		return nil, nil, err
	}
	log, level, _, err := openKmsg("/dev/kmsg")
	return log, level, err
}
