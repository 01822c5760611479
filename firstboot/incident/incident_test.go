package incident

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func options(t *testing.T) Options {
	return Options{Reason: "a laptop is missing", By: "alice", Dir: t.TempDir(), Proc: "/proc", PHI: []string{"/var/data/phi"},
		Verify: []byte(`{"version":1}`), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
		Run: func(_ context.Context, argv ...string) (string, error) {
			switch argv[0] {
			case "lastb":
				return "", fmt.Errorf("lastb: %w", exec.ErrNotFound)
			case "ausearch": // nothing found
				return "<no matches>", exec.Command("sh", "-c", "exit 1").Run()
			case "nft":
				return "half of it", errors.New("killed")
			}
			return "answer of " + argv[0] + "\n", nil
		}}
}

func TestCollect(t *testing.T) {
	o := options(t)
	var sent []byte
	var copied []string
	o.Sign = func(_ context.Context, file string) error {
		return os.WriteFile(file+".sig", []byte("signature"), 0o600)
	}
	o.Send = func(what, file string, content []byte) error {
		if what != "incident record" || file != "20261123T120000Z.json" {
			t.Errorf("Send(%q, %q)", what, file)
		}
		sent = content
		return nil
	}
	o.Copy = func(_ context.Context, files ...string) (string, error) { copied = files; return "snapshot 1234", nil }
	r, err := Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Record.NoticeBy != "2027-01-22" { // 60 days after 2026-11-23
		t.Errorf("notice by %s, want 2027-01-22", r.Record.NoticeBy)
	}
	var missing []string
	for _, m := range r.Record.Missing {
		missing = append(missing, m.What)
	}
	if got := strings.Join(missing, "; "); got != "firewall rules; failed logins" {
		t.Errorf("missing: %q, want the tool that is not there and the one that was killed", got)
	}
	files := map[string]bool{}
	for _, i := range r.Record.Items {
		b, err := os.ReadFile(filepath.Join(r.Folder, i.File))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != i.SHA256 {
			t.Errorf("%s has another digest than the record says", i.File)
		}
		files[i.File] = true
	}
	for _, want := range []string{"sessions-who.txt", "audit-phi.txt", "programs.txt", "firewall.txt", "verify.json", "record.json"} {
		if !files[want] {
			t.Errorf("no %s", want)
		}
	}
	out, err := exec.Command("sh", "-c", "cd '"+r.Folder+"' && sha256sum --check --quiet SHA256SUMS && cd .. && sha256sum --check --quiet *.tar.gz.sha256").CombinedOutput()
	if err != nil {
		t.Errorf("sha256sum: %v: %s", err, out)
	}
	if record, err := os.ReadFile(filepath.Join(r.Folder, "record.json")); err != nil || string(record) != string(sent) {
		t.Errorf("the log server got another record than the folder has: %v", err)
	}
	if strings.Join(copied, " ") != r.Archive+" "+r.Archive+".sha256 "+r.Archive+".sha256.sig" {
		t.Errorf("copied %q, want archive, digest and signature", copied)
	}
	custody, err := os.ReadFile(filepath.Join(r.Folder, "custody.jsonl"))
	if err != nil || strings.Count(string(custody), "\n") != 2 || !strings.Contains(string(custody), `"who":"alice","did":"copied the archive to snapshot 1234"`) {
		t.Errorf("custody: %v, %s", err, custody)
	}
	if sig, err := os.ReadFile(filepath.Join(r.Folder, "SHA256SUMS.sig")); err != nil || string(sig) != "signature" {
		t.Errorf("signature: %v, %q", err, sig)
	}
	programs, _ := os.ReadFile(filepath.Join(r.Folder, "programs.txt"))
	self, _ := os.Executable()
	b, _ := os.ReadFile(self)
	sum := sha256.Sum256(b)
	if want := fmt.Sprintf("%d\t%s\t%s", os.Getpid(), hex.EncodeToString(sum[:]), self); !strings.Contains(string(programs), want) {
		t.Errorf("programs.txt has no %q", want)
	}
}

func TestSealedToOfficers(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Recipients = []age.Recipient{id.Recipient()}
	r, err := Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(r.Archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := age.Decrypt(f, id)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(plain)
	if err != nil {
		t.Fatal(err)
	}
	n, found := 0, false
	for a := tar.NewReader(z); ; n++ {
		h, err := a.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, "/record.json") {
			found = true
			var rec Record
			if err := json.NewDecoder(a).Decode(&rec); err != nil || rec.Reason != o.Reason {
				t.Errorf("record in the archive: %+v, %v", rec, err)
			}
		}
	}
	if n < 20 || !found {
		t.Errorf("the archive has %d files, record: %v", n, found)
	}
}

func TestReasonIsNeeded(t *testing.T) {
	o := options(t)
	o.Reason = " "
	if _, err := Collect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "reason is missing") {
		t.Errorf("Collect() = %v, want that a reason is missing", err)
	}
}

func TestOpenFiles(t *testing.T) {
	for _, names := range []bool{false, true} {
		o := options(t)
		o.PHI, o.Names = []string{t.TempDir()}, names
		f, err := os.Create(filepath.Join(o.PHI[0], "miller.pdf"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := Collect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(r.Folder, "open-files.txt"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), fmt.Sprint(os.Getpid(), "\t")) || strings.Contains(string(b), "miller") != names {
			t.Errorf("names %v: open-files.txt is %q", names, b)
		}
	}
}

// Without --names the names of PHI files, which can be PHI, are not asked for.
func TestNamesOnlyOnRequest(t *testing.T) {
	for _, names := range []bool{false, true} {
		o := options(t)
		o.Names = names
		asked := false
		for _, q := range questions(o) {
			if q.argv[0] == "find" && strings.Contains(strings.Join(q.argv, " "), "%p") {
				asked = true
			}
		}
		if asked != names {
			t.Errorf("names %v: asked for names: %v", names, asked)
		}
	}
}

// A backup server that is away, or a key that is not there, stops nothing and is
// written down where it can be found.
func TestAwayFails(t *testing.T) {
	o := options(t)
	o.Sign = func(context.Context, string) error { return errors.New("no such key") }
	o.Copy = func(context.Context, ...string) (string, error) { return "", errors.New("connection refused") }
	r, err := Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	custody, err := os.ReadFile(filepath.Join(r.Folder, "custody.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"could not make the copy on the backup server: connection refused", "could not make the signature of SHA256SUMS: no such key"} {
		if !strings.Contains(string(custody), want) {
			t.Errorf("custody does not say %q: %s", want, custody)
		}
	}
	if r.Copy != "" {
		t.Errorf("Copy = %q, want none", r.Copy)
	}
}
