package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ward/builder/vm"
)

const memoryMiB = 1024

// boot starts the machine with one initramfs and measures it.
func (b *bench) boot(ctx context.Context, c candidate) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	config := vm.Config{
		Firmware: "direct", Kernel: b.path(peers[0].name, "vmlinuz"), Initrd: c.initrd, Append: line(c.append),
		Image: b.path("disk.img"), MemoryMB: memoryMiB, NoReboot: true,
		// The memory has a name, to find it in the maps of QEMU.
		Extra: []string{"-object", fmt.Sprintf("memory-backend-memfd,id=benchram,size=%dM,share=on", memoryMiB), "-machine", "memory-backend=benchram"},
	}
	if c.key {
		config.Key = b.path("key.img")
	}
	m, err := vm.Start(ctx, config)
	if err != nil {
		return sample{}, err
	}
	defer m.Close()
	b.accel = m.Accel()
	if _, err := m.Expect(ctx, "bench: the real init runs"); err != nil {
		return sample{}, err
	}
	memory, err := touched()
	if err != nil {
		return sample{}, err
	}
	if err := m.Wait(ctx); err != nil {
		return sample{}, err
	}
	s, err := times(m.ConsoleText(), c.opens)
	s.memory = memory
	return s, err
}

// The lines of the kernel log that are measured between, with their times.
var (
	runInit = regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] Run /init as init process`)
	// The first file system that is mounted on a partition of the disk: key devices
	// have none.
	rootMounted = regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] EXT4-fs \(vd[a-z]1\): mounted`)
	initRuns    = regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] bench: the real init runs, phi-data is (open|not open)`)
)

func times(console string, opens bool) (sample, error) {
	at := func(r *regexp.Regexp) (int, []string, error) {
		m := r.FindStringSubmatch(console)
		if m == nil {
			return 0, nil, fmt.Errorf("the console has no line that matches %s", r)
		}
		seconds, err1 := strconv.Atoi(m[1])
		micros, err2 := strconv.Atoi(m[2])
		return seconds*1000 + micros/1000, m, errors.Join(err1, err2)
	}
	start, _, err1 := at(runInit)
	root, _, err2 := at(rootMounted)
	end, m, err3 := at(initRuns)
	if err := errors.Join(err1, err2, err3); err != nil {
		return sample{}, err
	}
	if opens != (m[3] == "open") {
		return sample{}, errors.New("the real init runs, and the volume is " + m[3])
	}
	return sample{root: root - start, switched: end - start}, nil
}

// touched is how many MiB of the machine's memory exist: QEMU's memory starts
// empty, and a page that was ever written to stays.
func touched() (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		return 0, err
	}
	pids := strings.Fields(string(children))
	// QEMU was started by another thread than the first one.
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		more, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err == nil {
			pids = append(pids, strings.Fields(string(more))...)
		}
	}
	for _, pid := range pids {
		if mib, ok := ram("/proc/" + pid + "/smaps"); ok {
			return mib, nil
		}
	}
	return 0, errors.New("no QEMU with the memory of the machine among the children")
}

func ram(smaps string) (int, bool) {
	f, err := os.Open(smaps)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	in := false
	for sc.Scan() {
		line := sc.Text()
		if strings.Contains(line, "memfd:") {
			in = strings.Contains(line, "memory-backend-memfd")
		}
		if kib, ok := strings.CutPrefix(line, "Rss:"); in && ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			return n / 1024, err == nil
		}
	}
	return 0, false
}
