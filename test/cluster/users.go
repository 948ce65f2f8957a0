//go:build unix

package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Config returns a copy of the admin's client configuration (group
// system:masters), without a client-side rate limit.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.admin) }

// Kubeconfig returns the path of the admin's kubeconfig file.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// ConfigFor returns the configuration of a client that holds a certificate for
// the user, without a client-side rate limit.
func (c *Cluster) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	u, err := c.addUser(user, groups)
	if err != nil {
		return nil, err
	}
	return rest.CopyConfig(u.Config()), nil
}

// KubeconfigFor writes a kubeconfig file with a certificate for the user into the
// cluster's folder and returns its path.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	u, err := c.addUser(user, groups)
	if err != nil {
		return "", err
	}
	return writeKubeconfig(filepath.Join(c.dir, "users"), u)
}

func (c *Cluster) addUser(name string, groups []string) (*envtest.AuthenticatedUser, error) {
	c.mu.Lock() // envtest's CA numbers its certificates without one
	defer c.mu.Unlock()
	u, err := c.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s: %w", name, err)
	}
	return u, nil
}

func writeKubeconfig(dir string, u *envtest.AuthenticatedUser) (string, error) {
	content, err := u.KubeConfig()
	if err != nil {
		return "", fmt.Errorf("write a kubeconfig: %w", err)
	}
	f, err := os.CreateTemp(dir, "*.kubeconfig")
	if err != nil {
		return "", fmt.Errorf("write a kubeconfig: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(content); err != nil {
		return "", fmt.Errorf("write a kubeconfig: %w", err)
	}
	return f.Name(), f.Close()
}
