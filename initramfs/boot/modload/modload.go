// Package modload loads kernel modules with what they need, each once, those
// that are independent of each other in parallel.
package modload

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ward/initramfs/kmod"
)

// Loader loads modules of one folder. It expects plain .ko files, as the builder
// stores them.
type Loader struct {
	dir   string
	table *kmod.Table
	log   *slog.Logger
	load  func(path string) error
	slots *slots

	mu   sync.Mutex
	done map[string]*result
}

type result struct {
	once sync.Once
	err  error
}

// New reads the tables in dir, for example /lib/modules/6.1.0-13-amd64.
func New(dir string, log *slog.Logger) (*Loader, error) {
	t, err := kmod.Read(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	return &Loader{dir: dir, table: t, log: log, load: finit, slots: newSlots(runtime.NumCPU()), done: map[string]*result{}}, nil
}

// Running is New for the kernel that runs.
func Running(log *slog.Logger) (*Loader, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	version := unix.ByteSliceToString(uts.Release[:])
	l, err := New(filepath.Join("/lib/modules", version), log)
	if err != nil {
		return nil, fmt.Errorf("this initramfs is not for kernel %s: %w", version, err)
	}
	return l, nil
}

// Load loads a module and what it needs. A module that is not in the folder is
// taken for built in: the builder has refused the others.
func (l *Loader) Load(name string) error {
	return l.loadBelow(kmod.Name(name), 0, nil)
}

// loadBelow carries the chain of modules that wait for this one, because a
// circle in modules.dep would wait for ever.
func (l *Loader) loadBelow(name string, rank int, chain []string) error {
	path, ok := l.table.Path[name]
	if !ok {
		return nil
	}
	for _, c := range chain {
		if c == name {
			return fmt.Errorf("module %s needs itself", name)
		}
	}
	chain = append(chain[:len(chain):len(chain)], name)
	l.mu.Lock()
	r := l.done[name]
	if r == nil {
		r = &result{}
		l.done[name] = r
	}
	l.mu.Unlock()
	r.once.Do(func() {
		if r.err = l.all(l.table.Deps[name], rank, chain); r.err != nil {
			return
		}
		l.slots.acquire(rank)
		defer l.slots.release()
		began := time.Now()
		if err := l.load(filepath.Join(l.dir, path)); err != nil {
			r.err = fmt.Errorf("module %s: %w", name, err)
		}
		l.log.Debug("module", "name", name, "ms", time.Since(began).Milliseconds())
	})
	return r.err
}

func (l *Loader) all(names []string, rank int, chain []string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = l.loadBelow(n, rank, chain)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// LoadAll loads several modules in parallel; earlier ones go first where they
// compete. "A|B" loads B only if A cannot be loaded. ENODEV is not an error: the
// module looked for its hardware and it is not there.
func (l *Loader) LoadAll(names []string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = l.loadFirst(strings.Split(n, "|"), i)
			if i == 0 {
				l.slots.open()
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *Loader) loadFirst(names []string, rank int) error {
	var errs []error
	for _, n := range names {
		err := l.loadBelow(kmod.Name(n), rank, nil)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.ENODEV) {
			l.log.Debug("module has no device", "module", n)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Match loads the modules for a device's MODALIAS.
func (l *Loader) Match(modalias string) error {
	return l.LoadAll(l.table.Match(modalias))
}

// Coldplug loads modules for the devices that the kernel has found before
// anybody listened to its events.
func (l *Loader) Coldplug() error {
	files, err := filepath.Glob("/sys/bus/*/devices/*/modalias")
	if err != nil {
		return err
	}
	var names []string
	seen := map[string]bool{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // unplugged since
		}
		alias := string(data)
		for len(alias) > 0 && alias[len(alias)-1] == '\n' {
			alias = alias[:len(alias)-1]
		}
		if alias == "" || seen[alias] {
			continue
		}
		seen[alias] = true
		names = append(names, l.table.Match(alias)...)
	}
	return l.LoadAll(names)
}

// finit loads one file, finit_module(2). EEXIST: somebody else has loaded it.
func finit(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
