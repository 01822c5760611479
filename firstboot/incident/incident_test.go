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
