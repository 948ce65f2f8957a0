//go:build unix

// Package chart_test shows that the chart renders what it should, and that a
// real API server takes it and calls for exactly the requests it should.
package chart_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

var (
	plane *cluster.Cluster
	helm  string // path of the binary
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	log.SetLogger(logr.Discard()) // controller-runtime complains otherwise
	ctx := context.Background()
	binaries, err := cluster.Build(ctx, os.Stderr, cluster.Helm4)
	if err != nil {
		return 0, fmt.Errorf("build helm: %w", err)
	}
	helm = binaries[cluster.Helm4]
	if plane, err = cluster.Start(ctx, cluster.Options{Progress: os.Stderr}); err != nil {
		return 0, err
	}
	code = m.Run()
	return code, plane.Stop()
}
