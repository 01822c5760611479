package backup

import (
	"fmt"
	"strings"
)

// Kind is what kept a command of restic's from its end.
type Kind string

const (
	Failed        Kind = "failed"         // none of the others
	Missing       Kind = "missing"        // there is no repository at the place
	Locked        Kind = "locked"         // another restic works on it, or died while it did
	WrongPassword Kind = "wrong-password" // the repository is there and another password opens it
	Unreachable   Kind = "unreachable"    // no connection to the server
	WrongHostKey  Kind = "wrong-host-key" // the server shows a key that is not pinned
	Refused       Kind = "refused"        // the server does not accept this machine
	Full          Kind = "full"           // no space, here or there
	Corrupted     Kind = "corrupted"      // what is in the repository is not what was written
	Incomplete    Kind = "incomplete"     // some files could not be read
	Absent        Kind = "absent"         // a PHI volume is not mounted; the others are copied
)

// Fault is a command of restic's that failed.
type Fault struct {
	Kind    Kind
	Command string
	Exit    int
	Text    string // the end of what restic said
}

func (f *Fault) Error() string {
	s := fmt.Sprintf("restic %s: %s (exit status %d): %s", f.Command, f.Kind, f.Exit, f.Text)
	if h := hints[f.Kind]; h != "" {
		s += "\nhint: " + h
	}
	return s
}

var hints = map[Kind]string{
	Missing:       "the repository is made once, by `wardctl backup init`; if it was there before, find out who removed it",
	Locked:        "if no other backup runs, `restic unlock` on the trusted side removes a lock that was left",
	WrongPassword: "compare backup.password in the machine's file with the repository's",
	Unreachable:   "look at the server, its name and the way to it",
	WrongHostKey:  "compare backup.known_hosts with the server's own key; another key can mean another server",
	Refused:       "the server refuses the SSH key or the password of this machine: compare backup in the machine's file with what it has",
	Full:          "make room on the repository's server, or on this machine's cache",
	Corrupted:     "keep the repository as it is, start another one, and see the server's disks",
	Incomplete:    "the files are named above",
	Absent:        "see why the volume is not there: `wardctl status`",
}

// Remedy is what to do about a fault of that kind; empty where only its text helps.
func (k Kind) Remedy() string { return hints[k] }

// texts tell faults apart where the exit status does not: until 0.17 restic ends
// with 1 for nearly all of them (its manual, "Scripting"). The order counts: what
// is more particular stands first.
var texts = []struct {
	text string
	kind Kind
}{
	{"remote host identification has changed", WrongHostKey},
	{"host key verification failed", WrongHostKey},
	{"no space left on device", Full},
	{"disk quota exceeded", Full},
	{"insufficient storage", Full},
	{"wrong password or no key found", WrongPassword},
	{"repository is already locked", Locked},
	{"unable to create lock", Locked},
	{"permission denied (publickey", Refused},
	{"permission denied", Refused},
	{"401 unauthorized", Refused},
	{"403 forbidden", Refused},
	{"unexpected http response (401)", Refused},
	{"unexpected http response (403)", Refused},
	{"access denied", Refused},
	{"connection refused", Unreachable},
	{"no such host", Unreachable},
	{"could not resolve hostname", Unreachable},
	{"i/o timeout", Unreachable},
	{"connection timed out", Unreachable},
	{"no route to host", Unreachable},
	{"network is unreachable", Unreachable},
	{"connection reset", Unreachable},
	{"x509:", Unreachable},
	{"tls:", Unreachable},
	{"connection closed", Unreachable},
	// restic may end before it has passed on what ssh said; then this is all there is.
	{"unable to start the sftp session", Unreachable},
	{"ciphertext verification failed", Corrupted},
	{"repository contains errors", Corrupted},
	{"pack id does not match", Corrupted},
	{"invalid data returned", Corrupted},
	{"is there a repository at the following location", Missing},
	{"repository does not exist", Missing},
}

// classify names a fault. Exit statuses 10 to 12 exist since restic 0.17.
func classify(exit int, said string) Kind {
	switch exit {
	case 3:
		return Incomplete
	case 10:
		return Missing
	case 11:
		return Locked
	case 12:
		return WrongPassword
	}
	said = strings.ToLower(said)
	for _, t := range texts {
		if strings.Contains(said, t.text) {
			return t.kind
		}
	}
	return Failed
}
