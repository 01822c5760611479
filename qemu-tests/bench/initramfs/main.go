// Command initramfs measures ward's initramfs beside the two of Debian, on the
// same kernel, disk and machine:
//
//	go run ./qemu-tests/bench/initramfs [-runs 5] [-work DIR]
//
// initramfs-tools with cryptsetup-initramfs, and dracut, are built from their
// packages; each opens the same LUKS2 volume, whose key slot costs next to
// nothing. The two peers have the key file in their image; ward has it on a key
// device, which it has to find and mount first. The last row is the floor: ward's
// init with the same modules and no volume. Printed are medians with range.
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
	"slices"
	"strings"
	"text/tabwriter"
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
	fs := flag.NewFlagSet("initramfs", flag.ContinueOnError)
	runs := fs.Int("runs", 5, "boots of each")
	work := fs.String("work", "", "folder to keep what was built; the next run uses it again")
	suite := fs.String("suite", "bookworm", "Debian release of the peers and of the kernel")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *runs < 1 || fs.NArg() > 0 {
		return errors.New("usage: initramfs [-runs N] [-work DIR] [-suite NAME]")
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	dir := *work
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "ward-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b := &bench{dir: dir, suite: *suite, log: log}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var all []series
	for _, c := range b.candidates {
		all = append(all, series{candidate: c})
	}
	// In turn, so that a busy minute of the host does not hit one of them only.
	for i := range *runs {
		for k := range all {
			s, err := b.boot(ctx, all[k].candidate)
			if err != nil {
				return fmt.Errorf("%s, boot %d: %w", all[k].name, i+1, err)
			}
			log.Info("boot", "initramfs", all[k].name, "n", i+1, "root_ms", s.root, "switch_ms", s.switched, "memory_mib", s.memory)
			all[k].samples = append(all[k].samples, s)
		}
	}
	return report(out, b, all)
}

// candidate is one initramfs to measure.
type candidate struct {
	name   string
	initrd string
	append string // more of the kernel line
	key    bool   // attach the key device
	opens  bool   // the volume, which is not optional then
}

// sample is one boot. Times are milliseconds since the kernel's "Run /init".
type sample struct {
	root     int // the root file system is mounted
	switched int // the real init runs
	memory   int // MiB of the machine's memory that were written to by then
}

type series struct {
	candidate
	samples []sample
}

// median is "median (least-most)".
func (s series) median(f func(sample) int) (int, string) {
	var v []int
	for _, x := range s.samples {
		v = append(v, f(x))
	}
	slices.Sort(v)
	m := v[len(v)/2]
	return m, fmt.Sprintf("%d (%d-%d)", m, v[0], v[len(v)-1])
}

func report(out *os.File, b *bench, all []series) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "kernel %s, %s, 2 CPUs, %d boots each, median (range)\n\n", b.version, b.accel, len(all[0].samples))
	fmt.Fprintln(w, "initramfs\tsize MiB\troot mounted ms\tvolume open, root switched ms\tmemory MiB")
	var base, ours, floor int
	for _, s := range all {
		info, err := os.Stat(s.initrd)
		if err != nil {
			return err
		}
		_, root := s.median(func(x sample) int { return x.root })
		m, switched := s.median(func(x sample) int { return x.switched })
		_, memory := s.median(func(x sample) int { return x.memory })
		fmt.Fprintf(w, "%s\t%.1f\t%s\t%s\t%s\n", s.name, float64(info.Size())/(1<<20), root, switched, memory)
		switch s.name {
		case "initramfs-tools":
			base = m
		case "ward":
			ours = m
		case floorName:
			floor = m
		}
	}
	if ours > 0 {
		fmt.Fprintf(w, "\nward takes 1/%.1f of initramfs-tools' time; without a volume to open it takes 1/%.1f\n", float64(base)/float64(ours), float64(base)/float64(floor))
	}
	return w.Flush()
}

// floorName is the row of the init that opens nothing.
const floorName = "modules and root only"

// line is the kernel line that all have in common.
func line(extra string) string {
	return strings.TrimSpace("root=PARTUUID=" + rootUUID + " ro console=ttyS0 panic=-1 no_timer_check " + extra)
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}
