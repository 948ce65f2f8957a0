//go:build unix

// Package child starts programs that do not outlive the process that started them.
package child

import (
	"fmt"
	"os/exec"
	"runtime"
)

// Start starts cmd in a process group of its own, so that a Ctrl-C reaches the
// caller alone, and on Linux has the kernel kill it when the caller dies. The
// channel receives what cmd.Wait returns, once.
func Start(cmd *exec.Cmd) (<-chan error, error) {
	cmd.SysProcAttr = attributes()
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// The kernel takes the death of the forking thread for the death of the
		// parent, so that thread has to live as long as the child.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return exited, nil
}

// Run is Start followed by waiting for the end.
func Run(cmd *exec.Cmd) error {
	exited, err := Start(cmd)
	if err != nil {
		return err
	}
	return <-exited
}
