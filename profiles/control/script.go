package control

import "context"

// script runs a shell script on the machine. Its text goes in by standard input,
// so that the argv, which logs and the recorded answers of tests are keyed by,
// stays one short line: sh -c eval "$(cat)" NAME ARGS.
func script(ctx context.Context, m *Machine, name, text string, args ...string) (string, error) {
	return m.RunInput(ctx, text, append([]string{"sh", "-c", `eval "$(cat)"`, name}, args...)...)
}
