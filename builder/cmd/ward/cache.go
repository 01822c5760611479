package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/cache"
	"ward/images"
)

// cache is ward cache, which shows and shortens what builds keep.
func (p *program) cache() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "show and shorten what builds keep",
		Args:  p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("ward cache: no command is given")
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "cache", "", "folder of the cache (default ~/.cache/ward)")
	open := func() (*cache.Cache, error) { return builder.OpenCache(dir, p.log) }
	cmd.AddCommand(&cobra.Command{
		Use: "ls", Short: "list the entries, what was not used for the longest time first", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			all, err := c.List()
			if err != nil {
				return err
			}
			return p.entries(all, "in all")
		},
	}, p.prune(open))
	return cmd
}

// prune is ward cache prune.
func (p *program) prune(open func() (*cache.Cache, error)) *cobra.Command {
	var age time.Duration
	var size string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "remove what builds no longer use",
		Long: `prune removes entries that are unfinished or damaged, those that no build has used
for as long as --older says, and then the longest unused until no more than --size
is left. A build that misses an entry makes it again.`,
		Example: `  ward cache prune                    # what is of no use, or was not used for 30 days
  ward cache prune --size 10GiB`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var most images.Size
			if size != "" {
				if err := most.UnmarshalText([]byte(size)); err != nil {
					return usage("ward cache prune: --size %s: %w", size, err)
				}
			}
			if age < 0 {
				return usage("ward cache prune: --older %s: is negative", age)
			}
			c, err := open()
			if err != nil {
				return err
			}
			removed, err := c.Prune(cmd.Context(), time.Now().Add(-age), most.Bytes())
			if errors.Is(err, cache.ErrBusy) {
				return fmt.Errorf("%w\nhint: try again when it has ended", err)
			}
			return errors.Join(p.entries(removed, "removed"), err)
		},
	}
	cmd.Flags().DurationVar(&age, "older", 30*24*time.Hour, "remove what was not used for so long")
	cmd.Flags().StringVar(&size, "size", "", "keep at most so much, such as 10GiB (default no limit)")
	return cmd
}

// entries prints entries, a line each, and their sum.
func (p *program) entries(all []cache.Kept, what string) error {
	var total int64
	for _, k := range all {
		total += k.Size
		line := fmt.Sprintf("%-9s %10s  used %s  %s", k.Kind, bytesText(k.Size), k.Used.UTC().Format("2006-01-02 15:04"), k.Why)
		if _, err := fmt.Fprintln(p.out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(p.out, "%d entries, %s %s\n", len(all), bytesText(total), what)
	return err
}
