// Package vm starts one machine in QEMU and watches it: console, verdict port,
// QMP, SSH from outside. It never writes to the image (a qcow2 overlay takes
// every write), uses no fixed port, and QEMU ends when the program ends.
//
//	m, err := vm.Start(ctx, vm.Config{Image: "out/debian-12/disk.qcow2", Key: "key.img", Ignition: "config.ign"})
//	if err != nil { ... }
//	defer m.Close()
//	report, err := m.Verdict(ctx)
//
// Every wait ends at once when the console shows that the machine is lost
// (kernel panic, halted init, emergency shell) or when QEMU ends, and its error
// carries the last lines of the console. A time-out is an error, never an answer.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Config says which machine to start.
type Config struct {
	// Arch is the machine's architecture, as images have it; empty: "amd64".
	Arch string

	// Image is the disk image; it is only read. Empty: no disk.
	Image string
	// Format is the image's format as qemu-img calls it; empty: qcow2 or raw,
	// whatever its first bytes say.
	Format string
	// Bus is where the disk hangs: "virtio" (default), "nvme" or "scsi".
	Bus string
	// State is the machine's own folder: its overlay, its UEFI variables. A
	// folder that already has them is continued, so a machine survives Kill.
	// Empty: a temporary one, removed by Close.
	State string
	// DiskSize grows the overlay, in bytes; 0: as large as the image.
	DiskSize int64

	// Firmware is "uefi" (default), "bios", or "direct" (Kernel and Initrd).
	Firmware string
	// SecureBoot is a folder of `ward key secure-boot` whose keys the firmware has, with
	// Secure Boot on; uefi only. Empty: a firmware without it.
	SecureBoot string

	Kernel string // direct
	Initrd string // direct
	Append string // direct: kernel command line

	Ignition string // file given as fw_cfg opt/com.coreos/config; empty: none
	Key      string // image of the key device, attached read-only; empty: none
	KeyBus   string // "virtio" (default) or "usb"
	Disks    []Disk // further disks
	TPM      bool   // a TPM 2.0 by swtpm, its state kept in State
	NoRoute  bool   // the guest reaches nothing but the host's forwards

	// NetBoot is the boot file that DHCP names, such as http://HOST/boot.ipxe; the
	// network card then has iPXE as its firmware and comes after the disks.
	NetBoot string
	MAC     string // of the network card; empty: QEMU's own choice

	CPUs     int    // default 2
	MemoryMB int    // default 2048
	SSHPort  int    // port on 127.0.0.1 forwarded to the guest's 22; 0: any free one
	NoReboot bool   // a reset of the guest ends QEMU
	Capture  string // file for a packet capture (pcap); empty: none

	ConsoleLog string       // file that gets the whole console; empty: none
	Accel      string       // "kvm" or "tcg"; empty: Accelerator decides
	Extra      []string     // further arguments for QEMU
	Log        *slog.Logger // gets the command line at debug level; nil: none
}

// Disk is one more disk of the machine.
type Disk struct {
	File     string
	Format   string // "raw" or "qcow2"
	Bus      string // "virtio" (default), "nvme", "scsi" or "usb"
	Serial   string
	ReadOnly bool
}

// HostAddr is the host's loopback interface as the guest sees it: a service
// that listens on 127.0.0.1:N here answers at HostAddr:N there.
const HostAddr = "10.0.2.2"

// slowdown is how many times slower than under KVM a guest may be without it.
const slowdown = 8

// VM is one running machine.
type VM struct {
	cfg     Config
	accel   string
	dir     string // state folder
	scratch bool   // dir is ours to remove
	port    int

	cmd     *exec.Cmd
	qmp     *monitor
	stderr  *tail
	tpm     *exec.Cmd
	tpmDone chan struct{}
	log     *os.File
	conn    net.Conn // console, both ways

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change of what follows
	console console
	port0   reports
	resets  int
	silence silence
	ended   bool
	endErr  error
	reason  string // of a shutdown, as QMP says it
	done    chan struct{}
	closing sync.Once
}

// Start starts a machine. It runs until Close, until ctx ends or until the
// guest powers off; QEMU is killed when the calling program dies.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &VM{cfg: cfg, accel: cfg.Accel, dir: cfg.State, changed: make(chan struct{}), done: make(chan struct{}), stderr: &tail{max: 8 << 10}}
	if m.accel == "" {
		m.accel = accelerator(ctx, cfg.Arch)
	}
	if err := m.start(ctx); err != nil {
		m.Close()
		return nil, fmt.Errorf("start vm: %w", err)
	}
	return m, nil
}

