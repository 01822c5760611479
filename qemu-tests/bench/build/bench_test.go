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
	}, usage{image: 180 << 20, cache: 1400 << 20})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"ward, cold 110.00 (110.00-110.00) 1", "ward, cold / mmdebstrap alone 1.10 at most 1.15: yes",
		"ward, one parameter / mkosi, one file 0.26 at most 0.25: no", "ward, one parameter 6.00 at most 5.00: no",
		"ward, nothing changed 0.30 at most 0.50: yes", "image 180 MiB, cache 1400 MiB",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(got, "/ mkosi, cold") {
		t.Errorf("a ratio of what was not measured:\n%s", b.String())
	}
}

// What mmdebstrap alone installs is what ward installs, and so does mkosi.
func TestSamePackages(t *testing.T) {
	b := &bench{dir: t.TempDir(), image: "debian-12", ward: "ward", log: slog.New(slog.DiscardHandler)}
	if err := b.prepare(t.Context(), false); err != nil {
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
	for _, c := range b.cases(false) {
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
	x, err := b.measure(t.Context(), []string{"sh", "-c", "sleep 0.05"})
	if err != nil || x.took < 50*time.Millisecond || x.memory == 0 {
		t.Errorf("measure() = %+v, %v", x, err)
	}
	if _, err := b.measure(t.Context(), []string{"sh", "-c", "echo no room; exit 1"}); err == nil || !strings.Contains(err.Error(), "last.log") {
		t.Errorf("measure() = %v, want an error that names the log", err)
	}
	if n, err := allocated(b.dir); err != nil || n == 0 {
		t.Errorf("allocated() = %d, %v", n, err)
	}
	if _, err := allocated(filepath.Join(b.dir, "gone")); err == nil {
		t.Error("allocated(gone) is no error")
	}
}
