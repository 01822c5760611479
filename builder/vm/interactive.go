package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"ward/builder/command"
)

// Interactive runs a machine for a person: the console is on the terminal,
// Ctrl-a x quits, Ctrl-a c is QEMU's monitor. It first tells out how to log in
// over SSH. The machine's writes are kept in cfg.State, or thrown away.
func Interactive(ctx context.Context, cfg Config, stdin, stdout *os.File, out io.Writer) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	m := &VM{cfg: cfg, accel: cfg.Accel, dir: cfg.State, changed: make(chan struct{}), done: make(chan struct{}), stderr: &tail{max: 8 << 10}}
	if m.accel == "" {
		m.accel = accelerator(ctx, cfg.Arch)
	}
	defer m.Close()
	if err := m.interactive(ctx, stdin, stdout, out); err != nil {
		return fmt.Errorf("run vm: %w", err)
	}
	return nil
}

func (m *VM) interactive(ctx context.Context, stdin, stdout *os.File, out io.Writer) error {
	// QEMU tells the port only once it runs, and then the terminal is the
	// guest's: so the port is chosen here.
	if m.cfg.SSHPort == 0 {
		port, err := freePort()
		if err != nil {
			return err
		}
		m.cfg.SSHPort = port
	}
	w, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	w.terminal = true
	argv := args(m.cfg, w)
	qemu := w.board.qemu
	cmd := exec.Command(qemu, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	fmt.Fprintf(out, "console follows; Ctrl-a x quits (accelerator %s)\n", m.accel)
	fmt.Fprintf(out, "log in:  ssh -p %d -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s NAME@127.0.0.1\n\n",
		m.cfg.SSHPort, filepath.Join(m.dir, "known_hosts"))
	m.cfg.Log.Debug("start qemu", "accel", m.accel, "argv", command.Quote(append([]string{qemu}, argv...)))
	err = runUntil(ctx, cmd)
	m.cmd = nil // ended, Close has nothing to kill
	var exit *exec.ExitError
	if ctx.Err() != nil && errors.As(err, &exit) {
		return ctx.Err()
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
