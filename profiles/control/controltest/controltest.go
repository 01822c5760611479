// Package controltest is the suite that every control has to pass: applied
// twice the second time changes nothing, on a machine that answers as a good one
// did every setting passes, and every setting is shown a machine on which it
// fails. The answers are recorded from real machines, in txtar files:
//
//	-- passwd -S root --
//	root L 11/23/2026 0 99999 7 -1
//	-- getent passwd nobody-such [exit 2] --
//
// It is used by tests of package control_test (outside the package, since this
// one imports control).
package controltest

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"ward/images/distro"
	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Output is what a program printed, and its exit status.
type Output struct {
	Stdout string
	Exit   int
}

// Exit is the error of a program that ended with a status other than 0, as
// *exec.ExitError is.
type Exit struct {
	Argv []string
	Code int
}

func (e *Exit) Error() string { return fmt.Sprintf("%q: exit status %d", e.Argv, e.Code) }

// ExitCode is the status, as in os.ProcessState.
func (e *Exit) ExitCode() int { return e.Code }

// Outputs are the answers of a machine, keyed by the argv joined by blanks. An
// answer to a program with standard input may be keyed by "argv <<< stdin".
type Outputs map[string]Output

var exitSuffix = regexp.MustCompile(` \[exit ([0-9]+)\]$`)

// Load reads recorded answers from a txtar file.
func Load(t *testing.T, file string) Outputs {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Files) == 0 {
		t.Fatalf("%s has no answers", file)
	}
	all := make(Outputs)
	for _, f := range a.Files {
		name, exit := f.Name, 0
		if m := exitSuffix.FindStringSubmatch(name); m != nil {
			name = strings.TrimSuffix(name, m[0])
			exit, _ = strconv.Atoi(m[1])
		}
		if _, twice := all[name]; twice {
			t.Fatalf("%s answers %q twice", file, name)
		}
		all[name] = Output{string(f.Data), exit}
	}
	return all
}

// With returns a copy in which some answers are others.
func (o Outputs) With(change Outputs) Outputs {
	all := make(Outputs, len(o))
	for k, v := range o {
		all[k] = v
	}
	for k, v := range change {
		all[k] = v
	}
	return all
}

// Machine is a machine that gives these answers; a program without one is an
// error, as a missing program is.
func (o Outputs) Machine(r distro.Release, p *profiles.Profile, c *machine.Machine) *control.Machine {
	run := func(stdin string, argv []string) (string, error) {
		key := strings.Join(argv, " ")
		out, ok := o[key+" <<< "+strings.TrimSuffix(stdin, "\n")]
		if !ok {
			out, ok = o[key]
		}
		if !ok {
			return "", fmt.Errorf("%q: no recorded answer", argv)
		}
		if out.Exit != 0 {
			return out.Stdout, &Exit{argv, out.Exit}
		}
		return out.Stdout, nil
	}
	return &control.Machine{
		Release: r, Profile: p, Config: c,
		Run: func(_ context.Context, argv ...string) (string, error) { return run("", argv) },
		RunInput: func(_ context.Context, stdin string, argv ...string) (string, error) {
			return run(stdin, argv)
		},
	}
}

// Break is a machine that is good but for a few answers.
type Break struct {
	Name    string // of the tamper, for the failure text
	Setting string // the setting that has to notice
	Change  Outputs
	// Got has to be in what the failing check got.
	Got string
}

// Suite is one control on one release.
type Suite struct {
	Control control.Control
	Release distro.Release
	Profile *profiles.Profile
	Machine *machine.Machine // for the first boot and the check; may be nil
	// Tree is what is in the image's tree before the control is applied:
	// path to content.
	Tree map[string]string
	// Command stands for the programs that Apply runs in the target. nil: each
	// succeeds and prints nothing. Tree is the target's folder.
	Command func(tree string, argv []string) (stdout string, err error)
	// Golden is a folder below testdata; every file that Apply has written is
	// compared with the file of the same path in it, and the programs that it
	// ran, one a line, with "commands". Empty: not compared.
	Golden string
	Good   Outputs
	Broken []Break
}

// Written applies the control and compares what it writes, where no machine of the
// release has answered yet.
func Written(t *testing.T, s Suite) { apply(t, s) }

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("apply", func(t *testing.T) { apply(t, s) })
	t.Run("check", func(t *testing.T) { check(t, s) })
	t.Run("broken", func(t *testing.T) { broken(t, s) })
}

func apply(t *testing.T, s Suite) {
	tree := t.TempDir()
	for name, content := range s.Tree {
		write(t, filepath.Join(tree, name), content)
	}
	phases := []control.Phase{control.Bake}
	if s.Machine != nil {
		phases = append(phases, control.FirstBoot)
	}
	var commands []string
	for _, phase := range phases {
		commands = append(commands, Apply(t, s, tree, phase)...)
	}
	first := snapshot(t, tree)
	for _, phase := range phases {
		Apply(t, s, tree, phase)
	}
	for name, second := range snapshot(t, tree) {
		if before, ok := first[name]; !ok {
			t.Errorf("applied twice: the second time wrote %s", name)
		} else if before != second {
			t.Errorf("applied twice: the second time changed %s from\n%+v\nto\n%+v", name, before, second)
		}
	}
	if s.Golden == "" {
		return
	}
	compare(t, s, first, commands)
}

