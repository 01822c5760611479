package control

import (
	"context"
	"fmt"
	"strings"
)

// probeUser is the throw-away account that checks try things on. It exists only
// in a private copy of /etc, inside a mount name space that ends with the check:
// nobody can log in as it, and nothing of it is left. What stays are the audit
// records of what was tried, which have this name in them.
const (
	probeUser = "ward-probe"
	probeUID  = 59999 // within what login.defs(5) calls people, below UID_MAX
	// probeHelper is who asks: root is asked for nothing.
	probeHelperUID = 59998
	// probePassword is its password, and probeHash that one's hash, with the fewest
	// rounds that crypt(5) allows: it is computed some twenty times in a check, and
	// protects nothing.
	probePassword = "Old-Passage-41-Green"
	probeHash     = `$5$rounds=1000$wardprobe$ZeOgUByYkVhScE/6.IU1rmK2wNUJrU8qPSHm6HBpOQ2`
	// probeMark starts each line of a script's answer, so that what the programs
	// themselves print is not taken for one.
	probeMark = "ward-probe: "
)

// asideScript is run first in the new mount name space. It hides what the
// programs under test would write to: the account files, the tally of failed
// logins, who is logged in, /var/log, and the journal's sockets, since a failed login of nobody
// every hour in the log would teach people to ignore failed logins.
//
// The host keys and ward's own files are not copied, nor what is large and says
// nothing about accounts.
const asideScript = `set -uf
umask 022
mount -t tmpfs -o mode=1777,size=64m ward-probe /tmp || exit 90
mkdir /tmp/etc || exit 90
find /etc -mindepth 1 -maxdepth 1 ! -name ssh ! -name ward ! -name ssl ! -name apparmor.d ! -name systemd ! -name apt ! -name audit -exec cp -a -t /tmp/etc {} + || exit 90
mount --bind /tmp/etc /etc || exit 90
mount -t tmpfs -o mode=0755,size=16m ward-probe /var/log || exit 90
mkdir -p /run/faillock
mount -t tmpfs -o mode=0755,size=1m ward-probe /run/faillock || exit 90
if [ -e /run/utmp ]; then touch /tmp/utmp; mount --bind /tmp/utmp /run/utmp || exit 90; fi
if [ -d /run/systemd/journal ]; then mount -t tmpfs -o mode=0755,size=1m ward-probe /run/systemd/journal || exit 90; fi
say() { printf '` + probeMark + `%s\n' "$*"; }
`

// aside runs a shell script on a private copy of the account files and returns
// the lines that it said. The script comes by standard input, so that what is in
// it is no argument; its name is one, for whoever lists processes.
func aside(ctx context.Context, m *Machine, name, script string) ([]string, error) {
	out, err := m.RunInput(ctx, asideScript+script, "unshare", "--mount", "--propagation", "private", "sh", "-c", `eval "$(cat)"`, name)
	if err != nil {
		return nil, fmt.Errorf("try it on a copy of the account files: %w", err)
	}
	var said []string
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), probeMark); ok {
			said = append(said, text)
		}
	}
	if len(said) == 0 {
		return nil, fmt.Errorf("the trial on a copy of the account files said nothing: %.200q", out)
	}
	return said, nil
}
