// Command witness is the real init of the machines that the tests of the
// initramfs start. It prints what the initramfs has left behind, as one line of
// JSON on the console, and powers off, or waits if the kernel line says
// witness=wait.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"
)

// Sight is what the witness saw; the tests decode it.
type Sight struct {
	Mounts  string
	Cmdline string
	Report  json.RawMessage
	Mapped  map[string]Mapping
	Udev    map[string]string // name of the file in /run/udev/data -> text
	Left    []string          // names in /run/ward
	Args    []string
	FDs     []string // what this process has open
	Klog    string
	Modules string
}

// Mapping is one device-mapper device.
type Mapping struct {
	UUID  string
	Link  string
	First string // hex of the first 32 bytes, decrypted
	Err   string
}

func main() {
	s := Sight{Mapped: map[string]Mapping{}, Udev: map[string]string{}, Args: os.Args}
	s.Mounts, s.Cmdline, s.Modules = read("/proc/mounts"), read("/proc/cmdline"), read("/proc/modules")
	if data, err := os.ReadFile("/run/ward/handoff.json"); err == nil && json.Valid(data) {
		s.Report = data
	}
	list, err := devmapper.List()
	if err == nil {
		for _, d := range list {
			s.Mapped[d.Name] = look(d.Name)
		}
	}
	files, _ := filepath.Glob("/run/udev/data/*")
	for _, f := range files {
		s.Udev[filepath.Base(f)] = read(f)
	}
	left, _ := os.ReadDir("/run/ward")
	for _, e := range left {
		s.Left = append(s.Left, e.Name())
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range fds {
		if to, err := os.Readlink(f); err == nil {
			s.FDs = append(s.FDs, to)
		}
	}
	s.Klog = klog()
	out, err := json.Marshal(s)
	if err != nil {
		out = []byte(fmt.Sprintf("%q", err))
	}
	port, err := os.OpenFile(port(), os.O_WRONLY, 0)
	if err != nil {
		fmt.Println("witness: no port:", err)
	} else {
		fmt.Fprintf(port, "%s\n", out)
		port.Close()
	}
	fmt.Println("witness: done")
	if strings.Contains(s.Cmdline, "witness=wait") {
		time.Sleep(time.Hour) // select{} would be a deadlock to the runtime
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// port is the second serial line: the console stays readable for a person.
func port() string { return "/dev/ttyS1" }

func look(name string) Mapping {
	var m Mapping
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return Mapping{Err: err.Error()}
	}
	m.UUID = info.UUID
	m.Link, _ = os.Readlink("/dev/mapper/" + name)
	f, err := os.Open("/dev/mapper/" + name)
	if err != nil {
		m.Err = err.Error()
		return m
	}
	defer f.Close()
	b := make([]byte, 32)
	if _, err := io.ReadFull(f, b); err != nil {
		m.Err = err.Error()
	}
	m.First = hex.EncodeToString(b)
	return m
}

func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

// klog reads the kernel log, syslog(2) action 3.
func klog() string {
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(buf[:n])
}
