package proof

import (
	"crypto/sha512"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/GehirnInc/crypt/sha512_crypt"

	"ward/builder"
	"ward/builder/cache"
	"ward/builder/key"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/evidence"
	"ward/profiles/machine"
)

// folder is what ward build leaves, with a disk that is none.
func folder(t *testing.T, volumes ...profiles.Volume) string {
	t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	p.Controls.PHI.Volumes = volumes
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(disk, []byte("a disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := cache.Sum(disk)
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := json.Marshal(map[string]any{"profile": p, "more": 1})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(builder.Manifest{
		Version: builder.ManifestVersion, Image: "debian-12", Digest: "d", Inputs: inputs,
		Files: map[string]builder.File{"disk.qcow2": {Size: 6, SHA256: sum}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenImage(t *testing.T) {
	dir := folder(t)
	i, err := OpenImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	if i.Profile.Controls.SSHD.MaxAuthTries != 3 || i.Manifest.Image != "debian-12" {
		t.Errorf("profile %+v of %s", i.Profile.Controls.SSHD, i.Manifest.Image)
	}
	if err := os.WriteFile(i.Disk(), []byte("a dusk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenImage(dir); err == nil || !strings.Contains(err.Error(), "disk.qcow2: sha256 is") {
		t.Errorf("of a changed disk: %v", err)
	}
	if err := os.Remove(i.Disk()); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenImage(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the disk: %v", err)
	}
	if _, err := OpenImage(t.TempDir()); err == nil || !strings.Contains(err.Error(), "hint: ward build") {
		t.Errorf("of an empty folder: %v", err)
	}
}

func TestFixture(t *testing.T) {
	i, err := OpenImage(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, err := NewFixture(t.Context(), dir, i, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{f.Key, f.Ignition} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", name, info.Mode().Perm())
		}
	}
	config, err := os.ReadFile(f.Ignition)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range []Person{f.Admin, f.Clerk, f.Outsider} {
		if !strings.Contains(string(config), `"`+p.Name+`"`) || strings.Contains(string(config), p.Password) {
			t.Errorf("the config names %s: %v; it has the password in clear: %v", p.Name, strings.Contains(string(config), p.Name), strings.Contains(string(config), p.Password))
		}
		if seen[p.Password] || len(p.Password) < 32 {
			t.Errorf("%s: password of %d characters, shared: %v", p.Name, len(p.Password), seen[p.Password])
		}
		seen[p.Password] = true
	}
	for _, p := range f.Config.People {
		if err := sha512_crypt.New().Verify(p.PasswordHash, []byte(passwordOf(f, p))); err != nil {
			t.Errorf("%s: hash %s: %v", p.Name, p.PasswordHash, err)
		}
	}
	if a, b := f.Config.People[0].Groups, f.Config.People[2].Groups; len(a) != 1 || a[0] != "phi-access" || len(b) != 0 {
		t.Errorf("groups %q and %q", a, b)
	}
	// Two fixtures share nothing.
	g, err := NewFixture(t.Context(), t.TempDir(), i, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if digest(t, f.Key) == digest(t, g.Key) || f.Config.Backup.Password == g.Config.Backup.Password || f.Config.Logging.CA == g.Config.Logging.CA {
		t.Error("two fixtures share a secret")
	}
}

// TestFixtureVolumes: the key device has the key of each volume of the image.
func TestFixtureVolumes(t *testing.T) {
	i, err := OpenImage(folder(t, profiles.Volume{Name: "archive", Mount: "/var/data/archive"}))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	f, err := NewFixture(t.Context(), t.TempDir(), i, log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := key.Check(t.Context(), log, f.Key, []string{"phi-data", "archive"}); err != nil {
		t.Errorf("the key device: %v", err)
	}
	if a, b := (left{volume: "phi-data"}).setting(), (left{volume: "archive"}).setting(); a != "a file written before the reboot" || b != "archive: "+a {
		t.Errorf("the findings are called %q and %q", a, b)
	}
}

func passwordOf(f *Fixture, p machine.Person) string {
	for _, own := range []Person{f.Admin, f.Clerk, f.Outsider} {
		if own.Name == p.Name {
			return own.Password
		}
	}
	return ""
}

func digest(t *testing.T, name string) [64]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha512.Sum512(data)
}

// TestOutcome is the texts of golang.org/x/crypto/ssh and of OpenSSH that an
// answer is read from; all others are no answer.
func TestOutcome(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey], no supported methods remain", refused},
		{"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none], no supported methods remain", notOffered},
		{"ssh: handshake failed: ssh: disconnect, reason 2: Too many authentication failures", cut},
		{"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey password], no supported methods remain", ""},
		{"ssh: handshake failed: EOF", ""},
		{"no SSH server: EOF", ""},
		{"ssh: no common algorithm for key exchange", ""},
	} {
		got, err := outcome(errors.New(c.text))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("outcome(%q) = %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		got, want string
		err       error
		status    control.Status
	}{
		{"in", "in", nil, control.Pass},
		{"in", "refused", nil, control.Fail},
		{"", "", nil, control.Fail}, // nothing seen is nothing shown
		{"in", "in", errors.New("x"), control.Unknown},
	} {
		if got := judge(control.Finding{Got: c.got, Want: c.want}, c.err); got != c.status {
			t.Errorf("judge(%q, %q, %v) = %s, want %s", c.got, c.want, c.err, got, c.status)
		}
	}
}

func TestWriteReplacesWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "report")
	tt := &test{Options: Options{Report: dir, Out: t.Output()}, proof: &evidence.Proof{Version: evidence.ReportVersion, Image: "x"}, console: []byte("the console\n")}
	for range 2 {
		if err := tt.write(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "console.log junit.xml report.html report.json" {
		t.Errorf("the folder has %s", got)
	}
	// A proof that looked at nothing says so in each document.
	for name, want := range map[string]string{"junit.xml": `errors="1"`, "report.html": "? unknown", "console.log": "the console"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q: %v", name, want, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tt.Report = filepath.Join(dir, "file", "below")
	if err := tt.write(); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("write below a file = %v", err)
	}
}
