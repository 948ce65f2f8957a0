//go:build unix

// Package cluster runs a real control plane, etcd and kube-apiserver, on
// loopback: for the integration tests, the benchmarks and the demo. The
// programs are built from Go modules into a cache, and none of them outlives
// the process that started it.
package cluster

import (
	"fmt"
	"strings"
)

// Component is a program that a control plane, or work on one, needs. Its value
// is the name of the binary.
type Component string

// The components that Build knows.
const (
	Etcd      Component = "etcd"
	APIServer Component = "kube-apiserver"
	Kubectl   Component = "kubectl"
	Helm4     Component = "helm4"

	// leash keeps envtest's processes from outliving this one.
	leash Component = "leash"
)

// Components lists what Build knows, in a fixed order.
func Components() []Component {
	return []Component{Etcd, APIServer, Kubectl, Helm4}
}

// recipe says how a component is built. Folders are relative to test/cluster.
type recipe struct {
	dir     string   // where `go build` runs
	sources []string // further folders whose files the binary depends on
	pkg     string
	module  string   // the module in dir/go.mod whose version the component has; "" = none
	stamp   []string // linker assignments, with VERSION, MAJOR and MINOR to be filled in
}

func recipeFor(c Component) (recipe, error) {
	switch c {
	case Etcd:
		return recipe{dir: "components/etcd", pkg: ".", module: "go.etcd.io/etcd/server/v3"}, nil
	case APIServer, Kubectl:
		return recipe{
			dir:    "components/kubernetes",
			pkg:    "k8s.io/kubernetes/cmd/" + string(c),
			module: "k8s.io/kubernetes",
			// Unstamped, the server reports a version that clients reject.
			stamp: []string{
				"k8s.io/component-base/version.gitVersion=VERSION",
				"k8s.io/component-base/version.gitMajor=MAJOR",
				"k8s.io/component-base/version.gitMinor=MINOR",
				"k8s.io/client-go/pkg/version.gitVersion=VERSION",
				"k8s.io/client-go/pkg/version.gitMajor=MAJOR",
				"k8s.io/client-go/pkg/version.gitMinor=MINOR",
			},
		}, nil
	case Helm4:
		return recipe{
			dir:    "components/helm4",
			pkg:    "helm.sh/helm/v4/cmd/helm",
			module: "helm.sh/helm/v4",
			stamp:  []string{"helm.sh/helm/v4/internal/version.version=VERSION"},
		}, nil
	case leash:
		return recipe{dir: "leash", sources: []string{"internal/child"}, pkg: "."}, nil
	default:
		return recipe{}, fmt.Errorf("unknown component %q", c)
	}
}

// ldflags returns the linker flags for a component of the given version, like "v1.37.2".
func (r recipe) ldflags(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	fill := strings.NewReplacer("VERSION", version, "MAJOR", major, "MINOR", minor)
	flags := []string{"-s", "-w"}
	for _, s := range r.stamp {
		flags = append(flags, "-X", fill.Replace(s))
	}
	return strings.Join(flags, " ")
}
