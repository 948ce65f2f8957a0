//go:build unix

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// Command is one run of a client program against a cluster.
type Command struct {
	Program    string // path of the binary; empty = kubectl
	Args       []string
	Kubeconfig string // path; empty = the admin's
	Stdin      io.Reader
	Env        []string // KEY=value, on top of this process's environment
	Dir        string   // working directory; empty = this process's
}

// Binary returns the path of a component that the control plane runs or comes
// with; "" for any other.
func (c *Cluster) Binary(component Component) string { return c.binaries[component] }

// Kubectl runs kubectl as the admin. The error of one that fails holds what it
// wrote to stderr.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	return c.Run(ctx, Command{Args: args})
}

// Run runs a command to its end, with KUBECONFIG set and the cluster's folder as
// HOME, so that neither the user's settings nor the discovery cache of another
// cluster on the same port gets in. The error of one that fails holds what it
// wrote to stderr and wraps the *exec.ExitError.
func (c *Cluster) Run(ctx context.Context, command Command) (stdout, stderr string, err error) {
	program, kubeconfig := command.Program, command.Kubeconfig
	if program == "" {
		program = c.binaries[Kubectl]
	}
	if kubeconfig == "" {
		kubeconfig = c.kubeconfig
	}
	cmd := exec.CommandContext(ctx, program, command.Args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = command.Dir
	cmd.Stdin = command.Stdin
	cmd.Env = append(clientEnvironment(cmd.Environ()), "KUBECONFIG="+kubeconfig, "HOME="+filepath.Join(c.dir, "home"))
	cmd.Env = append(cmd.Env, command.Env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := child.Run(cmd); err != nil {
		return out.String(), errs.String(), fmt.Errorf("%s %s: %w: %s",
			filepath.Base(program), strings.Join(command.Args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), errs.String(), nil
}

// clientEnvironment drops what makes kubectl and helm keep or read state outside HOME.
func clientEnvironment(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, e := range env {
		if strings.HasPrefix(e, "XDG_") || strings.HasPrefix(e, "HELM_") || strings.HasPrefix(e, "KUBE") {
			continue
		}
		kept = append(kept, e)
	}
	return kept
}
