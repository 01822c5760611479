package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// step is one thing that is measured.
type step struct {
	name   string
	long   bool                                     // takes minutes, and so is measured fewer times
	before func(ctx context.Context, run int) error // not measured
	argv   func(run int) []string
	run    func(ctx context.Context, run int) (sample, error) // instead of argv
}

// sample is one measurement.
type sample struct {
	took   time.Duration
	memory int64 // bytes, of the largest process
}

type series struct {
	step
	samples []sample
}

// median is the middle one, of an even number the upper middle, with the range.
func (s *series) median() (time.Duration, string) {
	var v []time.Duration
	for _, x := range s.samples {
		v = append(v, x.took)
	}
	slices.Sort(v)
	m := v[len(v)/2]
	return m, fmt.Sprintf("%s (%s-%s)", seconds(m), seconds(v[0]), seconds(v[len(v)-1]))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

func (s *series) largest() int64 {
	var n int64
	for _, x := range s.samples {
		n = max(n, x.memory)
	}
	return n
}

// Names of what is measured, which the ratios refer to.
const (
	mmdebstrapAlone  = "mmdebstrap alone"
	wardCold         = "ward, cold"
	wardIncremental  = "ward, one parameter"
	wardNothing      = "ward, nothing changed"
	mkosiCold        = "mkosi, cold"
	mkosiIncremental = "mkosi, one file"
	wardFirst        = "ward, first boot to its verdict"
	wardBoot         = "ward, boot to its verdict"
	plainFirst       = "plain Debian, first boot to multi-user.target"
	plainBoot        = "plain Debian, boot to multi-user.target"
)

// ratios are ward's times by those of others, and what is asked of ward: at most so
// much; 0: nothing is.
var ratios = []struct {
	ours, theirs string
	most         float64
}{
	{wardCold, mmdebstrapAlone, 1.15}, {wardIncremental, mkosiIncremental, 0.25}, {wardCold, mkosiCold, 1},
	{wardFirst, plainFirst, 0}, {wardBoot, plainBoot, 0},
}

// limits are what is asked of ward by itself.
var limits = []struct {
	name string
	most time.Duration
}{{wardIncremental, 5 * time.Second}, {wardNothing, 500 * time.Millisecond}}

// mostDisk is how much of the disk the cache may take, in images.
const mostDisk = 2.5

// usage is what lies on the disk after the runs, in bytes.
type usage struct {
	image, cache int64
	cold         int64 // of the cache after a build with an empty one
}

// report prints what was measured; accel is how machines ran, empty: none did.
func report(out io.Writer, all []*series, disk usage, accel string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "in turn; seconds, median (range)\n\n")
	fmt.Fprintln(w, "what\truns\tseconds\tlargest process MiB")
	medians := map[string]time.Duration{}
	for _, s := range all {
		if len(s.samples) == 0 {
			continue
		}
		m, text := s.median()
		medians[s.name] = m
		memory := "-"
		if n := s.largest(); n > 0 {
			memory = fmt.Sprint(n >> 20)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", s.name, len(s.samples), text, memory)
	}
	fmt.Fprintln(w)
	for _, r := range ratios {
		ours, theirs := medians[r.ours], medians[r.theirs]
		if ours == 0 || theirs == 0 {
			continue // not measured
		}
		ratio := ours.Seconds() / theirs.Seconds()
		if r.most == 0 {
			fmt.Fprintf(w, "%s / %s\t%.2f\n", r.ours, r.theirs, ratio)
			continue
		}
		fmt.Fprintf(w, "%s / %s\t%.2f\tat most %.2f: %s\n", r.ours, r.theirs, ratio, r.most, verdict(ratio <= r.most))
	}
	for _, l := range limits {
		if m := medians[l.name]; m > 0 {
			fmt.Fprintf(w, "%s\t%s\tat most %s: %s\n", l.name, seconds(m), seconds(l.most), verdict(m <= l.most))
		}
	}
	if disk.image > 0 {
		times := func(n int64) float64 { return float64(n) / float64(disk.image) }
		fmt.Fprintf(w, "\nimage %d MiB; cache after a cold build %d MiB, %.2f times the image, at most %.2f: %s; after all builds %d MiB, %.2f times\n",
			disk.image>>20, disk.cold>>20, times(disk.cold), mostDisk, verdict(times(disk.cold) <= mostDisk), disk.cache>>20, times(disk.cache))
	}
	if accel != "" {
		fmt.Fprintf(w, "\nmachines: QEMU, %s\n", accel)
	}
	return w.Flush()
}

func verdict(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}
