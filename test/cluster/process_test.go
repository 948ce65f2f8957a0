//go:build unix

package cluster

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// shell runs a script as a process of a cluster that has nothing else.
func shell(t *testing.T, c *Cluster, name, script string) *Process {
	t.Helper()
	p, err := c.StartProcess(Program{
		Name: name, Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"WORD=hello"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	return p
}

func TestAProcessTellsHowItEndedAndWhatItWrote(t *testing.T) {
	c := &Cluster{dir: t.TempDir()}
	p := shell(t, c, "short", "echo one; echo $WORD >&2; echo three; exit 3")
	<-p.Done()
	exited, err := p.Exited()
	var exit *exec.ExitError
	if !exited || !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("got %v, %v, want exit status 3", exited, err)
	}
	if got, want := p.LogTail(2), "hello\nthree"; got != want {
		t.Errorf("got log %q, want %q", got, want)
	}
	if got, want := c.LogTail("short", 5), "one\nhello\nthree"; got != want {
		t.Errorf("got the cluster's log %q, want %q", got, want)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("Stop after the end: %v", err)
	}
}

func TestAProcessRunsUntilItIsStopped(t *testing.T) {
	c := &Cluster{dir: t.TempDir()}
	p := shell(t, c, "long", "exec sleep 600")
	if exited, err := p.Exited(); exited {
		t.Errorf("it ended with %v", err)
	}
	if err := syscall.Kill(p.PID(), 0); err != nil {
		t.Errorf("pid %d: %v", p.PID(), err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if exited, err := p.Exited(); !exited || err == nil || err.Error() != "signal: terminated" {
		t.Errorf("got %v, %v, want signal: terminated", exited, err)
	}
}

func TestAProcessContinuesTheLogOfAnEarlierOneOfItsName(t *testing.T) {
	c := &Cluster{dir: t.TempDir()}
	for _, word := range []string{"first", "second"} {
		<-shell(t, c, "again", "echo "+word).Done()
	}
	if got, want := c.LogTail("again", 5), "first\nsecond"; got != want {
		t.Errorf("got log %q, want %q", got, want)
	}
}

func TestAProcessThatCannotBeRunIsNamed(t *testing.T) {
	c := &Cluster{dir: t.TempDir()}
	path := filepath.Join(t.TempDir(), "missing")
	_, err := c.StartProcess(Program{Name: "webhook", Path: path})
	want := "webhook: start " + path + ": fork/exec " + path + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAFreePortCanBeListenedOnByNameAndIsGivenToNobodyElse(t *testing.T) {
	taken := map[int]bool{}
	for range 50 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if taken[port] {
			t.Errorf("port %d was given twice", port)
		}
		taken[port] = true
	}
	for port := range taken {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
