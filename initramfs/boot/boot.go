// Package boot is what ward-init does between the kernel's "Run /init" and the
// real init: it loads the modules that the machine needs, finds root and the PHI
// volumes by what is written on them, opens the volumes, and switches root. It
// has no shell and asks nobody; each failure is one line on the console.
//
// README.md in the folder above lists every kernel parameter that is honoured.
package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"ward/initramfs/boot/cmdline"
	"ward/initramfs/boot/disks"
	"ward/initramfs/boot/keysource"
	"ward/initramfs/boot/modload"
	"ward/initramfs/handoff"
)

const (
	sysroot = "/sysroot"
	// rootTimeout is how long the partition of root is waited for, volumeTimeout how
	// long one of PHI is, from when root is there. A USB disk takes 5 s, a SAN may
	// take 20, and 90 s is how long systemd waits for a device (systemd-system.conf(5),
	// DefaultDeviceTimeoutSec=): a virtual machine whose host is busy has been seen to
	// take more than 60.
	rootTimeout   = 90 * time.Second
	volumeTimeout = 15 * time.Second
)

// Found is what a boot knows when it looks for root.
type Found struct {
	Log     *slog.Logger
	Line    cmdline.Line
	Disks   *disks.Set
	Modules *modload.Loader
}

// Given is a root that is not on a disk of the machine.
type Given struct {
	Device string // block device with ext4, mounted writable
	// Prepare writes into it before it becomes the root.
	Prepare func(*os.Root) error
}

// Options are what cmd/init chooses at compile time.
type Options struct {
	// Root gives the root, instead of the kernel line; volumes are looked for after
	// it. nil: the partition that root= names.
	Root func(context.Context, Found) (Given, error)
	// More gives key sources beyond the local ones; nil: none.
	More func(cmdline.Line) map[string]keysource.Fetcher
	// Leave reads the TPM's registers for the report, and closes what is sealed to
	// the initramfs; nil: there is no source for a TPM.
	Leave func(context.Context, []handoff.Source, func(string) error) (map[int]string, error)
	// Down ends what they have begun, before root is switched.
	Down func(*slog.Logger)
}

// machine is the state of one boot.
type machine struct {
	start   time.Time
	log     *slog.Logger
	line    cmdline.Line
	config  handoff.Config
	options Options
	more    map[string]keysource.Fetcher
	disks   *disks.Set
	modules *modload.Loader

	crypto  *job // the modules of config.Modules are loaded
	rooted  *job // root is mounted at sysroot
	root    rootSpec
	pins    handoff.Pins
	hasPins bool
	pinErr  error // the file of pins is there and cannot be used

	mu      sync.Mutex
	timings []handoff.Timing
	secrets []*keysource.Key // to be wiped, with every copy of them
}

// Run boots the machine. If all goes well it does not return: the process
// becomes the real init. Otherwise the error is already on the console.
func Run(opts Options) error {
	lean()
	m := &machine{start: time.Now(), options: opts}
	if err := mountBasics(); err != nil {
		return err
	}
	log, level, restore, err := openKmsg("/dev/kmsg")
	if err != nil {
		return err
	}
	m.log = log
	if err := m.boot(level); err != nil {
		m.log.Error(err.Error())
		if m.counted() {
			err = fmt.Errorf("%w: %w", ErrTried, err)
		}
		restore()
		return err
	}
	restore()
	return m.enterRoot()
}

func (m *machine) boot(level *slog.LevelVar) error {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	m.line = cmdline.Parse(string(text))
	if m.options.More != nil {
		m.more = m.options.More(m.line)
	}
	if m.line.Has("ward.debug") {
		level.Set(slog.LevelDebug)
	}
	data, err := os.ReadFile(handoff.ConfigPath)
	if err != nil {
		return err
	}
	if m.config, err = handoff.DecodeConfig(data); err != nil {
		return err
	}
	if m.modules, err = modload.Running(m.log); err != nil {
		return err
	}
	m.disks = disks.New(m.log)
	events, err := disks.Listen()
	if err != nil {
		return err
	}
	go guard(m.log, "uevents", func() error { return m.disks.Follow(events, m.hotplug) })
	go m.disks.Scan()
	return m.mountAll()
}

