package vm

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

var lookPath = exec.LookPath

// spawn starts cmd so that the kernel kills it when this program dies, and calls
// ended with what Wait returns.
//
// The kernel ties the death signal to the thread that forked, not to the process
// (prctl(2), PR_SET_PDEATHSIG), so that thread is kept until the child is gone.
func spawn(cmd *exec.Cmd, ended func(error)) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		close(started)
		ended(cmd.Wait())
	}()
	err := <-started
	if errors.Is(err, exec.ErrNotFound) {
		return errors.Join(err, Missing())
	}
	return err
}

// runUntil runs cmd to its end and kills it when ctx ends.
func runUntil(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	if err := spawn(cmd, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		cmd.Process.Kill()
		return <-done
	}
}
