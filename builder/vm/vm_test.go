package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hello is a guest of one sector: it writes text to the first serial port and halts.
func hello(t *testing.T, text string) string {
	t.Helper()
	code := []byte{
		0xfc,       // cld
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x22, 0x7c, // mov si, text
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x12, // jz end
		0x88, 0xc4, // mov ah, al
		0xba, 0xfd, 0x03, // mov dx, line status register
		0xec,       // wait: in al, dx
		0xa8, 0x20, // test al, transmitter empty
		0x74, 0xfb, // jz wait
		0x88, 0xe0, // mov al, ah
		0xba, 0xf8, 0x03, // mov dx, transmitter
		0xee,       // out dx, al
		0xeb, 0xe9, // jmp next
		0xf4,       // end: hlt
		0xeb, 0xfd, // jmp end
	}
	code = append(append(code, text...), 0)
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(file, append(sector(code), make([]byte, 1<<20-512)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func start(t *testing.T, c Config) *VM {
	t.Helper()
	if err := Missing(); err != nil {
		if os.Getenv("QEMU_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c.Firmware, c.MemoryMB, c.CPUs = "bios", 32, 1
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return m
}

func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestExpectSeesTheConsole(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console.log")
	image := hello(t, "one two\r\nthree\r\n")
	m := start(t, Config{Image: image, ConsoleLog: log})
	match, err := m.Expect(limit(t, 30*time.Second), `one (\w+)`)
	if err != nil || len(match) != 2 || match[1] != "two" {
		t.Fatalf("Expect() = %q, %v, want the submatch \"two\"", match, err)
	}
	if _, err := m.Expect(limit(t, 30*time.Second), `three`); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "one two") {
		t.Errorf("console log = %q, %v", data, err)
	}
	if m.port == 0 {
		t.Error("no port was forwarded")
	}
	before, _ := os.ReadFile(image)
	if _, err := os.Stat(m.Disk()); err != nil {
		t.Errorf("no overlay: %v", err)
	}
	dir := m.StateDir()
	if err := m.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close left %s: %v", dir, err)
	}
	if after, _ := os.ReadFile(image); string(before) != string(after) {
		t.Error("the image was written to")
	}
}

func TestPanicEndsEveryWait(t *testing.T) {
	m := start(t, Config{Image: hello(t, "working\n[    1.2] Kernel panic - not syncing: no root\n")})
	began := time.Now()
	_, err := m.Verdict(limit(t, 5*time.Minute))
	if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "no root") || !strings.Contains(err.Error(), "| working") {
		t.Errorf("Verdict() = %v, want the panic and the console before it", err)
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("Verdict took %s after a panic", d)
	}
	if _, err := m.Expect(limit(t, time.Minute), "never"); !errors.Is(err, ErrLost) {
		t.Errorf("Expect() = %v, want ErrLost", err)
	}
	if err := m.Err(); !errors.Is(err, ErrLost) {
		t.Errorf("Err() = %v, want ErrLost", err)
	}
}

func TestSilenceIsAnErrorWithTheConsole(t *testing.T) {
	m := start(t, Config{Image: hello(t, "then silence\n")})
	if _, err := m.Expect(limit(t, 30*time.Second), "silence"); err != nil {
		t.Fatal(err)
	}
	_, err := m.Verdict(limit(t, 300*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "then silence") {
		t.Errorf("Verdict() = %v, want a deadline with the console", err)
	}
}

func TestResetAndKill(t *testing.T) {
	m := start(t, Config{Image: hello(t, "hello\n")})
	if _, err := m.Expect(limit(t, 30*time.Second), "hello"); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(limit(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(limit(t, 30*time.Second), "hello"); err != nil {
		t.Errorf("after a reset: %v", err)
	}
	m.Kill()
	if err := m.Wait(limit(t, 30*time.Second)); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Wait() after Kill = %v, want that qemu was killed", err)
	}
}

func TestSnapshotRestores(t *testing.T) {
	m := start(t, Config{Image: hello(t, "hello\n")})
	if _, err := m.Expect(limit(t, 30*time.Second), "hello"); err != nil {
		t.Fatal(err)
	}
	if err := m.Snapshot(limit(t, time.Minute), "one"); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(limit(t, time.Minute), "one"); err != nil {
		t.Error(err)
	}
	if err := m.Restore(limit(t, time.Minute), "two"); err == nil || !strings.Contains(err.Error(), "two") {
		t.Errorf("Restore of an unknown snapshot = %v, want its name", err)
	}
}

func TestContextEndsQEMU(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m, err := Start(ctx, Config{Image: hello(t, "hello\n"), Firmware: "bios", MemoryMB: 32})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cancel()
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		t.Error("qemu runs 10 s after its context ended")
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	_, err := Start(t.Context(), Config{Image: "no/such.qcow2", Format: "qed", Bus: "ide", Firmware: "coreboot", Disks: []Disk{{File: "/none", Bus: "floppy", Format: "raw"}}})
	for _, want := range []string{"no/such.qcow2", `format: "qed"`, `bus: "ide"`, `firmware: "coreboot"`, "/none", `disks[0].bus: "floppy"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start() = %v, want %q in it", err, want)
		}
	}
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	_, err = Start(t.Context(), Config{Firmware: "bios", Extra: []string{"-no-such-option"}})
	if err == nil || !strings.Contains(err.Error(), "-no-such-option") {
		t.Errorf("Start() = %v, want what qemu said", err)
	}
}

func TestProbe(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	// The sector answers where a guest runs at all...
	if err := Probe(t.Context(), "tcg", 30*time.Second); err != nil {
		t.Errorf("Probe(tcg) = %v", err)
	}
	// ... and an accelerator that is none is an error with qemu's reason.
	if err := Probe(t.Context(), "warp", 10*time.Second); err == nil || !strings.Contains(err.Error(), "warp") {
		t.Errorf("Probe(warp) = %v", err)
	}
	// A guest that does not run in time is no answer.
	if err := Probe(t.Context(), "tcg", time.Nanosecond); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("Probe(1ns) = %v", err)
	}
	first := Accelerator(t.Context())
	began := time.Now()
	if second := Accelerator(t.Context()); second != first || time.Since(began) > 100*time.Millisecond {
		t.Errorf("Accelerator() = %q after %q, in %s", second, first, time.Since(began))
	}
}
