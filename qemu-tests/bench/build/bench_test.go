package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ward/images/distro"
)

func newSeries(name string, took ...time.Duration) *series {
	s := &series{step: step{name: name}}
	for i, d := range took {
		s.samples = append(s.samples, sample{d, int64(i+1) << 20})
	}
	return s
}

func TestMedian(t *testing.T) {
	m, text := newSeries("x", 9*time.Second, time.Second, 5*time.Second).median()
	if m != 5*time.Second || text != "5.00 (1.00-9.00)" {
		t.Errorf("median() = %s, %q, want 5s and its range", m, text)
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	err := report(&b, []*series{
		newSeries(mmdebstrapAlone, 100*time.Second), newSeries(wardCold, 110*time.Second), newSeries(wardIncremental, 6*time.Second),
		newSeries(wardNothing, 300*time.Millisecond), newSeries(mkosiIncremental, 23*time.Second),
		newSeries(wardBoot, 60*time.Second), newSeries(plainBoot, 30*time.Second), newSeries(plainFirst),
	}, usage{image: 180 << 20, cold: 450 << 20, cache: 540 << 20}, "tcg")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"ward, cold 1 110.00 (110.00-110.00) 1", "ward, cold / mmdebstrap alone 1.10 at most 1.15: yes",
		"ward, one parameter / mkosi, one file 0.26 at most 0.25: no", "ward, one parameter 6.00 at most 5.00: no",
		"ward, nothing changed 0.30 at most 0.50: yes", "image 180 MiB; cache after a cold build 450 MiB, 2.50 times the image, at most 2.50: yes; after all builds 540 MiB, 3.00 times",
		"ward, boot to its verdict / plain Debian, boot to multi-user.target 2.00", "machines: QEMU, tcg",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(got, "/ mkosi, cold") || strings.Contains(got, plainFirst) {
		t.Errorf("a ratio of what was not measured:\n%s", b.String())
	}
}

// What mmdebstrap alone installs is what ward installs, and so does mkosi.
func TestSamePackages(t *testing.T) {
	b := &bench{dir: t.TempDir(), image: "debian-12", ward: "ward", log: slog.New(slog.DiscardHandler)}
	if err := b.prepare(t.Context(), parts{ward: true}); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(b.packages) || !slices.Contains(b.packages, "openssh-server") || !slices.ContainsFunc(b.packages, func(p string) bool { return strings.HasPrefix(p, "linux-image-") }) {
		t.Errorf("packages %q", b.packages)
	}
	if !slices.Contains(b.mmdebstrap(), "--include="+strings.Join(b.packages, ",")) {
		t.Errorf("mmdebstrap is called with %q", b.mmdebstrap())
	}
	conf := mkosiConf(distro.Release{ID: "debian", Codename: "bookworm"}, "http://mirror.example/debian", []string{"a", "b"})
	if !strings.Contains(conf, "Release=bookworm\nLocalMirror=http://mirror.example/debian\n") || !strings.Contains(conf, "Packages=a\n         b\n") {
		t.Errorf("mkosi.conf:\n%s", conf)
	}
}

func TestFirstMirror(t *testing.T) {
	for text, want := range map[string]string{
		"# comment\ndeb http://a.example/debian bookworm main\ndeb http://b.example/debian x main\n": "http://a.example/debian",
		"deb [arch=amd64 signed-by=/x.gpg] http://a.example/debian bookworm main\n":                  "http://a.example/debian",
		"deb [trusted=yes] http://a.example/debian bookworm main\n":                                  "http://a.example/debian",
	} {
		if got, err := firstMirror(text); err != nil || got != want {
			t.Errorf("firstMirror(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := firstMirror("deb-src http://a.example/debian x main\n"); err == nil {
		t.Errorf("firstMirror(no binary packages) = %q, want an error", got)
	}
}

// A cold run finds nothing of the one before, and each incremental one has another profile.
func TestCases(t *testing.T) {
	b := &bench{dir: t.TempDir(), image: "debian-12", ward: "ward", log: slog.New(slog.DiscardHandler)}
	for _, name := range []string{"cache/x", "out/y"} {
		if err := put(b.path(name), "old"); err != nil {
			t.Fatal(err)
		}
	}
	profiles := map[string]bool{}
	for _, c := range b.cases(parts{ward: true}) {
		for run := range 2 {
			if c.before != nil && os.Geteuid() == 0 {
				if err := c.before(context.Background(), run); err != nil {
					t.Fatal(err)
				}
			}
			if argv := c.argv(run); c.name == wardIncremental {
				profiles[argv[slices.Index(argv, "--profile")+1]] = true
			}
		}
		if c.name == wardCold && os.Geteuid() == 0 {
			for _, name := range []string{"cache", "out"} {
				if _, err := os.Stat(b.path(name)); !os.IsNotExist(err) {
					t.Errorf("%s is there (%v) before a cold build", name, err)
				}
			}
		}
	}
	if len(profiles) != 2 {
		t.Errorf("profiles of the incremental runs: %v", profiles)
	}
}

func TestMeasure(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	x, err := b.program(t.Context(), []string{"sh", "-c", "sleep 0.05"})
	if err != nil || x.took < 50*time.Millisecond || x.memory == 0 {
		t.Errorf("program() = %+v, %v", x, err)
	}
	if _, err := b.program(t.Context(), []string{"sh", "-c", "echo no room; exit 1"}); err == nil || !strings.Contains(err.Error(), "last.log") {
		t.Errorf("program() = %v, want an error that names the log", err)
	}
	if n, err := allocated(b.dir); err != nil || n == 0 {
		t.Errorf("allocated() = %d, %v", n, err)
	}
	if _, err := allocated(filepath.Join(b.dir, "gone")); err == nil {
		t.Error("allocated(gone) is no error")
	}
}

func TestParse(t *testing.T) {
	if p, err := parse("ward,boot"); err != nil || p != (parts{ward: true, boot: true}) {
		t.Errorf("parse() = %+v, %v", p, err)
	}
	if _, err := parse("ward,boots"); err == nil || !strings.Contains(err.Error(), `"boots" is not one of`) {
		t.Errorf("parse(boots) = %v, want an error that names it", err)
	}
}

// Each part can be measured by itself: what it starts from is made by a case before.
func TestPartsBringWhatTheyNeed(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	for name, c := range map[string]struct {
		parts parts
		want  []string
	}{
		"mkosi": {parts{mkosi: true}, []string{mmdebstrapAlone, mkosiCold, mkosiIncremental}},
		"boot":  {parts{boot: true}, []string{wardCold, wardFirst, wardBoot, plainFirst, plainBoot}},
	} {
		var got []string
		for _, s := range b.cases(c.parts) {
			got = append(got, s.name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
