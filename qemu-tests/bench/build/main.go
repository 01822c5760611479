// Command build measures how long ward takes for an image, beside the tools that
// others use, in one run on one machine:
//
//	go run ./qemu-tests/bench/build [-runs 3] [-long 1] [-work DIR] [-image debian-12] [-parts ward,mkosi,boot]
//
// What takes minutes is measured -long times, the rest -runs times. Three cases of a build: cold, with nothing in any cache; incremental, with one changed
// parameter (ward) or file (mkosi); and nothing changed. mmdebstrap alone installs
// the same packages with the same options as ward does, and makes no image of them.
// mkosi comes from Debian's package, in a root of its own, and makes a disk with
// the same packages, without a boot loader. The part boot starts ward's image in QEMU
// until its verdict, which must be a pass, and a plain Debian of the same packages
// until multi-user.target. Printed are medians with range, ratios, the largest
// process and what lies on the disk.
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
	"strings"
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
	runs := fs.Int("runs", 3, "how often each is measured that takes less than a minute or two")
	long := fs.Int("long", 1, "how often the others are")
	fs.StringVar(&b.dir, "work", "", "folder to work in; mkosi's root is kept there for the next run")
	fs.StringVar(&b.image, "image", "debian-12", "image that ward builds")
	fs.StringVar(&b.ward, "ward", ".bin/ward", "the command, with its other programs beside it")
	fs.StringVar(&b.mkosiSuite, "mkosi-suite", "trixie", "Debian release that mkosi is taken from")
	list := fs.String("parts", "ward,mkosi,boot", "what is measured; mkosi and boot need root")
	if err := fs.Parse(args); err != nil {
		return err
	}
	p, err := parse(*list)
	if err != nil {
		return err
	}
	if *runs < 1 || *long < 1 || *long > *runs || fs.NArg() > 0 {
		return errors.New("usage: build [-runs N] [-long N] [-work DIR] [-image NAME] [-ward FILE] [-parts ward,mkosi,boot]; -long is 1 to -runs")
	}
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
	if err := b.prepare(ctx, p); err != nil {
		return err
	}
	defer func() {
		if b.fixture != nil {
			b.fixture.Close()
		}
	}()
	var all []*series
	for _, c := range b.cases(p) {
		all = append(all, &series{step: c})
	}
	var cold int64
	// In turn, so that a busy minute of the host does not hit one of them only.
	for i := range *runs {
		for _, s := range all {
			if s.long && i >= *long {
				continue
			}
			if s.before != nil {
				if err := s.before(ctx, i); err != nil {
					return fmt.Errorf("before %s: %w", s.name, err)
				}
			}
			x, err := b.measure(ctx, s.step, i)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", s.name, i+1, err)
			}
			b.log.Info("measured", "what", s.name, "n", i+1, "took", x.took.Round(10*time.Millisecond), "largest_mib", x.memory>>20)
			s.samples = append(s.samples, x)
			if s.name == wardCold {
				if cold, err = allocated(b.path("cache")); err != nil {
					return err
				}
			}
		}
	}
	disk, err := b.onDisk()
	if err != nil {
		return err
	}
	disk.cold = cold
	return report(out, all, disk, b.accel)
}

// parse reads a list such as "ward,boot".
func parse(list string) (parts, error) {
	var p parts
	known := map[string]*bool{"ward": &p.ward, "mkosi": &p.mkosi, "boot": &p.boot}
	for name := range strings.SplitSeq(list, ",") {
		part, ok := known[name]
		if !ok {
			return p, fmt.Errorf("-parts: %q is not one of ward, mkosi, boot", name)
		}
		*part = true
	}
	return p, nil
}
