package firstboot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRunStepsResumes(t *testing.T) {
	root, _ := openRoot(t)
	var ran []string
	broken := "c"
	var steps []Step
	for _, name := range []string{"a", "b", "c", "d"} {
		steps = append(steps, Step{Name: name, Always: name == "b", Hint: "mend " + name, Run: func(context.Context) error {
			ran = append(ran, name)
			if name == broken {
				return errors.New("it is broken")
			}
			return nil
		}})
	}
	st := &stamper{root: root, inputs: "one", now: time.Now}
	log := slog.New(slog.DiscardHandler)
	run := func(want string) error {
		t.Helper()
		ran = nil
		err := runSteps(t.Context(), steps, st, log)
		if got := strings.Join(ran, ""); got != want {
			t.Errorf("ran %q, want %q", got, want)
		}
		return err
	}
	err := run("abc")
	var se *StepError
	if !errors.As(err, &se) || se.Step != "c" || err.Error() != "apply: c: it is broken\nhint: mend c" {
		t.Errorf("runSteps() = %v, want step c, why, and the hint", err)
	}
	broken = ""
	if err := run("bcd"); err != nil { // a is done, b belongs to every boot
		t.Error(err)
	}
	if err := run("b"); err != nil {
		t.Error(err)
	}
	st.inputs = "two" // another config
	if err := run("abcd"); err != nil {
		t.Error(err)
	}
	if err := st.forget(steps[:1]); err != nil {
		t.Error(err)
	}
	if !st.done("a") || st.done("c") {
		t.Error("forget() must keep the stamps of steps that exist and no others")
	}
}

// A stamp that a power cut damaged counts as not done.
func TestDamagedStamp(t *testing.T) {
	root, dir := openRoot(t)
	st := &stamper{root: root, inputs: "x", now: time.Now}
	if err := st.mark("a"); err != nil || !st.done("a") {
		t.Fatalf("mark() = %v, done = %v", err, st.done("a"))
	}
	file := filepath.Join(dir, st.path("a"))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", string(whole[:len(whole)/2]), "{}", string(whole) + string(whole), strings.Replace(string(whole), `"a"`, `"b"`, 1)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if st.done("a") {
			t.Errorf("done() = true for the stamp %q", text)
		}
	}
}

func TestResultForTheConsole(t *testing.T) {
	r := ApplyResult{Step: "files", Error: "/etc/a: exists", Hint: "say overwrite"}
	want := "ward: STOPPED at step \"files\", so nobody can log in by SSH\n  why:  /etc/a: exists\n  hint: say overwrite"
	if got := r.Console(); got != want {
		t.Errorf("Console() = %q, want %q", got, want)
	}
	if got := (ApplyResult{}).Console(); !strings.Contains(got, "not applied yet") {
		t.Errorf("Console() of nothing = %q, want that it is not applied yet", got)
	}
	if got := (ApplyResult{}).String(); got == "done" {
		t.Error("the zero result must not be done")
	}
}
