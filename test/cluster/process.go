//go:build unix

package cluster

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// processGrace is what a process gets between SIGTERM and SIGKILL.
const processGrace = 15 * time.Second

// Program says what StartProcess runs.
type Program struct {
	Name string   // of its log; unique among the processes that run at the same time
	Path string   // of the binary
	Args []string // without the program's own name
	Env  []string // KEY=value, on top of this process's environment
	Dir  string   // working directory; empty = this process's
}

// Process is a program that runs until it ends, Stop is called, its cluster is
// stopped or this process dies.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // how it ended; written before done is closed, read after
}

// StartProcess runs a program with its output, stdout and stderr, appended to a
// log file in the cluster's folder. It does not wait for the program to be ready.
func (c *Cluster) StartProcess(p Program) (*Process, error) {
	log, err := c.openLog(p.Name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(cmd.Environ(), p.Env...)
	cmd.Dir = p.Dir
	cmd.Stdout, cmd.Stderr = log, log

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, fmt.Errorf("start %s: the cluster is stopped", p.Name)
	}
	exited, err := child.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	process := &Process{name: p.Name, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		process.err = <-exited
		close(process.done)
	}()
	c.processes = append(c.processes, process)
	return process, nil
}

// PID returns the program's own process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns the path of the program's log.
func (p *Process) Log() string { return p.log }

// LogTail returns the last lines that the program has written.
func (p *Process) LogTail(lines int) string { return fileTail(p.log, lines) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited says whether the program has ended, and with what error: nil for exit
// status 0, else an *exec.ExitError.
func (p *Process) Exited() (bool, error) {
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Signal sends the program a signal; one that has ended ignores it.
func (p *Process) Signal(s syscall.Signal) error {
	if done, _ := p.Exited(); done {
		return nil
	}
	if err := syscall.Kill(p.PID(), s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Stop ends the program with SIGTERM and waits until it is gone. An error says
// that it had to be killed; how it exited is Exited's to tell.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(processGrace):
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return fmt.Errorf("stop %s: killed, it did not end within %s of SIGTERM", p.name, processGrace)
}
