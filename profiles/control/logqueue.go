package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ward/profiles"
)

// LogQueue is what the journal holds that the log server has not confirmed.
type LogQueue struct {
	// Lines after the place that rsyslogd noted, counted up to LogQueueMany. Fewer
	// than 100 of them may be there already: the place is noted each 100 messages.
	Lines int
	// KiB of the journal's files that were written to after that place. A file that
	// holds one such line counts as a whole.
	KiB int
	// Since is when the server had everything; zero when it never had anything.
	Since time.Time
}

// LogQueueMany is the number of lines from which they count as a queue; fewer are
// what a machine says in a moment.
const LogQueueMany = 1000

// Units of ward-log-queue. Five minutes: a machine that logs 1 MiB a second fills
// a journal of 256 MiB, from 80% on, in a minute, and one that logs 100 lines a
// second in half an hour.
const (
	logQueueService = `# ward: remote-log
[Unit]
Description=Look how much the log server has not taken yet
Documentation=man:wardctl(8)

[Service]
Type=oneshot
ExecStart=/usr/sbin/wardctl log queue --enforce
# 1: nearly full, which it has told at priority err.
SuccessExitStatus=1
`
	logQueueTimer = `# ward: remote-log
[Unit]
Description=Look regularly how much the log server has not taken yet

[Timer]
OnBootSec=5min
OnUnitInactiveSec=5min
AccuracySec=30s

[Install]
WantedBy=timers.target
`
)

// logQueueDump prints the place, how many entries come after it, and the blocks of
// 512 bytes of each file that was written to since (-newermt of find(1)).
const logQueueDump = `place=$(cat /` + LogPlace + ` 2>/dev/null)
echo "place $place"
echo "lines $(journalctl --quiet --output=json --output-fields=PRIORITY ${place:+--after-cursor="$place"} | head -n "$1" | wc -l)"
since=$(printf %s "$place" | sed -n 's/.*;t=\([0-9a-f]*\).*/\1/p')
find /var/log/journal -type f -name '*.journal*' ${since:+-newermt "@$((0x$since / 1000000))"} -printf 'blocks %b\n'`

// ReadLogQueue asks the machine how much waits for the log server.
func ReadLogQueue(ctx context.Context, m *Machine) (LogQueue, error) {
	out, err := script(ctx, m, "log-queue", logQueueDump, strconv.Itoa(LogQueueMany))
	if err != nil {
		return LogQueue{}, fmt.Errorf("look what waits for the log server: %w", err)
	}
	var q LogQueue
	counted := false
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "place":
			q.Since, err = cursorTime(value)
		case "lines":
			q.Lines, err = strconv.Atoi(value)
			counted = true
		case "blocks":
			var n int
			n, err = strconv.Atoi(value)
			q.KiB += n / 2
		}
		if err != nil {
			return LogQueue{}, fmt.Errorf("look what waits for the log server: line %q: %w", line, err)
		}
	}
	if !counted {
		return LogQueue{}, fmt.Errorf("look what waits for the log server: it printed %q", out)
	}
	return q, nil
}

// cursorTime is the time of the journal entry that a cursor names: t=, hexadecimal
// microseconds since 1970. An empty cursor has none.
func cursorTime(cursor string) (time.Time, error) {
	if cursor == "" {
		return time.Time{}, nil
	}
	for field := range strings.SplitSeq(cursor, ";") {
		if hex, ok := strings.CutPrefix(field, "t="); ok {
			us, err := strconv.ParseInt(hex, 16, 64)
			return time.UnixMicro(us).UTC(), err
		}
	}
	return time.Time{}, fmt.Errorf("cursor %q has no time", cursor)
}

// Full is the share of the journal's room that waits, in percent.
func (q LogQueue) Full(journalMiB int) int {
	if q.Lines < LogQueueMany || journalMiB <= 0 {
		return 0
	}
	return q.KiB * 100 / (journalMiB * 1024)
}

func (q LogQueue) String() string {
	since := "the log server never had a line"
	if !q.Since.IsZero() {
		since = "the log server has everything until " + q.Since.Format(time.RFC3339)
	}
	if q.Lines < LogQueueMany {
		return fmt.Sprintf("%d lines wait, %s", q.Lines, since)
	}
	return fmt.Sprintf("%d lines or more wait in %d KiB, %s", LogQueueMany, q.KiB, since)
}

// LogQueueAlarm is the share, in percent, from which the queue is nearly full.
const LogQueueAlarm = 80

const queueHasRoom = "less than 80% full"

// checkLogQueue asks how much of the journal waits for the server.
func checkLogQueue(ctx context.Context, m *Machine, l profiles.RemoteLog) (string, error) {
	q, err := ReadLogQueue(ctx, m)
	if err != nil {
		return "", err
	}
	if full := q.Full(l.JournalMiB); full >= LogQueueAlarm && m.Config != nil && m.Config.Logging != nil {
		return fmt.Sprintf("%d%% full: %s", full, q), nil
	}
	return queueHasRoom, nil
}
