package qemutests

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ward/builder"
	"ward/builder/lock"
	"ward/builder/proof"
	"ward/builder/vm"
	"ward/profiles/control"
	"ward/qemu-tests/lookalike"
)

// plain is the default profile under a name of its own.
const plain = "name: plain\nextends: hipaa\n"

// ubuntuAnswers are what the machine is asked beside its safeguards.
var ubuntuAnswers = map[string]string{
	". /etc/os-release; echo $ID $VERSION_ID":                                                  "ubuntu 24.04",
	"cat /proc/$(pidof rsyslogd)/attr/current":                                                 "rsyslogd (enforce)",
	"systemctl is-active ssh.socket":                                                           "active",
	"find /lib/modules -name '*.ko' | wc -l":                                                   "0",
	"cat /etc/apt/preferences.d/ward-barred | grep ^Package:":                                  "Package: snapd cloud-init netplan.io",
	"grep -c . /etc/apt/sources.list":                                                          "3",
	"grep -ho 'signed-by=[^]]*' /etc/apt/sources.list | sort -u":                               "signed-by=/etc/apt/keyrings/ward-archive.gpg",
	"journalctl -b -t kernel -t audit | grep -c 'apparmor=.DENIED.*profile=.rsyslogd' || true": "0",
}

// TestLookalikeUbuntu builds Ubuntu's image, unchanged, from an archive in Ubuntu's
// shape, and grades it as ward test does. What is in the archive is Debian's.
func TestLookalikeUbuntu(t *testing.T) {
	t.Parallel()
	if err := vm.Missing(); err != nil {
		cannot(t, "%v", err)
	}
	if os.Geteuid() != 0 {
		cannot(t, "the archive is made as root")
	}
	url, keyring := ubuntuArchive(t)
	i := bake(t, lookalike.Image, plain, "--mirror", url, "--keyring", keyring)
	graded(t, i, ubuntuAnswers, nil)
}

// TestRealMirror is the same test for people who have a mirror: make test-real.
func TestRealMirror(t *testing.T) {
	name, mirror, keyring := os.Getenv("WARD_REAL_IMAGE"), os.Getenv("WARD_REAL_MIRROR"), os.Getenv("WARD_REAL_KEYRING")
	if name == "" || mirror == "" {
		t.Skip("is for make test-real IMAGE=ubuntu-24.04 MIRROR=URL")
	}
	if err := vm.Missing(); err != nil {
		cannot(t, "%v", err)
	}
	more := []string{"--mirror", mirror}
	if keyring != "" {
		more = append(more, "--keyring", keyring)
	}
	graded(t, bake(t, name, plain, more...), nil, nil)
}

// ubuntuArchive makes the archive and serves it until the test ends.
func ubuntuArchive(t *testing.T) (url, keyring string) {
	t.Helper()
	const ward = "../.bin/ward"
	if _, err := os.Stat(ward); err != nil {
		cannot(t, "%v: make build first", err)
	}
	// Where apt's own user may read: the test's folder is this user's alone.
	dir, err := os.MkdirTemp("", "ward-lookalike-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "packages.lock")
	if text, err := exec.CommandContext(t.Context(), ward, "lock", lookalike.From, "-o", name).CombinedOutput(); err != nil {
		t.Fatalf("ward lock: %v\n%s", err, text)
	}
	locked, err := lock.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := builder.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	store, err := lock.OpenStore(builder.StoreDir(cache))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Fetch(t.Context(), locked, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	a, err := lookalike.Make(t.Context(), slog.New(slog.DiscardHandler), locked, store, dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	return server.URL + "/ubuntu", a.Keyring
}

// graded is ward test of an image; answers are what scripts print on the machine
// when all is done, red what a look-alike cannot have: settings that fail, each time
// they are asked for, and what they get.
func graded(t *testing.T, i *proof.Image, answers, red map[string]string) {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	o := proof.Options{
		Dir: i.Dir, Version: "qemu-tests", State: filepath.Join(t.TempDir(), "machine"), Out: t.Output(),
		Log: slog.New(slog.DiscardHandler), Report: filepath.Join(artifacts(t), "report"),
	}
	o.Inspect = func(ctx context.Context, m *vm.VM, f *proof.Fixture) error {
		root, client, err := proof.Root(ctx, m, f)
		if err != nil {
			return err
		}
		defer client.Close()
		defer root.Close()
		for script, want := range answers {
			out, _, err := root.Run(ctx, script)
			if err != nil {
				return err
			}
			if got := strings.TrimSpace(out); got != want {
				t.Errorf("%s prints %q, want %q", script, got, want)
			}
		}
		return nil
	}
	result, err := proof.Run(t.Context(), o)
	if err != nil && (len(red) == 0 || !errors.Is(err, proof.ErrNotProved)) {
		t.Error(err)
	}
	if result == nil || len(result.Proof.Parts) < 4 {
		t.Fatal("it did not come to its end")
	}
	n, seen := 0, 0
	for _, p := range result.Proof.Parts {
		for _, f := range p.All() {
			n++
			got, ok := red[f.Control+": "+f.Setting]
			switch {
			case ok && f.Status == control.Fail && f.Got == got:
				seen++
			case ok, f.Status != control.Pass:
				t.Errorf("%s: %s", p.Name, proof.Line(f))
			}
		}
	}
	if want := 2 * len(red); seen != want { // before and after the reboot
		t.Errorf("%d findings that have to be red were, want %d", seen, want)
	}
	if n == 0 {
		t.Error("looked at nothing")
	}
}
