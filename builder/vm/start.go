package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ward/builder/command"
	"ward/builder/secureboot"
)

func (m *VM) start(ctx context.Context) error {
	w, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	var ours [3]net.Conn
	var theirs []*os.File
	// Closed as soon as QEMU has them: while we hold one, its end is not seen.
	closeTheirs := func() {
		for _, f := range theirs {
			f.Close()
		}
		theirs = nil
	}
	defer closeTheirs()
	for i := range ours {
		conn, file, err := socketPair()
		if err != nil {
			return err
		}
		ours[i], theirs = conn, append(theirs, file)
	}
	m.conn = ours[0]
	if m.cfg.ConsoleLog != "" {
		if m.log, err = os.OpenFile(m.cfg.ConsoleLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
			return err
		}
	}

	argv := args(m.cfg, w)
	qemu := w.board.qemu
	cmd := exec.Command(qemu, argv...)
	cmd.ExtraFiles = theirs
	cmd.Stderr = m.stderr
	m.cfg.Log.Debug("start qemu", "accel", m.accel, "argv", command.Quote(append([]string{qemu}, argv...)))
	drained := make(chan struct{}, 2)
	m.cmd = cmd
	if err := spawn(cmd, func(err error) { m.end(err, drained) }); err != nil {
		m.cmd = nil
		return err
	}
	closeTheirs()
	go m.drain(ours[0], drained, func(p []byte) {
		if m.log != nil {
			m.log.Write(p)
		}
		m.silence.spoke = time.Now()
		m.console.write(p)
	}, m.console.quiet)
	go m.drain(ours[1], drained, m.port0.write, func() {})
	go func() {
		select {
		case <-ctx.Done():
			m.Kill()
		case <-m.done:
		}
	}()

	// QEMU answers before the guest does anything that takes time.
	early, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if m.qmp, err = newMonitor(early, ours[2], m.event); err != nil {
		return m.early(err)
	}
	if m.port, err = m.forwarded(early); err != nil {
		return m.early(err)
	}
	m.update(m.listen)
	return nil
}

// early adds what QEMU said to an error of its first moments.
func (m *VM) early(err error) error {
	m.cmd.Process.Kill()
	<-m.done
	if s := strings.TrimSpace(m.stderr.String()); s != "" {
		return fmt.Errorf("%w: %s", err, s)
	}
	return err
}

// pause is how long a guest shows nothing before its last line is taken for whole.
const pause = time.Second

// drain hands what a guest writes to f until the port closes, and calls quiet when
// it pauses; both under the lock.
func (m *VM) drain(conn net.Conn, drained chan<- struct{}, f func([]byte), quiet func()) {
	defer func() { drained <- struct{}{} }()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			m.update(func() { f(buf[:n]) })
			conn.SetReadDeadline(time.Now().Add(pause))
		}
		if err == nil {
			continue
		}
		m.update(quiet)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		conn.SetReadDeadline(time.Time{}) // one pause is told once
	}
}

// end records QEMU's end, after everything that the guest had written.
func (m *VM) end(err error, drained <-chan struct{}) {
	for range 2 {
		<-drained
	}
	m.update(func() { m.ended, m.endErr = true, err })
	close(m.done)
}

// prepare makes what the machine needs besides the image: its folder, overlay,
// UEFI variables and TPM.
func (m *VM) prepare(ctx context.Context) (wiring, error) {
	w := wiring{accel: m.accel}
	var err error
	if w.board, err = boardOf(m.cfg.Arch); err != nil {
		return w, err
	}
	if m.dir == "" {
		dir, err := os.MkdirTemp("", "ward-vm-")
		if err != nil {
			return w, err
		}
		m.dir, m.scratch = dir, true
	} else if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return w, err
	}
	if m.cfg.Image != "" {
		w.disk = m.Disk()
		if err := overlay(ctx, m.cfg.Image, m.cfg.Format, w.disk, m.cfg.DiskSize); err != nil {
			return w, err
		}
	}
	if m.cfg.Firmware == "uefi" {
		list := w.board.firmware
		if m.cfg.SecureBoot != "" {
			list = w.board.secure
		}
		code, vars, err := findFirmware(list, isFile)
		if err != nil {
			return w, err
		}
		if m.cfg.SecureBoot != "" {
			if vars, err = m.enrolled(vars); err != nil {
				return w, err
			}
		}
		// qcow2, because a snapshot of the machine needs it of every writable disk.
		w.code, w.vars = code, filepath.Join(m.dir, "vars.qcow2")
		if err := convert(ctx, vars, w.vars); err != nil {
			return w, err
		}
	}
	if m.cfg.TPM {
		socket, err := m.startTPM()
		if err != nil {
			return w, err
		}
		w.tpm = socket
	}
	return w, nil
}

