//go:build unix

package cluster

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Two busy cores take far longer than envtest's own 20 seconds.
const (
	startTimeout = 3 * time.Minute
	stopTimeout  = 30 * time.Second
)

// auditPolicy has every request's metadata, with the annotations that admission
// leaves, written once: when it is answered.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// leashed links a component so that envtest, which has no hook for it, starts it
// on the leash.
func (c *Cluster) leashed(component Component) (string, error) {
	link := c.path("bin", string(component))
	if err := os.Symlink(c.binaries[component], link+".program"); err != nil {
		return "", fmt.Errorf("link %s: %w", component, err)
	}
	if err := os.Symlink(c.binaries[leash], link); err != nil {
		return "", fmt.Errorf("link %s: %w", component, err)
	}
	return link, nil
}

func (c *Cluster) configurePlane(apiServerArgs map[string]string) error {
	etcd := &envtest.Etcd{DataDir: c.path("etcd"), StartTimeout: startTimeout, StopTimeout: stopTimeout}
	server := &envtest.APIServer{CertDir: c.path("kube-apiserver"), StartTimeout: startTimeout, StopTimeout: stopTimeout}
	var err error
	if etcd.Path, err = c.leashed(Etcd); err != nil {
		return err
	}
	if server.Path, err = c.leashed(APIServer); err != nil {
		return err
	}
	etcdPort, err := FreePort()
	if err != nil {
		return err
	}
	serverPort, err := FreePort()
	if err != nil {
		return err
	}
	etcd.URL = &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(etcdPort))}
	etcd.Configure().Set("listen-peer-urls", "http://127.0.0.1:0")
	server.ListenAddr = envtest.ListenAddr{Address: "127.0.0.1", Port: strconv.Itoa(serverPort)}

	policy := c.path("audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	flags := server.Configure()
	flags.Set("audit-policy-file", policy)
	flags.Set("audit-log-path", c.AuditLog())
	for name, value := range apiServerArgs {
		flags.Set(name, value)
	}
	c.plane = &envtest.ControlPlane{Etcd: etcd, APIServer: server, KubectlPath: c.binaries[Kubectl]}
	return nil
}

// startPlane runs both components. envtest knows no context: when ctx ends, the
// lock is let go, the leashes end their programs and envtest gives up.
func (c *Cluster) startPlane(ctx context.Context) error {
	etcdLog, err := c.openLog(string(Etcd))
	if err != nil {
		return err
	}
	defer func() { _ = etcdLog.Close() }()
	serverLog, err := c.openLog(string(APIServer))
	if err != nil {
		return err
	}
	defer func() { _ = serverLog.Close() }()
	c.plane.Etcd.Out, c.plane.Etcd.Err = etcdLog, etcdLog
	c.plane.APIServer.Out, c.plane.APIServer.Err = serverLog, serverLog

	release := context.AfterFunc(ctx, func() { _ = c.owner.Close() })
	defer release()
	err = c.plane.Start()
	if ctx.Err() != nil {
		return fmt.Errorf("given up: %w", context.Cause(ctx))
	}
	if err != nil {
		return c.explain(err)
	}
	return nil
}

// explain adds to an error of envtest's which component failed and its last words.
func (c *Cluster) explain(err error) error {
	failed := APIServer
	if c.plane.APIServer.EtcdURL == nil { // set once etcd runs
		failed = Etcd
	}
	return fmt.Errorf("%s: %w; the end of its log:\n%s", failed, err, c.LogTail(string(failed), 30))
}

// awaitNamespaces waits for what the API server creates after it is healthy.
func (c *Cluster) awaitNamespaces(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("create the admin's client: %w", err)
	}
	var last error
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, startTimeout, true,
		func(ctx context.Context) (bool, error) {
			last = getNamespaces(ctx, client, metav1.NamespaceDefault, metav1.NamespaceSystem)
			return last == nil, nil
		})
	if err != nil {
		return c.explain(fmt.Errorf("wait for the namespaces: %w (last: %w)", err, last))
	}
	return nil
}

func getNamespaces(ctx context.Context, client kubernetes.Interface, names ...string) error {
	for _, name := range names {
		if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("get namespace %s: %w", name, err)
		}
	}
	return nil
}
