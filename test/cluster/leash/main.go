//go:build unix

// Command leash runs a program that must not outlive its owner.
//
// It is called through a symbolic link: DIR/etcd runs what DIR/etcd.program
// links to, with the same arguments, passes signals and the exit status on, and
// ends the program when nobody holds the lock of DIR/owner any more. A lock
// rather than the parent's pid: the kernel releases it however the owner dies,
// and an owner that died before the first look is noticed too.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

const (
	// grace is what a program gets between SIGTERM and SIGKILL once its owner is
	// gone. It is short: kube-apiserver waits in vain for an etcd that ends with it.
	grace = 2 * time.Second
	// failed is the exit status when the program could not be run at all.
	failed = 125
)

func main() {
	status, err := run(os.Args[0], os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "leash: %v\n", err)
	}
	os.Exit(status)
}

// run runs the program behind link and returns its exit status, 128 plus the
// signal's number when a signal ended it.
func run(link string, args []string) (int, error) {
	program, err := os.Readlink(link + ".program")
	if err != nil {
		return failed, fmt.Errorf("find the program: %w", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	orphaned := make(chan struct{})
	go func() {
		// An owner that cannot be watched is taken for gone.
		_ = child.AwaitUnlock(filepath.Join(filepath.Dir(link), "owner"))
		close(orphaned)
	}()

	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	exited, err := child.Start(cmd)
	if err != nil {
		return failed, err
	}
	var kill <-chan time.Time
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case <-orphaned:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			orphaned, kill = nil, time.After(grace)
		case <-kill:
			_ = cmd.Process.Kill()
		case err := <-exited:
			return status(err)
		}
	}
}

func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return failed, fmt.Errorf("wait: %w", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}
