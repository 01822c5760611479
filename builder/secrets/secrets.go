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

// patterns are secrets inside of text. A line with none of the words cannot match.
var patterns = []struct {
	re    *regexp.Regexp
	words []string
	what  string
}{
	{regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----`), []string{"PRIVATE KEY-----"}, "private key"},
	{regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]{58}`), []string{"AGE-SECRET-KEY-1"}, "age identity"},
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`), []string{"AKIA", "ASIA"}, "access key of AWS"},
	{regexp.MustCompile(`\bgh[pousr]_[0-9A-Za-z]{36,}\b`), []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, "token of GitHub"},
	{regexp.MustCompile(`\bxox[abprs]-[0-9A-Za-z-]{10,}\b`), []string{"xox"}, "token of Slack"},
	{regexp.MustCompile(`^(?:Authorization|X-Auth-Token): \S+`), []string{"Authorization: ", "X-Auth-Token: "}, "authorization header"},
}

// hash is a usable password hash in the second field of /etc/shadow (shadow(5),
// crypt(5)): what is locked starts with "!" or "*".
var hash = regexp.MustCompile(`^[^:]*:(?:\$|[./0-9A-Za-z]{13}:|_)`)

const (
	maxFile = 4 << 20  // bytes of a file that are looked at; text with secrets is short
	sniff   = 8 << 10  // bytes in which a zero byte makes a file binary
	maxLine = 64 << 10 // bytes of a line
)

// Scan looks at every file of a tree and returns all that it finds.
func Scan(tree fs.FS) ([]Finding, error) {
	var all []Finding
	files := 0
	var s Scanner
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
		if f, bad := Forbidden(name, info.Size()); bad {
			all = append(all, f)
			return nil
		}
		f, err := tree.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		found, err := s.Scan(name, f)
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

// Forbidden tells whether a file of this name and size, in bytes, may not be there.
func Forbidden(name string, size int64) (Finding, bool) {
	for _, f := range forbidden {
		if ok, _ := path.Match(f.pattern, name); ok && !(f.empty && size == 0) {
			return Finding{Path: "/" + name, What: f.what}, true
		}
	}
	return Finding{}, false
}

// Scanner looks into files, one at a time; it keeps its buffer between them.
type Scanner struct{ buf bytes.Buffer }

// Scan looks into one file, which it reads to at most maxFile bytes. It looks into
// no binary: libraries that handle keys have the words in them.
func (s *Scanner) Scan(name string, r io.Reader) ([]Finding, error) {
	s.buf.Reset()
	if _, err := io.CopyN(&s.buf, r, sniff); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("/%s: %w", name, err)
	}
	if bytes.IndexByte(s.buf.Bytes(), 0) >= 0 {
		return nil, nil
	}
	if _, err := io.CopyN(&s.buf, r, maxFile-sniff); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("/%s: %w", name, err)
	}
	shadow := strings.HasPrefix(name, "etc/") && strings.Contains(path.Base(name), "shadow")
	if !shadow && !suspicious(s.buf.Bytes()) {
		return nil, nil
	}
	var all []Finding
	in := bufio.NewReaderSize(&s.buf, maxLine)
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

// suspicious tells whether a text has any word of any pattern. Nearly none has,
// and looking for words is much faster than matching each line.
func suspicious(text []byte) bool {
	for _, p := range patterns {
		for _, w := range p.words {
			if bytes.Contains(text, []byte(w)) {
				return true
			}
		}
	}
	return false
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