// mountAll does the work that depends on devices: everything at once, each part
// waiting only for what it needs.
func (m *machine) mountAll() error {
	m.crypto = m.job("modules", func() error { return m.modules.LoadAll(m.config.Modules) })
	coldplug := m.job("devices", m.modules.Coldplug)
	m.rooted = m.job("root", m.mountRoot)
	if m.options.Root != nil { // it takes minutes, and may make the volumes' partition
		if err := m.rooted.wait(); err != nil {
			return err
		}
	}
	reports := make([]handoff.VolumeReport, len(m.config.Volumes))
	var wg sync.WaitGroup
	for i, v := range m.config.Volumes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			reports[i] = m.volume(v)
		}()
	}
	if err := m.rooted.wait(); err != nil {
		return err // the console has the reason; volumes are of no use without root
	}
	wg.Wait()
	for _, j := range []*job{m.crypto, coldplug} {
		if err := j.wait(); err != nil {
			m.log.Error(err.Error())
		}
	}
	registers := m.leave()
	if m.options.Down != nil {
		m.options.Down(m.log)
	}
	if err := m.wipeSecrets(); err != nil {
		return fmt.Errorf("wipe keys: %w", err)
	}
	// Again: by now slower disks have appeared.
	if err := m.onlyRoot(); err != nil {
		return err
	}
	if err := m.writeReport(reports, registers); err != nil {
		return err
	}
	return m.obey(reports)
}

// leave is Options.Leave; a TPM that does not answer keeps no machine from starting.
func (m *machine) leave() map[int]string {
	if m.options.Leave == nil {
		return nil
	}
	ctx, cancel := m.context(10 * time.Second)
	defer cancel()
	registers, err := m.options.Leave(ctx, m.config.Sources, m.modules.Load)
	if err != nil {
		m.log.Warn("tpm2: " + err.Error())
	}
	return registers
}

// obey applies the policy on failure.
func (m *machine) obey(reports []handoff.VolumeReport) error {
	var errs []error
	for _, r := range reports {
		switch r.State {
		case handoff.StateOpened, handoff.StateBlank:
			// Blank is the first boot; wardctl formats the volume.
		default:
			errs = append(errs, fmt.Errorf("%s is %s", r.Name, r.State))
		}
	}
	if len(errs) == 0 || m.config.OnFailure != handoff.Halt {
		return nil
	}
	return fmt.Errorf("halt: the policy is on_failure=halt and %w", errors.Join(errs...))
}

// hotplug loads the driver of a device that appears.
func (m *machine) hotplug(e disks.Event) {
	switch alias := e.Env["MODALIAS"]; {
	case e.Action == "overrun":
		go guard(m.log, "devices", m.modules.Coldplug)
	case e.Action == "add" && alias != "":
		go guard(m.log, "driver for "+alias, func() error { return m.modules.Match(alias) })
	}
}

// job is work that others wait for.
type job struct {
	done chan struct{}
	err  error
}

// job starts f and records how long it took.
func (m *machine) job(phase string, f func() error) *job {
	j := &job{done: make(chan struct{})}
	go func() {
		defer close(j.done)
		defer func() {
			if r := recover(); r != nil {
				j.err = fmt.Errorf("%s: init is broken: %v", phase, r)
			}
		}()
		defer m.timing(phase)()
		if err := f(); err != nil {
			j.err = fmt.Errorf("%s: %w", phase, err)
		}
	}()
	return j
}

func (j *job) wait() error {
	<-j.done
	return j.err
}

// timing records a phase from now until the function that it returns is called.
func (m *machine) timing(phase string) func() {
	start := time.Since(m.start)
	return func() {
		end := time.Since(m.start)
		m.mu.Lock()
		m.timings = append(m.timings, handoff.Timing{Phase: phase, StartUS: start.Microseconds(), EndUS: end.Microseconds()})
		m.mu.Unlock()
		m.log.Debug("phase done", "phase", phase, "ms", (end - start).Milliseconds(), "at_ms", end.Milliseconds())
	}
}

// guard runs f so that a panic in a goroutine does not become one of the kernel.
func guard(log *slog.Logger, what string, f func() error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("init is broken", "in", what, "panic", fmt.Sprint(r))
		}
	}()
	if err := f(); err != nil {
		log.Error(what + ": " + err.Error())
	}
}

// timeout is how long to wait for a partition: the kernel line's
// ward.timeout=SECONDS or the default.
func (m *machine) timeout(def time.Duration) time.Duration {
	if v, ok := m.line.Get("ward.timeout"); ok {
		if d, err := time.ParseDuration(v + "s"); err == nil && d > 0 && d <= time.Hour {
			return d
		}
		m.log.Warn("ward.timeout is not a number of seconds from 1 to 3600", "value", v)
	}
	return def
}

func (m *machine) context(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// afterRoot is a context that ends when root has been there for d. A volume is
// mostly on the disk of root: where the drivers are slow, it is waited for as
// long as root is.
func (m *machine) afterRoot(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-m.rooted.done:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(d):
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (m *machine) elapsed() int64 { return time.Since(m.start).Milliseconds() }
