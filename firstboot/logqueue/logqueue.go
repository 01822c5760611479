// Package logqueue looks after what waits in the journal for the log server: it
// has rsyslogd send a little again after it ended, and says when room runs out.
package logqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"ward/profiles/control"
)

// Back is how many lines rsyslogd sends again when it starts. Its place in the
// journal is noted each 100 messages and when it ends, also for the one message
// that it then gives up; a window of RELP has 128 messages that the server has not
// confirmed (windowSize, omrelp). 300 covers all of them at once.
const Back = 300

// haltAt is the share of the journal, in percent, at which on_full: halt halts the
// machine. journald removes its oldest file, an eighth of its room, when it needs
// room for a new one; what is in that file has waited longest.
const haltAt = 95

// StepBack moves rsyslogd's place in the journal back by some lines, or to the
// journal's start where there are no more. It must not run beside rsyslogd, which
// notes its place when it ends.
func StepBack(ctx context.Context, t *control.Target, lines int) error {
	raw, err := t.Root.ReadFile(control.LogPlace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // from the journal's start
	}
	if err != nil {
		return fmt.Errorf("place in the journal: %w", err)
	}
	place := strings.TrimSpace(string(raw))
	if place == "" {
		return forget(t) // cut short by a loss of power
	}
	out, err := t.Run(ctx, "journalctl", "--quiet", "--cursor="+place, "--reverse", "--lines="+strconv.Itoa(lines), "--output=json", "--output-fields=PRIORITY")
	if err != nil {
		return fmt.Errorf("place in the journal: %w", err)
	}
	entries := strings.Split(strings.TrimSpace(out), "\n")
	if len(entries) < lines {
		return forget(t)
	}
	var first struct {
		Cursor string `json:"__CURSOR"`
	}
	if err := json.Unmarshal([]byte(entries[len(entries)-1]), &first); err != nil {
		return fmt.Errorf("place in the journal: journalctl printed %.200q: %w", entries[len(entries)-1], err)
	}
	if first.Cursor == "" {
		return fmt.Errorf("place in the journal: journalctl printed %.200q, which has no cursor", entries[len(entries)-1])
	}
	return control.WriteFile(t.Root, control.LogPlace, first.Cursor, 0o600)
}

func forget(t *control.Target) error {
	if err := t.Root.Remove(control.LogPlace); err != nil {
		return fmt.Errorf("place in the journal: %w", err)
	}
	return nil
}

// Look tells what waits and how much of the journal's room that is, in percent. A
// machine without a log server has nothing that waits.
func Look(ctx context.Context, t *control.Target) (q control.LogQueue, full int, err error) {
	if t.Machine == nil || t.Machine.Logging == nil {
		return q, 0, nil
	}
	q, err = control.ReadLogQueue(ctx, &control.Machine{Release: t.Release, Profile: t.Profile, Config: t.Machine, Run: t.Run, RunInput: t.RunInput})
	return q, q.Full(t.Profile.Controls.RemoteLog.JournalMiB), err
}

// Enforce does what the profile chose when the journal is about to drop lines that
// the log server does not have.
func Enforce(ctx context.Context, t *control.Target, full int) error {
	if full < haltAt || t.Profile.Controls.RemoteLog.OnFull != "halt" {
		return nil
	}
	t.Log.Error("the machine halts before a log line is lost: the profile says on_full: halt", "full", fmt.Sprintf("%d%%", full))
	_, err := t.Run(ctx, "systemctl", "poweroff")
	return err
}
