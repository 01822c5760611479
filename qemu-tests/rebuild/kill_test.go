package rebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestKillAnywhere kills builds with SIGKILL at random instants, 50 or as many as
// WARD_KILLS says. Nothing runs on, nothing is mounted, the output is the former
// one or the new one, each as a whole, and the next build works and cleans up.
func TestKillAnywhere(t *testing.T) {
	kills := 50
	if text := os.Getenv("WARD_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("WARD_KILLS=%s: want a number", text)
		}
		kills = n
	}
	w := newWorld(t)
	w.build(w.profile("first"), "out")
	begun := time.Now()
	w.build(w.profile("measured"), "out")
	whole := time.Since(begun)
	seed := uint64(begun.UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("a build takes %s; seed %d", whole, seed)
	early := 0
	for i := range kills {
		at := time.Duration(r.Int64N(int64(whole)))
		cmd, said := w.start(w.profile(fmt.Sprintf("killed %d", i)), "out")
		time.Sleep(at)
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == -1 {
			early++
		} else if err != nil {
			t.Fatalf("killed after %s: %v\n%s", at, err, said)
		}
		w.quiet()
		w.verified("out")
		w.forget()
		if i%10 == 9 || i == kills-1 {
			// A new output, and the one that the killed builds worked on.
			w.build(w.profile(fmt.Sprintf("after %d", i)), "out")
			w.noHalf()
			w.forget()
		}
	}
	if early == 0 {
		t.Error("every build had ended before it was killed")
	}
	t.Logf("%d of %d builds were killed before they ended", early, kills)
}

// A build that is killed before there is an output leaves none.
func TestKillLeavesNoOutput(t *testing.T) {
	w := newWorld(t)
	w.build(w.profile("first"), "first")
	begun := time.Now()
	w.build(w.profile("measured"), "measured")
	whole := time.Since(begun)
	for i, part := range []time.Duration{10, 40, 60, 80, 95} {
		cmd, _ := w.start(w.profile(fmt.Sprintf("killed %d", i)), "new")
		time.Sleep(whole * part / 100)
		killed := cmd.Process.Kill() == nil
		err := cmd.Wait()
		w.quiet()
		if _, stat := os.Stat(w.path("new")); killed && err != nil && !errors.Is(stat, fs.ErrNotExist) {
			// It may have been published in the very last moment: then it is whole.
			w.verified("new")
			if err := os.RemoveAll(w.path("new")); err != nil {
				t.Fatal(err)
			}
		}
		w.forget()
	}
	w.build(w.profile("last"), "new")
	w.noHalf()
}
