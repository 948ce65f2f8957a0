//go:build unix

// Command bench measures what a review costs, in one run on one machine: against the stock way of writing a webhook,
// against a pair of webhooks that do nothing, and in CPU and memory. It prints what it finds and judges nothing: every
// figure is a ratio or is to be read beside the others of the same run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	objects := flag.Int("objects", 10_000, "how many Deployments, and as many HPAs, the memory is measured with")
	requests := flag.Int("requests", 400, "how many Deployments are created each way")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *requests, *objects)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, requests, objects int) error {
	deployment, source, err := dataPlane()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The data plane: %s, %d bytes as the API server sends it.\n\n", source, len(deployment))
	if err := reviews(ctx, out, deployment); err != nil {
		return err
	}
	return requestsAndMemory(ctx, out, deployment, requests, objects)
}
