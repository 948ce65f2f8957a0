//go:build unix

// Command demo plays the product's story on a real control plane, as a transcript: each step's command as a user would
// type it, what came back, and whether that is what it should be. Its exit status says whether every step was.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, keep bool) (err error) {
	began := time.Now()
	fmt.Fprintln(out, "Starting a control plane: etcd and kube-apiserver. Components that are not in the cache are built first.")
	c, err := cluster.Start(ctx, cluster.Options{Progress: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fmt.Fprintln(out, "Installing the chart and starting the webhook with the rights of the chart's ServiceAccount.")
	w, err := harness.Install(ctx, c, harness.Options{Progress: out})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Ready after %s.\n", time.Since(began).Round(time.Second))

	root, err := harness.ModuleRoot(ctx)
	if err != nil {
		return err
	}
	p := &player{cluster: c, out: out, dir: root}
	for _, s := range story() {
		if err := p.play(ctx, s); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\n%d of %d steps did what they should, in %s.\n", p.played-len(p.failed), p.played, time.Since(began).Round(time.Second))
	if keep {
		leaveRunning(ctx, out, c, w)
	}
	if len(p.failed) > 0 {
		return fmt.Errorf("these steps did not: %s\n%s", strings.Join(p.failed, "; "), w.LogTail(20))
	}
	return nil
}

// leaveRunning tells how to use the cluster and waits to be told to stop.
func leaveRunning(ctx context.Context, out io.Writer, c *cluster.Cluster, w *harness.Webhook) {
	fmt.Fprintf(out, `
All of it keeps running in this terminal. In another one:

  export KUBECONFIG=%s
  alias kubectl=%s
  kubectl get deployments,hpa,events -n %s

The webhook (pid %d) logs to %s.
To stop everything: Ctrl-C here, or kill %d
`, c.Kubeconfig(), c.Binary(cluster.Kubectl), namespace, w.PID(), w.Log(), os.Getpid())
	<-ctx.Done()
}

// player plays steps one after the other.
type player struct {
	cluster *cluster.Cluster
	out     io.Writer
	// dir is where commands run: the module's root.
	dir    string
	played int
	failed []string
}

// stepTimeout is how long a step that waits for something may take.
const stepTimeout = time.Minute

// play runs a step's command, again and again where the step says that it waits for something, and judges what came back.
func (p *player) play(ctx context.Context, s step) error {
	p.played++
	fmt.Fprintf(p.out, "\n%d. %s\n", p.played, s.title)
	var answer string
	var wrong error
	look := func(ctx context.Context) (bool, error) {
		stdout, stderr, err := p.cluster.Run(ctx, cluster.Command{Args: s.args(), Dir: p.dir})
		answer = strings.TrimRight(stdout+stderr, "\n")
		wrong = s.judge(answer, err)
		return wrong == nil, ctx.Err()
	}
	timeout := stepTimeout
	if !s.waits {
		timeout = 0
	}
	if _, err := look(ctx); err != nil {
		return err
	}
	if wrong != nil && timeout > 0 {
		// What is wrong at the end is reported below.
		_ = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, timeout, false, look)
	}
	fmt.Fprintf(p.out, "   $ kubectl %s\n", s.command)
	for line := range strings.Lines(answer) {
		fmt.Fprintf(p.out, "   %s\n", strings.TrimRight(line, "\n"))
	}
	if wrong != nil {
		p.failed = append(p.failed, fmt.Sprintf("%d. %s", p.played, s.title))
		fmt.Fprintf(p.out, "   ✗ %v\n", wrong)
		return ctx.Err()
	}
	fmt.Fprintf(p.out, "   ✓ %s\n", s.expect)
	return nil
}
