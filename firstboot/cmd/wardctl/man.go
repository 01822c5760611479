//go:build !nodocs

package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommands is the hidden command that packagers call for the manual pages. No
// machine needs it: with the tag nodocs it is left out, and with it the parsers of
// Markdown and YAML that it links.
func manCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "man DIR", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "write manual pages, one a command, into a folder",
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := c.Root()
			root.DisableAutoGenTag = true // the same pages every day
			return doc.GenManTree(root, &doc.GenManHeader{Title: "WARDCTL", Section: "8", Source: "ward", Manual: "ward"}, args[0])
		},
	}}
}
