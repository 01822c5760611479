package command

import (
	"context"
	"log/slog"
	"os"
)

// Namespace is what runs a program where an ordinary user may own files as root
// does: with mounts and processes of its own, which end with it, and, unless we are
// root, with the subordinate ids of /etc/subuid (subuid(5)). The program follows it.
func Namespace(argv ...string) []string {
	all := []string{"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"}
	if os.Geteuid() != 0 {
		all = append(all, "--user", "--map-root-user", "--map-auto")
	}
	return append(append(all, "--"), argv...)
}

// RemoveAll removes a folder that a program in a namespace has filled. What an
// ordinary user has made there belongs to subordinate ids, so only the namespace can
// remove it.
func RemoveAll(ctx context.Context, log *slog.Logger, dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || os.Geteuid() == 0 {
		return err
	}
	return Run(ctx, log, Namespace("rm", "-rf", "--", dir)...)
}
