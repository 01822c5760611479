package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUpdateFile(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	const name = "etc/ssh/sshd_config.d/00-ward.conf"
	for i, step := range []struct {
		content string
		mode    fs.FileMode
		changed bool
	}{
		{"a\n", 0o644, true},
		{"a\n", 0o644, false},
		{"a\n", 0o600, true},
		{"b\n", 0o600, true},
		{"b\n", 0o600, false},
	} {
		before, _ := os.Stat(filepath.Join(dir, name))
		changed, err := updateFile(root, name, step.content, step.mode)
		if err != nil || changed != step.changed {
			t.Fatalf("step %d: updateFile() = %v, %v, want %v", i, changed, err, step.changed)
		}
		after, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := after.Mode(); got != step.mode {
			t.Errorf("step %d: mode %v, want %v", i, got, step.mode)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != step.content {
			t.Errorf("step %d: content %q, want %q", i, got, step.content)
		}
		if before != nil && os.SameFile(before, after) == changed {
			t.Errorf("step %d: changed %v, and the same inode: %v", i, changed, os.SameFile(before, after))
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, filepath.Dir(name))); len(left) != 1 {
		t.Errorf("the folder has %v, want the file alone", left)
	}
}

func TestUpdateFileReplacesWhatAPowerCutLeft(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	if err := os.WriteFile(filepath.Join(dir, ".x-ward-new"), []byte("hal"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(root, "x", "half\n", 0o644); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "x" {
		t.Errorf("the folder has %v, want x alone", left)
	}
}

func TestUpdateFileReplacesALink(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "victim"), []byte("v"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("victim", filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(root, "x", "new", 0o644); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "victim")); string(got) != "v" {
		t.Errorf("the link's target was written: %q", got)
	}
	if info, _ := os.Lstat(filepath.Join(dir, "x")); !info.Mode().IsRegular() {
		t.Errorf("x is %v, want a regular file", info.Mode())
	}
}

func TestUpdateFileRefuses(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name, path, want string
		make             func(dir string) error
	}{
		{"a directory", "x", "is a directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "x"), 0o755) }},
		{"a parent that leads out", "out/x", "escapes", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "out")) }},
		{"dots", "../x", "escapes", func(string) error { return nil }},
	} {
		dir := t.TempDir()
		if err := c.make(dir); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(openRoot(t, dir), c.path, "new", 0o644); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: writeFile() = %v, want an error with %q", c.name, err, c.want)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("outside of the root there is %v now", left)
	}
}

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) ExitCode() int { return int(e) }

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{exitError(2), 2},
		{fmt.Errorf("getent: %w", exitError(2)), 2},
		{errors.New("no such program"), -1},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}
