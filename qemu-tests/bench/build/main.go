// Command build measures how long ward takes for an image, beside the tools that
// others use, in one run on one machine:
//
//	go run ./qemu-tests/bench/build [-runs 3] [-work DIR] [-image debian-12] [-mkosi=false]
//
// Three cases: cold, with nothing in any cache; incremental, with one changed
// parameter (ward) or file (mkosi); and nothing changed. mmdebstrap alone installs
// the same packages with the same options as ward does, and makes no image of them.
// mkosi comes from Debian's package, in a root of its own, and makes a disk with
// the same packages, without a boot loader. Printed are medians with range, ratios,
// the largest process and what lies on the disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out *os.File) error {
	fs := flag.NewFlagSet("build", flag.ContinueOnError)
	b := &bench{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	runs := fs.Int("runs", 3, "how often each is measured")
	fs.StringVar(&b.dir, "work", "", "folder to work in; mkosi's root is kept there for the next run")
	fs.StringVar(&b.image, "image", "debian-12", "image that ward builds")
	fs.StringVar(&b.ward, "ward", ".bin/ward", "the command, with its other programs beside it")
	fs.StringVar(&b.mkosiSuite, "mkosi-suite", "trixie", "Debian release that mkosi is taken from")
	withMkosi := fs.Bool("mkosi", true, "measure mkosi too; needs root")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *runs < 1 || fs.NArg() > 0 {
		return errors.New("usage: build [-runs N] [-work DIR] [-image NAME] [-ward FILE] [-mkosi=false]")
	}
	var err error
	if b.ward, err = filepath.Abs(b.ward); err != nil {
		return err
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "ward-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	if err := b.prepare(ctx, *withMkosi); err != nil {
		return err
	}
	var all []*series
	for _, c := range b.cases(*withMkosi) {
		all = append(all, &series{step: c})
	}
	// In turn, so that a busy minute of the host does not hit one of them only.
	for i := range *runs {
		for _, s := range all {
			if s.before != nil {
				if err := s.before(ctx, i); err != nil {
					return fmt.Errorf("before %s: %w", s.name, err)
				}
			}
			x, err := b.measure(ctx, s.argv(i))
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", s.name, i+1, err)
			}
			b.log.Info("measured", "what", s.name, "n", i+1, "took", x.took.Round(10*time.Millisecond), "largest_mib", x.memory>>20)
			s.samples = append(s.samples, x)
		}
	}
	disk, err := b.onDisk()
	if err != nil {
		return err
	}
	return report(out, all, disk)
}
