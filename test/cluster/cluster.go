//go:build unix

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// Options say how Start runs a control plane. The zero value is good.
type Options struct {
	// Dir takes state, logs and kubeconfigs; it must be empty or absent. Empty:
	// a temporary folder, removed by Stop.
	Dir string
	// Progress is told what is built; nil: nobody.
	Progress io.Writer
	// APIServerArgs are further flags of kube-apiserver, without dashes; they win
	// over Start's own.
	APIServerArgs map[string]string
}

// Cluster is a running control plane.
type Cluster struct {
	dir        string
	removeDir  bool
	binaries   map[Component]string
	plane      *envtest.ControlPlane
	owner      *os.File // its lock keeps the leashed components running
	admin      *rest.Config
	kubeconfig string

	mu        sync.Mutex
	processes []*Process
	stopped   bool
	stop      func() error
}

// Start builds what is missing and runs etcd and kube-apiserver on free ports of
// 127.0.0.1 until Stop, or until this process ends in whatever way. It returns
// when the API server is ready and has its namespaces; an error names the
// component that failed and holds the end of its log. ctx bounds the start, not
// the cluster's life.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	binaries, err := Build(ctx, o.Progress, Etcd, APIServer, Kubectl, leash)
	if err != nil {
		return nil, fmt.Errorf("build the control plane: %w", err)
	}
	c := &Cluster{binaries: binaries}
	c.stop = sync.OnceValue(c.shutdown)
	if err := c.start(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start the control plane: %w", err), c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o Options) error {
	if err := c.createDir(o.Dir); err != nil {
		return err
	}
	if err := c.configurePlane(o.APIServerArgs); err != nil {
		return err
	}
	if err := c.startPlane(ctx); err != nil {
		return err
	}
	admin, err := c.addUser("admin", []string{"system:masters"})
	if err != nil {
		return err
	}
	c.admin = admin.Config()
	if c.kubeconfig, err = writeKubeconfig(c.path("users"), admin); err != nil {
		return err
	}
	return c.awaitNamespaces(ctx)
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// createDir lays out the state folder and takes the owner's lock in it.
func (c *Cluster) createDir(dir string) (err error) {
	if dir == "" {
		c.removeDir = true
		sweepAbandoned(os.TempDir(), time.Now())
		c.dir, err = os.MkdirTemp("", temporaryPrefix)
	} else {
		c.dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return fmt.Errorf("create the state folder: %w", err)
	}
	if entries, err := os.ReadDir(c.dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("state folder %s is not empty", c.dir)
	}
	for _, sub := range []string{"bin", "etcd", "kube-apiserver", "users", "home"} {
		if err := os.MkdirAll(c.path(sub), 0o750); err != nil {
			return fmt.Errorf("create the state folder: %w", err)
		}
	}
	if c.owner, err = child.TryLock(c.path("bin", "owner")); err != nil {
		return fmt.Errorf("own the state folder: %w", err)
	}
	return nil
}

// Dir returns the folder with the cluster's state and logs.
func (c *Cluster) Dir() string { return c.dir }

// AuditLog returns the path of the API server's audit log: one JSON object of
// audit.k8s.io/v1 Event per line, written before the request is answered.
func (c *Cluster) AuditLog() string { return c.path("audit.log") }

// Stop ends every process of the cluster, the last one started first, and waits
// until they are gone. Calling it again returns the same.
func (c *Cluster) Stop() error { return c.stop() }

func (c *Cluster) shutdown() error {
	c.mu.Lock()
	c.stopped = true
	processes := slices.Clone(c.processes)
	c.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(processes) {
		errs = append(errs, p.Stop())
	}
	if c.plane != nil {
		errs = append(errs, c.plane.Stop())
	}
	if c.owner != nil {
		_ = c.owner.Close()
	}
	if c.removeDir {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}
