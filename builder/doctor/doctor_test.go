package doctor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLook(t *testing.T) {
	good := func(context.Context) (string, error) { return "here", nil }
	bad := func(context.Context) (string, error) { return "", errors.New("is not installed") }
	for name, c := range map[string]struct {
		checks []Check
		ok     bool
	}{
		"all there":            {[]Check{{"a", Build, good, "install a"}, {"b", Test, good, ""}}, true},
		"a build's missing":    {[]Check{{"a", Build, good, ""}, {"b", Build, bad, "install b"}}, false},
		"a test's missing":     {[]Check{{"b", Test, bad, "install b"}}, true},
		"some build's missing": {[]Check{{"b", Some, bad, "install b"}}, true},
		"only slower":          {[]Check{{"b", Speed, bad, "install b"}}, true},
		"first bad then good":  {[]Check{{"b", Build, bad, "install b"}, {"a", Build, good, ""}}, false},
	} {
		results, ok := Look(t.Context(), c.checks)
		if ok != c.ok || len(results) != len(c.checks) {
			t.Errorf("%s: Look() = %v, %v, want %v", name, results, ok, c.ok)
		}
		for _, r := range results {
			if r.Name == "b" && r.Missing != "" && r.Remedy != "install b" || r.Name == "a" && r.Remedy != "" {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]string{
		"ann:100000:65536\n":            "100000 and the next 65536",
		"1000:100000:65536\n":           "100000 and the next 65536",
		"bob:1:65536\nann:7:70000\n":    "7 and the next 70000",
		"bob:100000:65536\n":            "none for ann (1000)",
		"":                              "none for ann (1000)",
		"ann:100000:1000\n":             "ann has 1000 ids, want 65536",
		"ann:100000:many\n":             "cannot read",
		"annabel:100000:65536\nann:1\n": "none for ann",
	} {
		found, err := ranges(text, "ann", "1000")
		if err != nil {
			found = err.Error()
		}
		if !strings.HasPrefix(found, want) {
			t.Errorf("ranges(%q) = %q, want %q", text, found, want)
		}
	}
	if _, err := ranges(":1:65536\n", "", "1000"); err == nil {
		t.Error("a line without a name fits somebody without a name")
	}
}

// Every check has a name and says what to do; those of a BIOS and of keyrings are
// there when they are asked for.
func TestChecks(t *testing.T) {
	dir := t.TempDir()
	spec := Spec{Cache: filepath.Join(dir, "not", "yet"), Output: dir, Keyrings: map[string]string{"/nowhere.gpg": "some-keyring"}, KeyringNeed: Build, BIOS: true, Log: slog.New(slog.DiscardHandler)}
	all := Checks(spec)
	names := map[string]bool{}
	for _, c := range all {
		if c.Name == "" || c.Remedy == "" || c.Look == nil || names[c.Name] {
			t.Errorf("%+v lacks something, or is there twice", c)
		}
		names[c.Name] = true
	}
	if !names["syslinux"] || !names["/nowhere.gpg"] || !names["namespaces"] {
		t.Errorf("checks are %v", names)
	}
	i := slices.IndexFunc(all, func(c Check) bool { return c.Name == "/nowhere.gpg" })
	results, ok := Look(t.Context(), all[i:i+1])
	if ok || results[0].Missing != "is not there" || !strings.Contains(results[0].Remedy, "install some-keyring") {
		t.Errorf("a missing keyring: %+v, %v", results, ok)
	}
	if slices.ContainsFunc(Checks(Spec{Log: spec.Log}), func(c Check) bool { return c.Name == "syslinux" }) {
		t.Error("syslinux is asked for without an image that needs it")
	}
	if found, err := room(spec.Cache); err != nil || !strings.HasSuffix(found, dir) {
		t.Errorf("room(%s) = %q, %v, want that of the nearest folder", spec.Cache, found, err)
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"": "no emulator is registered",
		"disabled\ninterpreter /usr/libexec/qemu\nflags: POF\n": "is not enabled",
		"enabled\ninterpreter /usr/libexec/qemu\nflags: PO\n":   "has no flag F",
	} {
		if text != "" {
			if err := os.WriteFile(filepath.Join(dir, "qemu-aarch64"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := foreign(dir, "aarch64"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("foreign(%q) = %q, %v, want an error that says %q", text, got, err, want)
		}
		os.Remove(filepath.Join(dir, "qemu-aarch64"))
	}
	if err := os.WriteFile(filepath.Join(dir, "qemu-aarch64"), []byte("enabled\ninterpreter /usr/libexec/qemu\nflags: POF\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := foreign(dir, "aarch64"); err != nil || got != "/usr/libexec/qemu" {
		t.Errorf("foreign() = %q, %v, want the emulator", got, err)
	}
}
