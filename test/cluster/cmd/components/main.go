//go:build unix

// Command components builds the named components where the cache does not hold
// them, tells its progress on standard error and prints their paths, one per line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "components: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 0 {
		return fmt.Errorf("name at least one of %q", cluster.Components())
	}
	components := make([]cluster.Component, len(args))
	for i, a := range args {
		components[i] = cluster.Component(a)
	}
	paths, err := cluster.Build(ctx, os.Stderr, components...)
	if err != nil {
		return err
	}
	for _, c := range components {
		fmt.Println(paths[c])
	}
	return nil
}
