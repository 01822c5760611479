package builder

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"

	"ward/builder/command"
)

// toolVersion returns the first line that a tool says of itself.
func toolVersion(ctx context.Context, log *slog.Logger, argv []string) (string, error) {
	var out, said bytes.Buffer
	err := command.Start(ctx, log, command.Spec{Argv: argv, Stdout: &out, Stderr: &said})
	line, _, _ := strings.Cut(strings.TrimSpace(out.String()+said.String()), "\n")
	if line == "" { // a tool may exit with an error after it said who it is
		return "", fmt.Errorf("%s does not say its version (%v)\nhint: make tools installs what a build needs", argv[0], err)
	}
	return line, nil
}
