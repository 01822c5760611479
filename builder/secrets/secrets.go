// Package secrets is the gate before an image gets its name: it looks through a
// tree for what no image may hold, because every machine made from it would
// share it. A find fails the build and names the file.
package secrets

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// Finding is one secret.
type Finding struct {
	Path string // in the tree, from "/"
	Line int    // from 1; 0: the file as a whole
	What string
}

func (f Finding) String() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.What)
	}
	return f.Path + ": " + f.What
}

// forbidden are files that must not be there, or must be empty, by their path.
var forbidden = []struct {
	pattern string // of path.Match, without the leading slash
	empty   bool   // allowed when empty
	what    string
}{
	{"etc/machine-id", true, "machine-id: two machines would have one identity (machine-id(5))"},
	{"var/lib/dbus/machine-id", true, "machine-id: two machines would have one identity (machine-id(5))"},
	{"etc/ssh/ssh_host_*", false, "SSH host key"},
	{"var/lib/systemd/random-seed", false, "random seed (systemd-random-seed(8))"},
	{"var/lib/systemd/credential.secret", false, "key of systemd's credentials (systemd-creds(1))"},
	{"root/.ssh/*", false, "SSH file of root"},
	{"home/*/.ssh/*", false, "SSH file of a person"},
	{"root/.*_history", false, "history of commands"},
	{"home/*/.*_history", false, "history of commands"},
	{"etc/ward/machine.json", false, "machine file"},
	{"etc/ssl/private/*", false, "private key of the build host's or a package's making"},
}

// patterns are secrets inside of text.
var patterns = []struct {
	re   *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----`), "private key"},
	{regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]{58}`), "age identity"},
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`), "access key of AWS"},
	{regexp.MustCompile(`\bgh[pousr]_[0-9A-Za-z]{36,}\b`), "token of GitHub"},
	{regexp.MustCompile(`\bxox[abprs]-[0-9A-Za-z-]{10,}\b`), "token of Slack"},
	{regexp.MustCompile(`^(?:Authorization|X-Auth-Token): \S+`), "authorization header"},
}

// hash is a usable password hash in the second field of /etc/shadow (shadow(5),
// crypt(5)): what is locked starts with "!" or "*".
var hash = regexp.MustCompile(`^[^:]*:(?:\$|[./0-9A-Za-z]{13}:|_)`)

const (
	maxFile = 4 << 20  // bytes of a file that are looked at; text with secrets is short
	sniff   = 8 << 10  // bytes in which a zero byte makes a file binary
	maxLine = 64 << 10 // bytes of a line
)

// Scan looks at every file of a tree and returns all that it finds. It reads no
// binary: libraries that handle keys have the words in them.
func Scan(tree fs.FS) ([]Finding, error) {
	var all []Finding
	files := 0
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		files++
		info, err := d.Info()
		if err != nil {
			return err
		}
		for _, f := range forbidden {
			if ok, _ := path.Match(f.pattern, name); ok && !(f.empty && info.Size() == 0) {
				all = append(all, Finding{Path: "/" + name, What: f.what})
				return nil
			}
		}
		found, err := scanFile(tree, name)
		all = append(all, found...)
		return err
	})
	if err == nil && files == 0 {
		err = errors.New("the tree has no files")
	}
	if err != nil {
		return all, fmt.Errorf("look for secrets: %w", err)
	}
	return all, nil
}

func scanFile(tree fs.FS, name string) ([]Finding, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(io.LimitReader(f, maxFile), maxLine)
	if head, err := in.Peek(sniff); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if bytes.IndexByte(head, 0) >= 0 {
		return nil, nil
	}
	shadow := strings.HasPrefix(name, "etc/") && strings.Contains(path.Base(name), "shadow")
	var all []Finding
	for line := 1; ; line++ {
		text, err := in.ReadSlice('\n')
		for _, p := range patterns {
			if p.re.Match(text) {
				all = append(all, Finding{"/" + name, line, p.what})
			}
		}
		if shadow && hash.Match(text) {
			all = append(all, Finding{"/" + name, line, "password hash"})
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			line-- // the line goes on
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, fmt.Errorf("/%s: %w", name, err)
		}
	}
}

// Refuse returns an error that names every find, or nil.
func Refuse(found []Finding) error {
	if len(found) == 0 {
		return nil
	}
	lines := make([]string, len(found))
	for i, f := range found {
		lines[i] = f.String()
	}
	return fmt.Errorf("the image would hold %d secrets:\n%s\nhint: what one machine needs belongs into its machine file, not into the image", len(found), strings.Join(lines, "\n"))
}
