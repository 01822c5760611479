package rootfs

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"

	"ward/builder/command"
)

// listen runs a package manager in English, with more of an environment, and
// returns the lines that it says; each is given to note as it comes.
func listen(ctx context.Context, log *slog.Logger, argv, env []string, note func(string)) ([]string, error) {
	read, write := io.Pipe()
	said := make(chan []string)
	go func() {
		var lines []string
		in := bufio.NewScanner(read)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			lines = append(lines, in.Text())
			note(in.Text())
		}
		io.Copy(io.Discard, read) // a line over 1 MiB must not stop the program
		said <- lines
	}()
	err := command.Start(ctx, log, command.Spec{Argv: argv, Stdout: write, Stderr: write, Env: append(append(os.Environ(), env...), "LC_ALL=C")})
	write.Close()
	return <-said, err
}
