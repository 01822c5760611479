package logqueue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"ward/profiles"
	"ward/profiles/control"
	"ward/profiles/machine"
)

// newTarget is a machine whose place in the journal is place, and whose journalctl
// has n entries before it.
func newTarget(t *testing.T, place string, n int) (target *control.Target, did *[]string) {
	t.Helper()
	p, err := profiles.Load("hipaa")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if err := control.WriteFile(root, control.LogPlace, place, 0o600); err != nil {
		t.Fatal(err)
	}
	did = new([]string)
	return &control.Target{
		Root: root, Profile: p, Log: slog.New(slog.DiscardHandler), Machine: &machine.Machine{Logging: &machine.Logging{Server: "log.example.org:6514"}},
		Run: func(_ context.Context, argv ...string) (string, error) {
			*did = append(*did, strings.Join(argv, " "))
			if argv[0] != "journalctl" {
				return "", nil
			}
			var lines int
			for _, a := range argv {
				fmt.Sscanf(a, "--lines=%d", &lines)
			}
			var b strings.Builder
			for i := range min(lines, n) {
				fmt.Fprintf(&b, `{"__CURSOR":"s=1;i=%d;t=10","PRIORITY":"6"}`+"\n", 1000-i)
			}
			return b.String(), nil
		},
	}, did
}

func TestStepBack(t *testing.T) {
	for _, c := range []struct {
		name, place string
		before      int
		want        string // the place after it; empty: there is none
	}{
		{"by its lines", "s=1;i=1000;t=20\n", 1000, "s=1;i=991;t=10"},
		{"as many as there are", "s=1;i=1000;t=20", 10, "s=1;i=991;t=10"},
		{"fewer than that", "s=1;i=1000;t=20", 9, ""},
		{"cut short by a loss of power", "", 1000, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, did := newTarget(t, c.place, c.before)
			if err := StepBack(t.Context(), target, 10); err != nil {
				t.Fatal(err)
			}
			got, err := target.Root.ReadFile(control.LogPlace)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("the place is %q, want %q", got, c.want)
			}
			if c.place != "" && !strings.Contains(strings.Join(*did, "\n"), "--cursor="+strings.TrimSpace(c.place)) {
				t.Errorf("journalctl was not asked from the place: %q", *did)
			}
		})
	}
}

// Without a place rsyslogd starts at the journal's beginning anyway.
func TestStepBackWithoutPlace(t *testing.T) {
	target, did := newTarget(t, "x", 0)
	if err := target.Root.Remove(control.LogPlace); err != nil {
		t.Fatal(err)
	}
	if err := StepBack(t.Context(), target, 10); err != nil || len(*did) != 0 {
		t.Errorf("%v, ran %q, want that nothing is done", err, *did)
	}
}

func TestStepBackTrustsNoAnswer(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"no JSON", "-- No entries --", "journalctl printed"},
		{"no cursor", `{"PRIORITY":"6"}`, "has no cursor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, _ := newTarget(t, "s=1;i=5;t=20", 0)
			target.Run = func(context.Context, ...string) (string, error) { return c.line + "\n", nil }
			if err := StepBack(t.Context(), target, 1); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if got, _ := target.Root.ReadFile(control.LogPlace); string(got) != "s=1;i=5;t=20" {
				t.Errorf("the place is %q, want that it stays", got)
			}
		})
	}
}

func TestQueue(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer string
		onFull string
		fails  error
		says   string
		halts  bool
	}{
		{"nothing waits", "place s=1;i=5;t=5e0be100\nlines 12\nblocks 16384\n", "drop", nil, "0% of 256 MiB: 12 lines wait, the log server has everything until 1970-01-01T00:26:17Z", false},
		{"much waits", "place s=1;i=5;t=5e0be100\nlines 1000\nblocks 16384\nblocks 16384\n", "drop", nil, "6% of 256 MiB: 1000 lines or more wait in 16384 KiB", false},
		{"nearly full", "place \nlines 1000\nblocks 419432\n", "halt", NearlyFull, "80% of 256 MiB: 1000 lines or more wait in 209716 KiB, the log server never had a line", false},
		{"full", "place \nlines 1000\nblocks 508560\n", "drop", NearlyFull, "97% of 256 MiB", false},
		{"full and halts", "place \nlines 1000\nblocks 508560\n", "halt", NearlyFull, "97% of 256 MiB", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, did := newTarget(t, "", 0)
			target.Profile.Controls.RemoteLog.OnFull = c.onFull
			target.RunInput = func(context.Context, string, ...string) (string, error) { return c.answer, nil }
			cmd := Command(func() (*control.Target, func() error, error) { return target, func() error { return nil }, nil })
			var out strings.Builder
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			cmd.SetArgs([]string{"queue", "--enforce"})
			if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, c.fails) || (c.fails == nil && err != nil) {
				t.Errorf("error %v, want %v", err, c.fails)
			}
			if !strings.HasPrefix(out.String(), c.says) {
				t.Errorf("it printed %q, want %q", out.String(), c.says)
			}
			if halted := strings.Contains(strings.Join(*did, "\n"), "systemctl poweroff"); halted != c.halts {
				t.Errorf("it ran %q; halted %v, want %v", *did, halted, c.halts)
			}
		})
	}
}
