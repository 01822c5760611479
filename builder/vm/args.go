package vm

import (
	"fmt"
	"path/filepath"
	"strings"

	"ward/initramfs/handoff"
)

// Descriptors that QEMU inherits: one end each of a socket pair. There is no
// path to guess, none to clean up, and both sides see at once when the other dies.
const (
	fdConsole = 3 + iota
	fdVerdict
	fdQMP
)

// wiring is what Start has prepared for a machine and args needs to name.
type wiring struct {
	board    board
	accel    string
	disk     string // overlay
	code     string // UEFI
	vars     string
	tpm      string // socket of swtpm
	terminal bool   // console on standard input and output, for a person
}

// args is QEMU's command line, a pure function.
func args(c Config, w wiring) []string {
	a := []string{"-nodefaults", "-no-user-config", "-display", "none", "-name", "ward", "-rtc", "base=utc"}
	add := func(flag, format string, v ...any) { a = append(a, flag, fmt.Sprintf(format, v...)) }

	if c.SecureBoot != "" {
		// Only code in the system management mode may write the variables; OVMF that is
		// built for it does not wake from S3 (edk2, OvmfPkg/README).
		add("-machine", "%s,smm=on", w.board.machine)
		add("-global", "driver=cfi.pflash01,property=secure,value=on")
		add("-global", "ICH9-LPC.disable_s3=1")
	} else {
		add("-machine", "%s", w.board.machine)
	}
	a = append(a, accelArgs(w.accel, w.board.tcgCPU)...)
	add("-smp", "%d", c.CPUs)
	add("-m", "%d", c.MemoryMB)

	switch c.Firmware {
	case "uefi":
		add("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=%s", comma(w.code))
		add("-drive", "if=pflash,unit=1,format=qcow2,file=%s", comma(w.vars))
	case "direct":
		a = append(a, "-kernel", c.Kernel, "-append", c.Append)
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
	}

	// One console; what is on it is what a person at the machine would see.
	if w.terminal {
		// mux: Ctrl-a x quits, Ctrl-a c is the monitor; Ctrl-C goes to the guest.
		add("-chardev", "stdio,id=console,mux=on,signal=off%s", logfile(c.ConsoleLog))
		add("-mon", "chardev=console,mode=readline")
	} else {
		add("-chardev", "socket,id=console,fd=%d", fdConsole)
	}
	add("-serial", "chardev:console")
	if !w.terminal {
		add("-chardev", "socket,id=qmp,fd=%d", fdQMP)
		add("-mon", "chardev=qmp,mode=control")
		add("-device", "virtio-serial-pci")
		add("-chardev", "socket,id=verdict,fd=%d", fdVerdict)
		add("-device", "virtserialport,chardev=verdict,name=%s", handoff.VerdictPort)
	}
	add("-device", "virtio-rng-pci")

	restrict := ""
	if c.NoRoute {
		restrict = ",restrict=on"
	}
	// Without a network to boot from the card has no firmware, which would only wait.
	bootfile, rom, mac := "", "", ""
	if c.NetBoot != "" {
		bootfile, rom = ",bootfile="+strings.ReplaceAll(c.NetBoot, ",", ",,"), w.board.rom[c.Firmware]+",bootindex=9"
	}
	if c.MAC != "" {
		mac = ",mac=" + c.MAC
	}
	add("-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:%d-:22%s%s", c.SSHPort, restrict, bootfile)
	add("-device", "virtio-net-pci,netdev=net0,romfile=%s%s", rom, mac)
	if c.Capture != "" {
		add("-object", "filter-dump,id=capture,netdev=net0,maxlen=65536,file=%s", comma(c.Capture))
	}

	var disks []Disk
	if w.disk != "" {
		disks = append(disks, Disk{File: w.disk, Format: "qcow2", Bus: c.Bus, Serial: "ward-disk"})
	}
	if c.Key != "" {
		disks = append(disks, Disk{File: c.Key, Format: "raw", Bus: c.KeyBus, Serial: "ward-key", ReadOnly: true})
	}
	// With "-kernel" the index 0 is that of QEMU's own loader.
	a = append(a, diskArgs(append(disks, c.Disks...), c.Firmware != "direct")...)

	if c.Ignition != "" {
		add("-fw_cfg", "name=%s,file=%s", handoff.IgnitionFwCfg, comma(c.Ignition))
	}
	if w.tpm != "" {
		add("-chardev", "socket,id=tpm,path=%s", comma(w.tpm))
		add("-tpmdev", "emulator,id=tpm0,chardev=tpm")
		add("-device", "%s,tpmdev=tpm0", w.board.tpm)
	}
	if c.NoReboot {
		a = append(a, "-no-reboot")
	}
	return append(a, c.Extra...)
}

// accelArgs are those of an accelerator; cpu is the processor that TCG shows.
func accelArgs(accel, cpu string) []string {
	switch accel {
	case "tcg":
		return []string{"-accel", "tcg,thread=multi", "-cpu", cpu}
	case "kvm":
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", accel}
}

func diskArgs(disks []Disk, bootable bool) []string {
	var a []string
	buses := map[string]string{"scsi": "virtio-scsi-pci,id=scsi", "usb": "qemu-xhci,id=xhci"}
	for i, d := range disks {
		id := fmt.Sprintf("disk%d", i)
		drive := fmt.Sprintf("if=none,id=%s,format=%s,file=%s", id, d.Format, comma(d.File))
		if d.ReadOnly {
			drive += ",readonly=on"
		} else {
			drive += ",discard=unmap"
		}
		if bus, ok := buses[d.Bus]; ok {
			a = append(a, "-device", bus)
			delete(buses, d.Bus)
		}
		model := map[string]string{
			"":       "virtio-blk-pci",
			"virtio": "virtio-blk-pci",
			"nvme":   "nvme",
			"scsi":   "scsi-hd,bus=scsi.0",
			"usb":    "usb-storage,bus=xhci.0",
		}[d.Bus]
		device := fmt.Sprintf("%s,drive=%s", model, id)
		if d.Serial != "" {
			device += ",serial=" + comma(d.Serial)
		} else if d.Bus == "nvme" {
			device += ",serial=" + id // nvme refuses to be without one
		}
		// The first disk that is written to is the machine's own; a key is read-only.
		if bootable && !d.ReadOnly {
			device += ",bootindex=0"
			bootable = false
		}
		a = append(a, "-drive", drive, "-device", device)
	}
	return a
}

// comma doubles commas, as QEMU's option parser wants them in a value.
func comma(s string) string {
	if abs, err := filepath.Abs(s); err == nil && strings.Contains(s, string(filepath.Separator)) {
		s = abs
	}
	return strings.ReplaceAll(s, ",", ",,")
}

func logfile(name string) string {
	if name == "" {
		return ""
	}
	return ",logfile=" + comma(name)
}
