package machine

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"ward/images/strict"
)

// backupEnv are the variables that restic reads credentials from and that may be
// set; others could change what restic does (RESTIC_REPOSITORY, RCLONE_...).
var backupEnv = []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_PROFILE", "RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD"}

// sftpPlace is sftp:USER@HOST:/PATH, and sftpURL the form of restic that can name
// a port: sftp://USER@HOST:PORT//PATH, whose second slash makes the path absolute.
var (
	sftpPlace = regexp.MustCompile(`^sftp:([A-Za-z_][A-Za-z0-9_.-]*)@([^:/@\s]+):(/[^\s]*)$`)
	sftpURL   = regexp.MustCompile(`^sftp://([A-Za-z_][A-Za-z0-9_.-]*)@([^:/@\s]+)(?::([0-9]{1,5}))?/(/[^\s]*)$`)
)

// SFTP is where a repository of kind sftp lies; Port is empty when none is named.
type SFTP struct{ User, Host, Port, Path string }

// SFTPPlace takes a repository of kind sftp apart; false: it has another form.
func SFTPPlace(repository string) (SFTP, bool) {
	if m := sftpPlace.FindStringSubmatch(repository); m != nil {
		return SFTP{User: m[1], Host: m[2], Path: m[3]}, true
	}
	m := sftpURL.FindStringSubmatch(repository)
	if m == nil {
		return SFTP{}, false
	}
	if port, err := strconv.Atoi(m[3]); m[3] != "" && (err != nil || port < 1 || port > 65535) {
		return SFTP{}, false
	}
	return SFTP{User: m[1], Host: m[2], Port: m[3], Path: m[4]}, true
}

// backup checks the repository. Its messages do not show the place, which may
// hold a password.
func (c check) backup(b *Backup) {
	const at = "backup.repository"
	kind, rest, _ := strings.Cut(b.Repository, ":")
	switch kind {
	case "sftp":
		if place, ok := SFTPPlace(b.Repository); !ok || !isHost(place.Host) {
			c.d.Fault(at, "", "want the form sftp:USER@HOST:/PATH or sftp://USER@HOST:PORT//PATH")
		}
		c.sftp(b)
	case "rest", "s3":
		u, err := url.Parse(rest)
		switch {
		case err != nil || u.Host == "" || strings.ContainsAny(rest, " \t\r\n"):
			c.d.Fault(at, "", "want the form %s:https://HOST/PATH", kind)
		case u.Scheme != "https":
			c.d.Fault(at, "backups leave the machine by TLS only", "has scheme %q, want https", u.Scheme)
		}
		if kind == "s3" {
			for _, key := range backupEnv[:2] {
				if b.Env[key] == "" {
					c.d.Fault("backup.env."+key, "s3 needs it", "is missing")
				}
			}
		}
		if b.CA != "" {
			c.authority("backup.ca", b.CA)
		}
	default:
		hint := "such as sftp:backup@backup.example.org:/srv/restic"
		if near := strict.Nearest(kind, []string{"sftp", "rest", "s3"}); near != "" {
			hint = "did you mean " + near + ":?"
		}
		c.d.Fault(at, hint, "is no place of kind sftp, rest or s3")
	}
	for key, value := range b.Env {
		if !slices.Contains(backupEnv, key) {
			c.d.Fault("backup.env."+key, "allowed are "+strings.Join(backupEnv, ", "), "is not a variable that a backup needs")
		}
		if strings.ContainsAny(value, "\r\n\x00") {
			c.d.Fault("backup.env."+key, "", "is more than one line")
		}
	}
	for i, e := range b.Exclude {
		if e == "" || strings.ContainsAny(e, "\r\n\x00") || path.Clean(e) == "/" {
			c.d.Fault(fmt.Sprintf("backup.exclude[%d]", i), "", "is %q, which is no pattern, or leaves out everything", e)
		}
	}
	if strings.ContainsAny(b.Password, "\r\n\x00") {
		c.d.Fault("backup.password", "restic reads one line", "is more than one line")
	}
}

// sftp checks what an SSH login without a person needs.
func (c check) sftp(b *Backup) {
	if strings.TrimSpace(b.KnownHosts) == "" {
		c.d.Fault("backup.known_hosts", "ssh-keyscan HOST prints its lines; compare them with the server's own", "is missing, and sftp needs it")
	} else {
		c.knownHosts(b.KnownHosts)
	}
	if b.SSHKey == "" {
		c.d.Fault("backup.ssh_key", "ssh-keygen -t ed25519 -N '' makes one", "is missing, and sftp needs it")
		return
	}
	if _, err := ssh.ParseRawPrivateKey([]byte(b.SSHKey)); err != nil {
		c.d.Fault("backup.ssh_key", "no passphrase: nobody is there to type it", "is no private SSH key without a passphrase")
	}
}

func (c check) knownHosts(text string) {
	rest := []byte(text)
	found := 0
	for len(strings.TrimSpace(string(rest))) > 0 {
		var err error
		var marker string
		marker, _, _, _, rest, err = ssh.ParseKnownHosts(rest)
		if err != nil {
			break
		}
		if marker != "revoked" {
			found++
		}
	}
	if found == 0 || len(strings.TrimSpace(stripComments(string(rest)))) > 0 {
		c.d.Fault("backup.known_hosts", "lines such as: backup.example.org ssh-ed25519 AAAA...", "holds a line that is no key of a host")
	}
}

func stripComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
