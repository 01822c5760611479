package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ward/builder"
	"ward/builder/registry/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ward": main})
}

// TestScript runs what a person types; see testdata/script.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exitcode N COMMAND...: the command must end with that exit code.
			"exitcode": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exitcode N command...")
				}
				err := ts.Exec(args[1], args[2:]...)
				got := 0
				var exit interface{ ExitCode() int }
				if errors.As(err, &exit) {
					got = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if fmt.Sprint(got) != args[0] {
					ts.Fatalf("exit code is %d, want %s", got, args[0])
				}
			},
			// mode FILE MODE: the file must have these permissions.
			"mode": func(ts *testscript.TestScript, neg bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
					ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
				}
			},
			// registry: starts a registry on loopback and puts its host and port into $REGISTRY.
			"registry": func(ts *testscript.TestScript, neg bool, args []string) {
				host, _ := registrytest.Serve(t)
				ts.Setenv("REGISTRY", host)
			},
			// lines FILE N: the file must have so many lines.
			"lines": func(ts *testscript.TestScript, neg bool, args []string) {
				if got := strings.Count(ts.ReadFile(args[0]), "\n"); fmt.Sprint(got) != args[1] {
					ts.Fatalf("%s has %d lines, want %s:\n%s", args[0], got, args[1], ts.ReadFile(args[0]))
				}
			},
		},
		RequireExplicitExec: true,
	})
}

func TestSay(t *testing.T) {
	var b bytes.Buffer
	say(&b, errors.New("a.yaml:1:1: x: is bad\na.yaml:2:1: y: is bad\nhint: look\n  console line\n"))
	if want := "ward: a.yaml:1:1: x: is bad\nward: a.yaml:2:1: y: is bad\nhint: look\n  console line\n"; b.String() != want {
		t.Errorf("say() = %q, want %q", b.String(), want)
	}
}

// TestProgress: a pipe gets one line a step, a terminal a live line as well.
func TestProgress(t *testing.T) {
	events := []builder.Event{
		{Kind: builder.Started, Step: "packages", Number: 2, Total: 6},
		{Kind: builder.Note, Step: "packages", Number: 2, Total: 6, Text: "unpacking libc6"},
		{Kind: builder.Done, Step: "packages", Number: 2, Total: 6, Took: 104 * time.Second, Bytes: 420 << 20},
		{Kind: builder.Cached, Step: "system", Number: 3, Total: 6, Took: 5 * time.Millisecond, Text: "made yesterday"},
	}
	var pipe, screen bytes.Buffer
	p, s := newProgress(&pipe, 0), newProgress(&screen, 80)
	for _, e := range events {
		p.event(e)
		s.event(e)
	}
	p.close()
	s.close()
	want := "[2/6] packages   done       1m44s  420.0 MiB\n[3/6] system     cached      10ms             made yesterday\n"
	if pipe.String() != want {
		t.Errorf("pipe = %q, want %q", pipe.String(), want)
	}
	if got := screen.String(); !strings.Contains(got, "\r\x1b[K[2/6] packages         0s  unpacking libc6") || !strings.HasSuffix(got, "\r\x1b[K"+strings.SplitAfter(want, "\n")[1]) {
		t.Errorf("screen = %q, want a live line, then the finished ones", got)
	}
}

// TestProgressBar: a step that tells how much there is gets a bar on a terminal,
// with share and size, which goes when the step does something else.
func TestProgressBar(t *testing.T) {
	var pipe, screen bytes.Buffer
	p, s := newProgress(&pipe, 0), newProgress(&screen, 100)
	for _, e := range []builder.Event{
		{Kind: builder.Started, Step: "packages", Number: 2, Total: 8},
		{Kind: builder.Note, Step: "packages", Text: "fetch 50 of 200 MiB", Have: 50 << 20, Want: 200 << 20},
		{Kind: builder.Note, Step: "packages", Text: "unpacking libc6"},
	} {
		p.event(e)
		s.event(e)
	}
	p.close()
	s.close()
	if pipe.Len() != 0 {
		t.Errorf("pipe = %q, want nothing before a step has ended", pipe.String())
	}
	got := screen.String()
	if !strings.Contains(got, " 25% [====>") || !strings.Contains(got, "50/200 MiB") || !strings.Contains(got, "unpacking libc6") {
		t.Errorf("screen = %q, want a bar at 25%% with sizes, then the next note", got)
	}
	if strings.Count(got, "\n") != 0 {
		t.Errorf("screen = %q, want one line that is redrawn", got)
	}
}

// TestJSONEvent: what an event does not have is left out.
func TestJSONEvent(t *testing.T) {
	at := time.Unix(1700000000, 0)
	for _, c := range []struct {
		event builder.Event
		want  string
	}{
		{builder.Event{Kind: builder.Started, Step: "disk", Number: 5, Total: 8}, `{"kind":"started","time":"2023-11-14T22:13:20Z","step":"disk","number":5,"total":8}`},
		{builder.Event{Kind: builder.Failed, Step: "disk", Number: 5, Total: 8, Took: 2 * time.Second, Err: errors.New("no room")},
			`{"kind":"failed","time":"2023-11-14T22:13:20Z","step":"disk","number":5,"total":8,"took_ms":2000,"error":"no room"}`},
		{builder.Event{Kind: builder.Note, Step: "packages", Text: "fetch", Have: 1, Want: 2}, `{"kind":"note","time":"2023-11-14T22:13:20Z","step":"packages","number":0,"total":0,"text":"fetch","have":1,"want":2}`},
	} {
		got, err := json.Marshal(jsonEvent(c.event, at))
		if err != nil || string(got) != c.want {
			t.Errorf("jsonEvent() = %s, %v, want %s", got, err, c.want)
		}
	}
}

// TestHelp: every command says what it is for and shows how it is used.
func TestHelp(t *testing.T) {
	root := (&program{}).command()
	n := 0
	for _, c := range append(root.Commands(), root) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" || c.Name() == "version" {
			continue
		}
		n++
		if c.Short == "" || c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s has short help %q and examples %q, want both", c.CommandPath(), c.Short, c.Example)
		}
	}
	if n < 8 {
		t.Errorf("looked at %d commands only", n)
	}
}

func TestDiskOf(t *testing.T) {
	dir := t.TempDir()
	if _, err := diskOf(dir); err == nil || !strings.Contains(err.Error(), "there is no manifest.json\nhint: ward build IMAGE -o") {
		t.Errorf("diskOf(empty folder) = %v, want a hint to build", err)
	}
	for _, tt := range []struct{ manifest, want, err string }{
		{`{"version":1,"files":{"disk.qcow2":{},"disk.raw":{}}}`, "disk.qcow2", ""},
		{`{"version":1,"files":{"disk.raw":{}}}`, "disk.raw", ""},
		{`{"version":1,"files":{"vmlinuz":{}}}`, "", "holds no disk in a format that QEMU boots"},
		{`{"version":99}`, "", "version 99, want 1"},
		{`{`, "", "manifest.json"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(tt.manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := diskOf(dir)
		if tt.err == "" && (err != nil || got != filepath.Join(dir, tt.want)) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("diskOf(%s) = %q, %v, want %s%s", tt.manifest, got, err, tt.want, tt.err)
		}
	}
}
