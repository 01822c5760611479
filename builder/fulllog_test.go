package builder

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"ward/builder/command"
	"ward/images"
)

// The full log has the commands that the terminal does not show, and the error of a
// build says where it is, once.
func TestFullLog(t *testing.T) {
	var terminal bytes.Buffer
	start := func(level slog.Level, cache string) *build {
		t.Helper()
		b := &build{Options: Options{Cache: cache, Image: &images.Image{Name: "clinic"}, Log: slog.New(slog.NewTextHandler(&terminal, &slog.HandlerOptions{Level: level}))}}
		if err := b.openLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	cache := t.TempDir()
	b := start(slog.LevelWarn, cache)
	if err := command.Run(t.Context(), b.Log, "sh", "-c", "echo 'what it says' >&2", "a word"); err != nil {
		t.Fatal(err)
	}
	b.Log.Warn("look here")
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `'a word'`) || !strings.Contains(string(text), "msg=said program=sh text=\"what it says\"") || !strings.Contains(string(text), "look here") {
		t.Errorf("the full log has %q, want the command, what it said and the warning", text)
	}
	if strings.Contains(terminal.String(), "a word") || !strings.Contains(terminal.String(), "look here") {
		t.Errorf("the terminal has %q, want the warning alone", terminal.String())
	}
	boom := errors.New("boom")
	said := b.logged(b.logged(boom))
	if !errors.Is(said, boom) || strings.Count(said.Error(), b.log.Name()) != 1 || !strings.Contains(said.Error(), "\nhint: ") {
		t.Errorf("logged() = %v, want a hint with the log's name, once", said)
	}

	if other := start(slog.LevelWarn, cache); other.log != nil || other.logged(boom) != boom {
		t.Errorf("a second build of the image logs to %v as well", other.log)
	}
	b.log.Close()
	again := start(slog.LevelDebug, cache)
	defer again.log.Close()
	if text, err := os.ReadFile(again.log.Name()); err != nil || len(text) != 0 {
		t.Errorf("the next build's log begins with %q (%v)", text, err)
	}
	if again.log.outer == nil {
		t.Error("-v does not show what the inner program runs")
	}
}