func (c Config) withDefaults() Config {
	if c.Arch == "" {
		c.Arch = boards[0].arch
	}
	if c.Bus == "" {
		c.Bus = "virtio"
	}
	if c.Firmware == "" {
		c.Firmware = "uefi"
	}
	if c.KeyBus == "" {
		c.KeyBus = "virtio"
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 2048
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	oneOf := func(field, value string, known ...string) {
		for _, k := range known {
			if value == k {
				return
			}
		}
		faults = append(faults, fmt.Errorf("%s: %q is not one of %q", field, value, known))
	}
	b, err := boardOf(c.Arch)
	if err != nil {
		faults = append(faults, err)
	} else if c.Firmware == "bios" && !b.bios || c.SecureBoot != "" && len(b.secure) == 0 || c.NetBoot != "" && b.rom["uefi"] == "" {
		faults = append(faults, fmt.Errorf("architecture %s: there is no machine with a BIOS, with Secure Boot or that boots from the network here", c.Arch))
	}
	oneOf("bus", c.Bus, "virtio", "nvme", "scsi")
	oneOf("firmware", c.Firmware, "uefi", "bios", "direct")
	oneOf("format", c.Format, "", "qcow2", "raw", "vmdk", "vpc", "vhdx")
	oneOf("key bus", c.KeyBus, "virtio", "usb")
	oneOf("accelerator", c.Accel, "", "kvm", "tcg")
	if (c.Firmware == "direct") != (c.Kernel != "") {
		faults = append(faults, errors.New("kernel: goes with firmware \"direct\", and the other way round"))
	}
	if c.SecureBoot != "" && c.Firmware != "uefi" {
		faults = append(faults, errors.New("secure boot: goes with firmware \"uefi\" alone"))
	}
	files := []string{c.Image, c.Kernel, c.Initrd, c.Ignition, c.Key}
	for i, d := range c.Disks {
		oneOf(fmt.Sprintf("disks[%d].bus", i), d.Bus, "", "virtio", "nvme", "scsi", "usb")
		oneOf(fmt.Sprintf("disks[%d].format", i), d.Format, "raw", "qcow2")
		files = append(files, d.File)
	}
	for _, f := range files {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("vm: %w", errors.Join(faults...))
	}
	return nil
}

// Timeout is d on a machine with KVM and longer without.
func (m *VM) Timeout(d time.Duration) time.Duration {
	if m.accel == "kvm" {
		return d
	}
	return d * slowdown
}

// Accel is "kvm" or "tcg".
func (m *VM) Accel() string { return m.accel }

// StateDir is the machine's folder, see Config.State.
func (m *VM) StateDir() string { return m.dir }

// Disk is the machine's overlay; read it only after the machine has ended.
func (m *VM) Disk() string { return filepath.Join(m.dir, "disk.qcow2") }

// SSHAddr is where the guest's SSH server answers on the host.
func (m *VM) SSHAddr() string { return fmt.Sprintf("127.0.0.1:%d", m.port) }

// Done is closed when QEMU has ended.
func (m *VM) Done() <-chan struct{} { return m.done }

// Kill ends QEMU at once, as a power cut does: what the guest has not flushed is gone.
func (m *VM) Kill() {
	if m.cmd == nil || m.cmd.Process == nil {
		return
	}
	m.cmd.Process.Kill()
	<-m.done
}

// Close kills QEMU if it runs and removes the temporary folder.
func (m *VM) Close() error {
	var err error
	m.closing.Do(func() {
		m.Kill()
		m.mu.Lock()
		if m.silence.timer != nil {
			m.silence.timer.Stop()
		}
		m.mu.Unlock()
		if m.qmp != nil {
			m.qmp.close()
		}
		if m.tpm != nil {
			m.tpm.Process.Kill()
			<-m.tpmDone
		}
		if m.conn != nil {
			m.conn.Close()
		}
		if m.log != nil {
			err = m.log.Close()
		}
		if m.scratch {
			err = errors.Join(err, os.RemoveAll(m.dir))
		}
	})
	return err
}

// Console writes to the guest's serial console.
func (m *VM) Console() io.Writer { return m.conn }
