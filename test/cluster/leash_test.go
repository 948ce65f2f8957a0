//go:build unix

package cluster

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// shellOnLeash returns a shell's link, and what lets go of the leash.
func shellOnLeash(t *testing.T) (link string, release func()) {
	t.Helper()
	const shell Component = "sh"
	binaries, err := Build(t.Context(), t.Output(), leash)
	if err != nil {
		t.Fatal(err)
	}
	binaries[shell] = "/bin/sh"
	c := &Cluster{binaries: binaries}
	if err := c.createDir(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.owner.Close() })
	if link, err = c.leashed(shell); err != nil {
		t.Fatal(err)
	}
	return link, func() { _ = c.owner.Close() }
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err == nil {
		return 0
	}
	return exit.ExitCode()
}

func TestTheLeashPassesOutputAndExitStatusOn(t *testing.T) {
	link, _ := shellOnLeash(t)
	for script, want := range map[string]struct {
		code   int
		output string
	}{
		"echo out; echo err >&2": {0, "out\nerr\n"},
		"exit 7":                 {7, ""},
		"kill -KILL $$":          {128 + int(syscall.SIGKILL), ""},
	} {
		output, err := exec.Command(link, "-c", script).CombinedOutput()
		if code := exitCode(t, err); code != want.code || string(output) != want.output {
			t.Errorf("%s: got %d, %q, want %d, %q", script, code, output, want.code, want.output)
		}
	}
}

func TestALeashedProgramEnds(t *testing.T) {
	const obedient, stubborn = "echo ready; exec sleep 600", "trap '' TERM; echo ready; while :; do sleep 0.1; done"
	term, kill := 128+int(syscall.SIGTERM), 128+int(syscall.SIGKILL)
	signalled := func(leash *exec.Cmd, _ func()) error { return leash.Process.Signal(syscall.SIGTERM) }
	orphaned := func(_ *exec.Cmd, release func()) error { release(); return nil }
	for name, tc := range map[string]struct {
		script string
		end    func(leash *exec.Cmd, release func()) error
		want   int
	}{
		"by the signal that its leash gets": {obedient, signalled, term},
		"by SIGTERM when its owner is gone": {obedient, orphaned, term},
		"by SIGKILL when it ignores that":   {stubborn, orphaned, kill},
	} {
		t.Run(name, func(t *testing.T) {
			link, release := shellOnLeash(t)
			cmd := exec.CommandContext(t.Context(), link, "-c", tc.script)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			exited, err := child.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stdout.Read(make([]byte, 16)); err != nil {
				t.Fatal(err)
			}
			if err := tc.end(cmd, release); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-exited:
				if code := exitCode(t, err); code != tc.want {
					t.Errorf("got exit status %d, want %d", code, tc.want)
				}
			case <-time.After(time.Minute):
				t.Error("it still runs after a minute")
			}
		})
	}
}

func TestALeashWhoseOwnerWentBeforeItCameEndsItsProgram(t *testing.T) {
	link, release := shellOnLeash(t)
	release()
	err := exec.CommandContext(t.Context(), link, "-c", "exec sleep 600").Run()
	if got, want := exitCode(t, err), 128+int(syscall.SIGTERM); got != want {
		t.Errorf("got exit status %d, want %d", got, want)
	}
}