// Apply applies the control to the folder tree and returns the programs that it
// ran, quoted, in order.
func Apply(t *testing.T, s Suite, tree string, phase control.Phase) []string {
	t.Helper()
	root, err := os.OpenRoot(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var commands []string
	target := &control.Target{
		Phase: phase, Root: root, Release: s.Release, Profile: s.Profile,
		Log: slog.New(slog.DiscardHandler),
		Run: func(_ context.Context, argv ...string) (string, error) {
			commands = append(commands, strings.Join(argv, " "))
			if s.Command == nil {
				return "", nil
			}
			return s.Command(tree, argv)
		},
		RunInput: func(_ context.Context, stdin string, argv ...string) (string, error) {
			commands = append(commands, strings.Join(argv, " ")+" <<< "+strings.TrimSuffix(stdin, "\n"))
			if s.Command == nil {
				return "", nil
			}
			return s.Command(tree, argv)
		},
	}
	if phase == control.FirstBoot {
		target.Machine = s.Machine
	}
	if err := control.Apply(t.Context(), s.Control, target); err != nil {
		t.Fatalf("Apply(%s) at phase %d = %v", s.Control.ID, phase, err)
	}
	return commands
}

func check(t *testing.T, s Suite) {
	if len(s.Control.Settings) == 0 {
		t.Fatalf("%s has no settings", s.Control.ID)
	}
	m := s.Good.Machine(s.Release, s.Profile, s.Machine)
	for _, setting := range s.Control.Settings {
		got, err := setting.Check(t.Context(), m)
		if err != nil || got != setting.Want() {
			t.Errorf("%s: %s: Check() = %q, %v, want %q", s.Control.ID, setting.Name(), got, err, setting.Want())
		}
	}
	// A machine that answers nothing is unknown: no setting may pass on it.
	mute := Outputs{}.Machine(s.Release, s.Profile, s.Machine)
	for _, setting := range s.Control.Settings {
		if got, err := setting.Check(t.Context(), mute); err == nil {
			t.Errorf("%s: %s: on a machine that answers nothing Check() = %q without an error, want one", s.Control.ID, setting.Name(), got)
		}
	}
}

func broken(t *testing.T, s Suite) {
	shown := make(map[string]bool)
	for _, b := range s.Broken {
		i := slices.IndexFunc(s.Control.Settings, func(c control.Setting) bool { return c.Name() == b.Setting })
		if i < 0 {
			t.Errorf("%s: %q is not a setting of %s", b.Name, b.Setting, s.Control.ID)
			continue
		}
		shown[b.Setting] = true
		setting := s.Control.Settings[i]
		got, err := setting.Check(t.Context(), s.Good.With(b.Change).Machine(s.Release, s.Profile, s.Machine))
		switch {
		case err != nil:
			t.Errorf("%s: %s: Check() = %v, want a finding", b.Name, b.Setting, err)
		case got == setting.Want():
			t.Errorf("%s: %s: Check() = %q, which passes, want it to fail", b.Name, b.Setting, got)
		case b.Got == "":
			t.Errorf("%s: %s: Break.Got is empty, so the reason is not asserted; Check() = %q", b.Name, b.Setting, got)
		case !strings.Contains(got, b.Got):
			t.Errorf("%s: %s: Check() = %q, want %q in it", b.Name, b.Setting, got, b.Got)
		}
	}
	for _, c := range s.Control.Settings {
		if !shown[c.Name()] {
			t.Errorf("%s: %s was never shown a machine on which it fails", s.Control.ID, c.Name())
		}
	}
}

type file struct {
	Mode    fs.FileMode
	Time    int64 // modification, ns
	Content string
}

func snapshot(t *testing.T, tree string) map[string]file {
	t.Helper()
	all := make(map[string]file)
	err := filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(tree, name)
		f := file{Mode: info.Mode(), Time: info.ModTime().UnixNano()}
		if info.Mode().Type() == fs.ModeSymlink {
			f.Content, err = os.Readlink(name)
		} else {
			var data []byte
			data, err = os.ReadFile(name)
			f.Content = string(data)
		}
		all[rel] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// compare holds what Apply wrote against the golden folder, both ways round.
func compare(t *testing.T, s Suite, got map[string]file, commands []string) {
	dir := filepath.Join("testdata", s.Golden)
	texts := map[string]string{"commands": strings.Join(append(commands, ""), "\n")}
	for name, f := range got {
		if old, there := s.Tree[name]; there && old == f.Content {
			continue
		}
		texts[name] = fmt.Sprintf("# mode %v\n", f.Mode) + f.Content
	}
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for name, text := range texts {
			write(t, filepath.Join(dir, name), text)
		}
		return
	}
	golden := snapshot(t, dir)
	for name, text := range texts {
		if f, ok := golden[name]; !ok {
			t.Errorf("%s: %s is not in %s (see -update)", s.Control.ID, name, dir)
		} else if f.Content != text {
			t.Errorf("%s: %s is\n%s\nwant as in %s (see -update)\n%s", s.Control.ID, name, text, dir, f.Content)
		}
	}
	for name := range golden {
		if _, ok := texts[name]; !ok {
			t.Errorf("%s: %s was not written, and it is in %s (see -update)", s.Control.ID, name, dir)
		}
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