// enrolled writes variables with the keys of the machine's firmware.
func (m *VM) enrolled(empty string) (string, error) {
	vars, err := os.ReadFile(empty)
	if err != nil {
		return "", err
	}
	if vars, err = secureboot.Enrol(vars, m.cfg.SecureBoot); err != nil {
		return "", fmt.Errorf("%s: %w", empty, err)
	}
	name := filepath.Join(m.dir, "vars.fd")
	return name, os.WriteFile(name, vars, 0o600)
}

// overlay makes a qcow2 file that takes the writes meant for image. One that is
// there already is kept: it is the machine's disk.
func overlay(ctx context.Context, image, format, file string, size int64) error {
	if isFile(file) {
		return nil
	}
	image, err := filepath.Abs(image)
	if err != nil {
		return err
	}
	// qemu-img guesses no format: a raw guest disk could claim to be anything.
	if format == "" {
		if format, err = imageFormat(image); err != nil {
			return err
		}
	}
	argv := []string{"create", "-q", "-f", "qcow2", "-F", format, "-b", image, file + ".new"}
	if size > 0 {
		argv = append(argv, strconv.FormatInt(size, 10))
	}
	if err := qemuImg(ctx, argv...); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// convert makes a qcow2 file of a raw one, unless it is there already.
func convert(ctx context.Context, raw, file string) error {
	if isFile(file) {
		return nil
	}
	if err := qemuImg(ctx, "convert", "-f", "raw", "-O", "qcow2", raw, file+".new"); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func qemuImg(ctx context.Context, argv ...string) error {
	stderr := &tail{max: 4 << 10}
	cmd := exec.Command("qemu-img", argv...)
	cmd.Stderr = stderr
	if err := runUntil(ctx, cmd); err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", command.Quote(argv), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// imageFormat tells qcow2 from raw by the magic of docs/interop/qcow2.txt.
func imageFormat(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if string(magic) == "QFI\xfb" {
		return "qcow2", nil
	}
	return "raw", nil
}

// startTPM starts swtpm with its state in the machine's folder.
func (m *VM) startTPM() (socket string, err error) {
	state := filepath.Join(m.dir, "tpm")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	if _, err := lookPath("swtpm"); err != nil {
		return "", errors.New("swtpm is not installed\nhint: install the package swtpm")
	}
	socket = filepath.Join(state, "socket")
	os.Remove(socket) // of a machine that was killed
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+socket, "--terminate")
	stderr := &tail{max: 4 << 10}
	cmd.Stderr = stderr
	ended := make(chan error, 1)
	m.tpmDone = make(chan struct{})
	if err := spawn(cmd, func(err error) { ended <- err; close(m.tpmDone) }); err != nil {
		return "", fmt.Errorf("swtpm: %w", err)
	}
	m.tpm = cmd
	for range 250 { // it has no other sign of being ready than its socket
		if _, err := os.Stat(socket); err == nil {
			return socket, nil
		}
		select {
		case err := <-ended:
			return "", fmt.Errorf("swtpm: %v: %s", err, stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return "", errors.New("swtpm: no socket after 5s")
}

// socketPair returns our end of a connected pair and the end for a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	own := os.NewFile(uintptr(fds[0]), "vm")
	defer own.Close() // FileConn has a copy
	child := os.NewFile(uintptr(fds[1]), "qemu")
	conn, err := net.FileConn(own)
	if err != nil {
		child.Close()
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return conn, child, nil
}
