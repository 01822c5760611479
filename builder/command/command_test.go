package command

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// A program that signals its whole process group, as mmdebstrap does when its
// output cannot be written, ends alone: the caller goes on and says why.
func TestAGroupSignalStaysInside(t *testing.T) {
	// Under nohup(1) a hangup is ignored, and that is inherited; what is caught is not.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	err := Run(t.Context(), quiet, "sh", "-c", "echo no space left >&2; kill -HUP 0; sleep 60")
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "hangup") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Run() = %v, want that sh was hung up, with what it said", err)
	}
}

// The end of the context ends what the program has started, too.
func TestTheContextEndsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	go func() {
		done <- Start(ctx, quiet, Spec{Argv: []string{"sh", "-c", "sleep 60 & echo $!; wait"}, Stdout: write})
		write.Close()
	}()
	line := make([]byte, 32)
	n, err := read.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Start() = %v, want context.Canceled", err)
	}
	// It is gone, or a zombie that nobody has fetched yet: it takes no signal's effect.
	for range 100 {
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	syscall.Kill(child, syscall.SIGKILL)
	t.Error("what the program had started runs on")
}

func TestErrorsNameTheProgramAndItsLastLine(t *testing.T) {
	err := Run(t.Context(), quiet, "sh", "-c", "echo one >&2; echo two >&2; exit 3")
	if err == nil || err.Error() != "sh: exit status 3: two" {
		t.Errorf("Run() = %v, want the program, its end and its last line", err)
	}
	err = Run(t.Context(), quiet, "no-such-program")
	if err == nil || !strings.Contains(err.Error(), "no-such-program") || !strings.Contains(err.Error(), "not found") {
		t.Errorf("Run() = %v, want that there is no such program", err)
	}
}

func TestQuote(t *testing.T) {
	if got, want := Quote([]string{"a", "b c", "", "it's", "--x=/y:1"}), `a 'b c' '' 'it'\''s' --x=/y:1`; got != want {
		t.Errorf("Quote() = %s, want %s", got, want)
	}
}
