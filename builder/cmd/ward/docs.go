package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// man is the hidden command that packagers call for the manual pages.
func (p *program) man() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Hidden: true, Args: args(1, 1),
		Short: "write manual pages, one a command, into a folder",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages every day
			return doc.GenManTree(root, &doc.GenManHeader{Title: "WARD", Section: "1", Source: "ward", Manual: "ward"}, args[0])
		},
	}
}

// version is ward version.
func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.out, "ward %s (%s, %s/%s)\n", ownVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
