//go:build unix

// Package integration shows the product at work in a real control plane: installed by its chart, running as its own
// process under the chart's ServiceAccount, called by a real kube-apiserver.
package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// The one cluster and webhook process of this package. Tests run one after the other, each in namespaces of its own.
var (
	plane   *cluster.Cluster
	webhook *harness.Webhook
	// admin is a client that the webhook reviews like anybody's.
	admin kubernetes.Interface
	// unreviewed is a client whose writes the webhook is not called for: its own identity.
	unreviewed kubernetes.Interface
	// alice is the kubeconfig of a person.
	alice string
)

const (
	person = "alice"
	own    = "system:serviceaccount:" + harness.Namespace + ":" + harness.Release
)

// excluded are namespaces that the webhook is not called for, for comparison: one for each folder of manifests at most.
var excluded = []string{"excluded-0", "excluded-1", "excluded-2", "excluded-3", "excluded-4", "excluded-5", "excluded-6", "excluded-7", "excluded-8", "excluded-9"}

// auditPolicy has the API server note what webhooks changed, which it does from level Request on.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [create, update, patch]
  resources:
  - {group: apps, resources: [deployments, deployments/scale, deployments/status]}
  - {group: autoscaling, resources: [horizontalpodautoscalers]}
- level: Metadata
`

func TestMain(m *testing.M) {
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "kdp-integration-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return 0, err
	}
	plane, err = cluster.Start(ctx, cluster.Options{
		Progress: os.Stderr, APIServerArgs: map[string]string{"audit-policy-file": policy},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plane.Stop()) }()
	if err := setUp(ctx); err != nil {
		return 0, err
	}
	code = m.Run()
	return code, stopped()
}

func setUp(ctx context.Context) error {
	var err error
	if admin, err = kubernetes.NewForConfig(plane.Config()); err != nil {
		return err
	}
	if unreviewed, err = clientAs(own); err != nil {
		return err
	}
	if alice, err = plane.KubeconfigFor(person, "system:masters"); err != nil {
		return err
	}
	webhook, err = harness.Install(ctx, plane, harness.Options{
		Race: true, Progress: os.Stderr,
		Values: map[string]any{"excludedNamespaces": append([]string{"kube-system", "kube-public", "kube-node-lease"}, excluded...)},
	})
	return err
}

// stopped ends the webhook and returns how it did not end well. The race detector makes it exit with status 66.
func stopped() error {
	if err := webhook.Stop(); err != nil {
		return err
	}
	if _, err := webhook.Exited(); err != nil {
		return fmt.Errorf("the webhook ended badly: %w\n%s", err, webhook.LogTail(30))
	}
	text, err := os.ReadFile(webhook.Log())
	if err != nil {
		return err
	}
	for _, bad := range []string{"DATA RACE", "panic:", "Observed a panic"} {
		if at := bytes.Index(text, []byte(bad)); at >= 0 {
			return fmt.Errorf("the webhook's log holds %q:\n%s", bad, text[at:min(len(text), at+4000)])
		}
	}
	return nil
}

// clientAs returns a client of a user who may do everything.
func clientAs(user string) (kubernetes.Interface, error) {
	config := plane.Config()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	return kubernetes.NewForConfig(config)
}

func mustClientAs(t *testing.T, user string) kubernetes.Interface {
	t.Helper()
	c, err := clientAs(user)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lines splits a text that ends in a newline.
func lines(text string) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
