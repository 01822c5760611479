package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wardctl": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: os.Getenv("UPDATE") != ""})
}

// Every command says in one line what it is for, and no two have one name.
func TestCommandsAreDescribed(t *testing.T) {
	var out bytes.Buffer
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		n++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short description %q, want one line without a full stop", c.CommandPath(), c.Short)
		}
		seen := map[string]bool{}
		for _, sub := range c.Commands() {
			if seen[sub.Name()] {
				t.Errorf("%s has two commands %s", c.CommandPath(), sub.Name())
			}
			seen[sub.Name()] = true
			walk(sub)
		}
	}
	walk(command(&out, &out))
	if n < 10 {
		t.Errorf("looked at %d commands", n)
	}
}

// The exit codes that main's comment promises.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args string
		want int
	}{
		{"--help", 0}, {"", 2}, {"aply", 2}, {"apply --nope", 2}, {"apply x", 2}, {"unlock", 2}, {"verify --json --report", 2}, {"key rotate", 2},
		{"status", 1}, // not a machine of ward
	} {
		var out, errs bytes.Buffer
		got := report(run(t.Context(), strings.Fields(c.args), &out, &errs), &errs)
		if got != c.want {
			t.Errorf("wardctl %s: exit code %d, want %d: %s", c.args, got, c.want, errs.String())
		}
	}
}
