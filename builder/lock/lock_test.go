package lock

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample() *Lock {
	return &Lock{
		Version: Version, Image: "debian-12", Release: "debian-12", Arch: "amd64", Made: time.Unix(1_700_000_000, 0).UTC(),
		Tool: "mmdebstrap 1.3.5", Wanted: []string{"sudo"}, Sources: "deb http://mirror.example/debian bookworm main\n",
		Indexes:  []Index{{"mirror_InRelease", strings.Repeat("a", 64)}},
		Packages: []Package{{"sudo", "1:1.9.13p3-1+deb12u4", "amd64", "http://mirror.example/sudo.deb", 5, strings.Repeat("b", 64)}},
	}
}

func TestWriteReadRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("Read() = %+v, %v, want %+v", got, err, sample())
	}
	if file := got.File(got.Packages[0]); file != "sudo_1.9.13p3-1+deb12u4_amd64.deb" {
		t.Errorf("File() = %s", file)
	}
}

// A lock of rpm packages names its files as a mirror does.
func TestRPM(t *testing.T) {
	l := sample()
	l.Format, l.Packages[0].Version, l.Packages[0].Arch = RPM, "1:1.9.5p2-10.el9_3", "x86_64"
	path := filepath.Join(t.TempDir(), "a.lock")
	if err := l.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || got.File(got.Packages[0]) != "sudo-1.9.5p2-10.el9_3.x86_64.rpm" {
		t.Errorf("Read() = %+v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Lock)
		want   string
	}{
		"other version": {func(l *Lock) { l.Version = 9 }, "version 9, want 1"},
		"no packages":   {func(l *Lock) { l.Packages = nil }, "packages: none"},
		"other format":  {func(l *Lock) { l.Format = "apk" }, `format "apk" is not known`},
		"rpm's version": {func(l *Lock) { l.Format, l.Packages[0].Version = RPM, "1.9" }, "form that no package has"},
		"rpm's path":    {func(l *Lock) { l.Format, l.Packages[0].Version = RPM, "1-1/../../x" }, "form that no package has"},
		"path as name":  {func(l *Lock) { l.Packages[0].Name = "../../etc/passwd" }, "form that no package has"},
		"path as arch":  {func(l *Lock) { l.Packages[0].Arch = "a/b" }, "form that no package has"},
		"short digest":  {func(l *Lock) { l.Packages[0].SHA256 = "ab" }, "not 64 hexadecimal digits"},
		"huge":          {func(l *Lock) { l.Packages[0].Size = maxPackage + 1 }, "size 4294967297"},
		"file url":      {func(l *Lock) { l.Packages[0].URL = "file:///etc/shadow" }, "neither http nor https"},
		"twice":         {func(l *Lock) { l.Packages = append(l.Packages, l.Packages[0]) }, "is there twice"},
		"no sources":    {func(l *Lock) { l.Sources = " " }, "sources is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			l := sample()
			c.change(l)
			path := filepath.Join(t.TempDir(), "a.lock")
			if err := l.Write(path); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Read() = %v, want an error that names the file and says %q", err, c.want)
			}
		})
	}
	if _, err := Read("/nowhere.lock"); err == nil || !strings.Contains(err.Error(), "hint: ward lock IMAGE writes it") {
		t.Errorf("Read() = %v, want a hint", err)
	}
}

func TestParseURIs(t *testing.T) {
	text := "'http://m/pool/b/bash_5.2_amd64.deb' bash_5.2_amd64.deb 10 SHA256:" + strings.Repeat("c", 64) +
		"\n'http://m/pool/s/sudo_1%3a2_amd64.deb' sudo_1%3a2_amd64.deb 20 SHA256:" + strings.Repeat("d", 64) + "\n"
	got, err := parseURIs(text, []Installed{{"sudo", "1:2", "amd64"}, {"bash", "5.2", "amd64"}})
	if err != nil || len(got) != 2 || got[0].Name != "bash" || got[1].Size != 20 || got[1].SHA256[0] != 'd' {
		t.Errorf("parseURIs() = %+v, %v", got, err)
	}
	for want, bad := range map[string]string{"cannot read": "hello\n", "no line for sudo": "", "size in": "'u' f x SHA256:1\n"} {
		if _, err := parseURIs(bad, []Installed{{"sudo", "1:2", "amd64"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseURIs(%q) = %v, want an error that says %q", bad, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.lock")
	if err := sample().Write(path); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "a.lock")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Read(path)
		if err != nil {
			return
		}
		for _, p := range l.Packages {
			if strings.ContainsAny(l.File(p), "/\x00\n") {
				t.Errorf("%q is no file name", l.File(p))
			}
		}
	})
}
