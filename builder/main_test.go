package builder

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
)

// TestMain lets the tests' own program be the inner one, as ward is in a build.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == InsideCommand {
		if err := ServeInside(context.Background(), slog.New(slog.DiscardHandler), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "ward:", err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}
