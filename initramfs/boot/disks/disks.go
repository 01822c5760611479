// Package disks knows the block devices of a running machine: what the kernel
// announces, with partition table entries and file system labels. Devices are
// found by what is written on them; names such as vda differ from boot to boot.
//
//	set := disks.New(log)
//	set.Scan()
//	go set.Follow(listener, nil)
//	b, err := set.Wait(ctx, func(b disks.Block) bool { return b.Label == "WARD-KEY" })
package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Block is one block device: a whole disk or a partition.
type Block struct {
	Name         string // "vda3"
	Path         string // "/dev/vda3"
	Major, Minor int
	Disk         string // name of the whole disk; equal to Name for a disk
	Number       int    // of the partition; 0 for a disk
	PartType     string // GPT type GUID, lower case
	PartUUID     string
	PartLabel    string
	Superblock
}

// Set is the block devices that are known by now. Its methods may be called from
// several goroutines.
type Set struct {
	sys, dev string
	log      *slog.Logger

	mu      sync.Mutex
	blocks  map[string]Block
	looked  map[string]bool // names that have been probed, with or without success
	changed chan struct{}   // closed and replaced at each change
}

// New gives an empty set.
func New(log *slog.Logger) *Set {
	return &Set{sys: "/sys", dev: "/dev", log: log, blocks: map[string]Block{}, looked: map[string]bool{}, changed: make(chan struct{})}
}

// skipped are devices that hold neither root nor PHI nor keys, or that are made
// of others. A floppy without a disk takes seconds to say so.
var skipped = []string{"loop", "ram", "zram", "dm-", "fd", "nbd", "sr"}

// Scan probes every device that the kernel has now and returns when each has
// been looked at.
func (s *Set) Scan() {
	entries, err := os.ReadDir(filepath.Join(s.sys, "class/block"))
	if err != nil {
		s.log.Error("list of block devices", "error", err)
		return
	}
	var wg sync.WaitGroup
	for _, e := range entries {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.probe(e.Name())
		}()
	}
	wg.Wait()
}

// Follow takes events until the listener is closed. Each event is also given to
// other, which may be nil and must not block.
func (s *Set) Follow(l *Listener, other func(Event)) error {
	for {
		e, err := l.Next()
		if errors.Is(err, ErrOverrun) {
			go s.Scan()
			if other != nil {
				other(Event{Action: "overrun"})
			}
			continue
		}
		if err != nil {
			return err
		}
		s.handle(e)
		if other != nil {
			other(e)
		}
	}
}

func (s *Set) handle(e Event) {
	if e.Env["SUBSYSTEM"] != "block" {
		return
	}
	name := filepath.Base(e.Env["DEVPATH"])
	switch e.Action {
	case "add", "change":
		// A disk that does not answer must not hold up the others.
		go s.probe(name)
	case "remove":
		s.mu.Lock()
		delete(s.blocks, name)
		delete(s.looked, name)
		s.signal()
		s.mu.Unlock()
	}
}

// signal wakes those who wait. The caller holds mu.
func (s *Set) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// probe looks at one device and enters it into the set.
func (s *Set) probe(name string) {
	if isSkipped(name) {
		return
	}
	b, err := s.read(name)
	s.mu.Lock()
	if err == nil {
		s.blocks[name] = b
	}
	s.looked[name] = true
	s.signal()
	s.mu.Unlock()
	if err != nil {
		// Gone again, an empty card reader: not a fault of the boot.
		s.log.Debug("block device left out", "device", name, "error", err)
		return
	}
	s.log.Debug("block device", "device", name, "partuuid", b.PartUUID, "partlabel", b.PartLabel, "fs", b.FS, "label", b.Label)
}

func isSkipped(name string) bool {
	return slices.ContainsFunc(skipped, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Settle waits until each device that the kernel has by now has been probed, or
// until ctx ends. What the kernel finds later is not waited for.
func (s *Set) Settle(ctx context.Context) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		entries, err := os.ReadDir(filepath.Join(s.sys, "class/block"))
		if err != nil {
			return err
		}
		s.mu.Lock()
		pending := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !isSkipped(e.Name()) && !s.looked[e.Name()] })
		s.mu.Unlock()
		if !pending {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Set) read(name string) (Block, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(s.sys, "class/block", name))
	if err != nil {
		return Block{}, err
	}
	b := Block{Name: name, Path: filepath.Join(s.dev, name), Disk: name}
	dev, err := readLine(dir, "dev")
	if err != nil {
		return Block{}, err
	}
	if _, err := fmt.Sscanf(dev, "%d:%d", &b.Major, &b.Minor); err != nil {
		return Block{}, fmt.Errorf("%s/dev: %q: %w", dir, dev, err)
	}
	if n, err := readLine(dir, "partition"); err == nil {
		if b.Number, err = strconv.Atoi(n); err != nil {
			return Block{}, fmt.Errorf("%s/partition: %w", dir, err)
		}
		b.Disk = filepath.Base(filepath.Dir(dir))
		if err := s.readEntry(&b, filepath.Dir(dir)); err != nil {
			return Block{}, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Block{}, err
	}
	f, err := os.Open(b.Path)
	if err != nil {
		return Block{}, err
	}
	defer f.Close()
	b.Superblock, err = readSuperblock(f)
	return b, err
}

// readEntry fills in what the partition table says of b. Kernels before 6.9 do
// not have the UUID in sysfs, and none has the type.
func (s *Set) readEntry(b *Block, diskDir string) error {
	size := 512
	if t, err := readLine(diskDir, "queue/logical_block_size"); err == nil {
		if size, err = strconv.Atoi(t); err != nil {
			return fmt.Errorf("%s: logical block size: %w", b.Disk, err)
		}
	}
	f, err := os.Open(filepath.Join(s.dev, b.Disk))
	if err != nil {
		return err
	}
	defer f.Close()
	parts, err := readGPT(f, size)
	if errors.Is(err, errNoGPT) {
		return nil // an MBR disk: its partitions are known by file system label only
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.Disk, err)
	}
	for _, p := range parts {
		if p.Number == b.Number {
			b.PartType, b.PartUUID, b.PartLabel = p.Type, p.UUID, p.Name
		}
	}
	return nil
}

func readLine(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(data)), err
}

// Find returns the known devices for which match is true, sorted by name.
func (s *Set) Find(match func(Block) bool) []Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Block
	for _, b := range s.blocks {
		if match(b) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b Block) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Wait returns the devices for which match is true as soon as there is one, or
// ctx's error.
func (s *Set) Wait(ctx context.Context, match func(Block) bool) ([]Block, error) {
	return s.WaitNew(ctx, match, nil)
}

// WaitNew is Wait that takes no device whose name is in seen.
func (s *Set) WaitNew(ctx context.Context, match func(Block) bool, seen map[string]bool) ([]Block, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		found := s.Find(func(b Block) bool { return !seen[b.Name] && match(b) })
		if len(found) > 0 {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
