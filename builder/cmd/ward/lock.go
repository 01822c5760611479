package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ward/builder"
	"ward/builder/lock"
)

// lock is ward lock.
func (p *program) lock() *cobra.Command {
	var o builder.Options
	var output, profile string
	var from archive
	cmd := &cobra.Command{
		Use:   "lock IMAGE [flags]",
		Short: "write down exactly which packages an image has",
		Long: `lock resolves the packages of an image and writes their names, versions, sizes and
digests to a file. "ward build --locked FILE" then installs just these: the same
bytes on another day and in another place. Commit the file beside the image file.`,
		Example: `  ward lock debian-12                            # debian-12.lock
  ward lock ./clinic-image.yaml -o clinic.lock --update
  ward build debian-12 --locked debian-12.lock`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.FixedCompletions(imageNames(), cobra.ShellCompDirectiveDefault),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, prof, err := inputs(args[0], profile)
			if err != nil {
				return err
			}
			if err := from.put(img); err != nil {
				return err
			}
			o.Image, o.Profile, o.Version, o.Log = img, prof, ownVersion(), p.log
			if output == "" {
				output = img.Name + ".lock"
			}
			if o.Binaries, err = builder.Beside(); err != nil {
				return err
			}
			show := newProgress(p.out, terminal(p.out))
			o.Events = show.event
			l, err := builder.MakeLock(cmd.Context(), o)
			show.close()
			if err != nil {
				return err
			}
			if err := l.Write(output); err != nil {
				return err
			}
			var size int64
			for _, pkg := range l.Packages {
				size += pkg.Size
			}
			fmt.Fprintf(p.out, "%s: %d packages, %s\n", output, len(l.Packages), bytesText(size))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "the lock file (default IMAGE.lock)")
	f.StringVarP(&profile, "profile", "p", "hipaa", profileHelp)
	f.StringVar(&o.Cache, "cache", "", "folder of the cache (default ~/.cache/ward)")
	from.flags(f)
	f.BoolVar(&o.Update, "update", false, "ask the mirror again even if the packages are in the cache")
	return cmd
}

// store is ward store, which carries packages over an air gap.
func (p *program) store() *cobra.Command {
	var cache string
	cmd := &cobra.Command{
		Use:   "store",
		Short: "carry the packages of a lock to a machine without network",
		Args:  p.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage("ward store: no command is given")
		},
	}
	cmd.PersistentFlags().StringVar(&cache, "cache", "", "folder of the cache (default ~/.cache/ward)")
	open := func() (*lock.Store, error) {
		if cache == "" {
			dir, err := builder.DefaultCache()
			if err != nil {
				return nil, err
			}
			cache = dir
		}
		return lock.OpenStore(builder.StoreDir(cache))
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "export LOCK FILE",
		Short:   "write the packages of a lock to one file, fetching what is missing",
		Example: "  ward store export debian-12.lock packages.tar",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lock.Read(args[0])
			if err != nil {
				return err
			}
			s, err := open()
			if err != nil {
				return err
			}
			if err := s.Fetch(cmd.Context(), l, nil); err != nil {
				return err
			}
			return p.export(s, l, args[1])
		},
	}, &cobra.Command{
		Use:     "import FILE",
		Short:   "put the packages of an exported file into the store",
		Example: "  ward store import packages.tar",
		Args:    args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := open()
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			n, err := s.Import(f)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprintf(p.out, "%d packages are new in the store\n", n)
			return nil
		},
	})
	return cmd
}

// export writes the file under a temporary name first: half an export must not
// be carried anywhere.
func (p *program) export(s *lock.Store, l *lock.Lock, name string) error {
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s is there already\nhint: remove it, or name another file", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.Export(l, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s: %d packages\n", name, len(l.Packages))
	return nil
}
