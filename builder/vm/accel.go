package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// A host may have a /dev/kvm that opens and whose guests do not run, or run so
// slowly that no kernel starts (nested virtualisation that is emulated). Seen:
// real mode runs, long mode crawls, and "-cpu host" aborts on an MSR. So the
// device is not looked at but tried, with the processor and board that a real
// guest gets: the guest must turn on paging and long mode, count to 2^26, and
// say through the debug port that it did, all within probeTime.
const (
	probeValue = 0x2a
	probeExit  = probeValue<<1 | 1 // what isa-debug-exit makes of it, hw/misc/debugexit.c
	probeTime  = 3 * time.Second
)

// probeSector is the guest: 16-bit code at 0x7c00 that ends in 64-bit code.
func probeSector() []byte {
	return sector([]byte{
		0xfa, 0xfc, // cli; cld
		0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // ax = ds = es = 0
		0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xf3, 0xab, // clear 0x1000-0x3fff, the page tables
		0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, // level 4, entry 0: 0x2000, present, writable
		0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, // level 3, entry 0: 0x3000
		0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, // level 2, entry 0: 2 MiB page at 0
		0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, // cr3 = 0x1000
		0x0f, 0x20, 0xe0, 0x0c, 0x20, 0x0f, 0x22, 0xe0, // cr4 |= PAE
		0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30, // EFER |= LME
		0x0f, 0x01, 0x16, 0x78, 0x7c, // lgdt 0x7c78
		0x0f, 0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, // cr0 |= PG, PE
		0xea, 0x56, 0x7c, 0x08, 0x00, // jump to 8:0x7c56, in 64-bit code
		0xb9, 0x00, 0x00, 0x00, 0x04, 0xe2, 0xfe, // ecx = 1<<26; loop
		0xb0, probeValue, 0xe6, 0xf4, // out 0xf4, value
		0xf4, 0xeb, 0xfd, // hlt, for ever
		0x0f, 0x1f, 0x40, 0x00, // up to 0x7c68
		0, 0, 0, 0, 0, 0, 0, 0, // descriptor 0
		0, 0, 0, 0, 0, 0x9a, 0x20, 0, // descriptor 8: 64-bit code
		15, 0, 0x68, 0x7c, 0, 0, // the table: limit, address
	})
}

// sector makes a boot sector of code: 512 bytes that end in 55 aa.
func sector(code []byte) []byte {
	s := make([]byte, 512)
	copy(s[:510], code)
	s[510], s[511] = 0x55, 0xaa
	return s
}

var tried struct {
	sync.Mutex
	answer string
}

// accelerator is Accelerator for a machine of that architecture: KVM runs only the
// host's own, and is tried with amd64 alone.
func accelerator(ctx context.Context, arch string) string {
	if arch != boards[0].arch || runtime.GOARCH != arch {
		return "tcg"
	}
	return Accelerator(ctx)
}

// Accelerator is "kvm" where it runs a guest and "tcg" elsewhere. The first
// call tries it, within 3 s; later ones return the answer of the first.
func Accelerator(ctx context.Context) string {
	tried.Lock()
	defer tried.Unlock()
	if tried.answer != "" {
		return tried.answer
	}
	answer := "tcg"
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		f.Close()
		if Probe(ctx, "kvm", probeTime) == nil {
			answer = "kvm"
		}
	}
	if ctx.Err() == nil {
		tried.answer = answer
	}
	return answer
}

// Probe runs a guest of one sector under an accelerator and returns nil only if
// the guest itself said, within the limit, that it ran.
func Probe(ctx context.Context, accel string, limit time.Duration) error {
	dir, err := os.MkdirTemp("", "ward-probe-")
	if err != nil {
		return fmt.Errorf("probe %s: %w", accel, err)
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "sector")
	if err := os.WriteFile(image, append(probeSector(), make([]byte, 1<<20-512)...), 0o600); err != nil {
		return fmt.Errorf("probe %s: %w", accel, err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stderr := &tail{max: 4 << 10}
	argv := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-machine", boards[0].machine, "-smp", "2", "-m", "32"}, accelArgs(accel, boards[0].tcgCPU)...)
	argv = append(argv, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x01",
		"-drive", "if=none,id=probe,format=raw,snapshot=on,file="+comma(image), "-device", "virtio-blk-pci,drive=probe,bootindex=0")
	cmd := exec.Command(boards[0].qemu, argv...)
	cmd.Stderr = stderr
	err = runUntil(ctx, cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return fmt.Errorf("probe %s: qemu ended with 0, the guest did not answer", accel)
	case errors.As(err, &exit) && exit.ExitCode() == probeExit:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("probe %s: the guest did not answer within %s", accel, limit)
	default:
		return fmt.Errorf("probe %s: %w: %s", accel, err, stderr)
	}
}
