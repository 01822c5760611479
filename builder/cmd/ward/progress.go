package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"

	"ward/builder"
)

// progress shows how a build goes: a line for each finished step and, on a
// terminal, a live line for the running one. Its methods may be called from
// several goroutines.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	width int // columns of the terminal, 0 for a pipe
	now   builder.Event
	begun time.Time
	bar   *progressbar.ProgressBar // of the running step, if it has told how much there is
	tick  *time.Ticker
	done  chan struct{}
}

func newProgress(out io.Writer, width int) *progress {
	p := &progress{out: out, width: width, done: make(chan struct{})}
	if width > 0 {
		p.tick = time.NewTicker(200 * time.Millisecond)
		go p.redraw()
	}
	return p
}

func (p *progress) redraw() {
	for {
		select {
		case <-p.done:
			return
		case <-p.tick.C:
			p.mu.Lock()
			p.live()
			p.mu.Unlock()
		}
	}
}

// event shows one event of a build.
func (p *progress) event(e builder.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case builder.Started:
		p.now, p.begun, p.bar = e, time.Now(), nil
		p.live()
	case builder.Note:
		p.now.Text = e.Text
		p.measure(e)
		p.live()
	default:
		p.clear()
		p.now = builder.Event{}
		fmt.Fprintln(p.out, line(e))
	}
}

// line is a finished step.
func line(e builder.Event) string {
	size := ""
	if e.Bytes > 0 {
		size = bytesText(e.Bytes)
	}
	s := fmt.Sprintf("[%d/%d] %-10s %-7s %8s %10s  %s", e.Number, e.Total, e.Step, e.Kind, round(e.Took), size, e.Text)
	return strings.TrimRight(s, " ")
}

// measure moves the bar of the running step, or takes it away when the step does
// something that nobody can measure.
func (p *progress) measure(e builder.Event) {
	if p.width == 0 || e.Want == 0 {
		p.bar = nil
		return
	}
	if p.bar == nil || p.bar.GetMax64() != e.Want {
		// It only makes the text; what is on the terminal is ours.
		p.bar = progressbar.NewOptions64(e.Want, progressbar.OptionSetWriter(io.Discard), progressbar.OptionSetWidth(20),
			progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(0),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]"}))
	}
	p.bar.Set64(e.Have)
}

// live redraws the running step on a terminal; a pipe has only finished ones.
func (p *progress) live() {
	if p.width == 0 || p.now.Step == "" {
		return
	}
	text := p.now.Text
	if p.bar != nil {
		text = strings.TrimSpace(p.bar.String()) // share, bytes, rate, and what time is left
	}
	s := fmt.Sprintf("[%d/%d] %-10s %8s  %s", p.now.Number, p.now.Total, p.now.Step, time.Since(p.begun).Round(time.Second), text)
	if runes := []rune(s); len(runes) >= p.width {
		s = string(runes[:p.width-1])
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", s)
}

func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// close leaves the terminal clean.
func (p *progress) close() {
	if p.tick != nil {
		p.tick.Stop()
		close(p.done)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.Step != "" {
		p.clear()
	}
}

// terminal returns the columns of a terminal, 0 when f is none.
func terminal(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return max(int(size.Col), 20)
}

// bytesText is a size for people.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	v := float64(n)
	for i, u := range units {
		if v < 1024 || i == len(units)-1 {
			if i == 0 {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", v, u)
		}
		v /= 1024
	}
	return ""
}

func round(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(10 * time.Millisecond)
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
