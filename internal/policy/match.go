package policy

import (
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// proxyName is the name of the proxy container in Kong's charts and in the Kong Operator's data planes.
const proxyName = "proxy"

// DataPlanes recognizes data planes by a list of entries, of which any may hold.
type DataPlanes struct {
	entries []dataPlaneMatcher
	envs    map[string]bool
}

type dataPlaneMatcher struct {
	env    *EnvMatch
	labels labels.Selector
	image  *regexp.Regexp
}

// CompileDataPlanes prepares validated entries.
func CompileDataPlanes(entries []DataPlaneMatch) (*DataPlanes, error) {
	d := &DataPlanes{envs: map[string]bool{}}
	for i, e := range entries {
		m := dataPlaneMatcher{env: e.Env}
		if e.Env != nil {
			d.envs[e.Env.Name] = true
		}
		if e.Labels != nil {
			selector, err := metav1.LabelSelectorAsSelector(e.Labels)
			if err != nil {
				return nil, fmt.Errorf("dataPlane[%d].labels: %w", i, err)
			}
			m.labels = selector
		}
		if e.Image != "" {
			m.image = globPattern(e.Image)
		}
		d.entries = append(d.entries, m)
	}
	return d, nil
}

// globPattern translates a glob: * is any run of characters, / included, and ? is one; all else stands for itself.
func globPattern(glob string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(glob)
	quoted = strings.ReplaceAll(quoted, `\*`, `.*`)
	quoted = strings.ReplaceAll(quoted, `\?`, `.`)
	return regexp.MustCompile(`^(?s:` + quoted + `)$`)
}

// ReadsEnv tells whether an entry looks at the environment variable of that name.
func (d *DataPlanes) ReadsEnv(name string) bool { return d.envs[name] }

// Match tells whether the Deployment is a data plane by what it says itself; nil is none.
func (d *DataPlanes) Match(dep *kube.Deployment) bool {
	if dep == nil {
		return false
	}
	for i := range d.entries {
		e := &d.entries[i]
		if e.labels != nil && e.labels.Matches(labels.Set(dep.Metadata.Labels)) {
			return true
		}
		for _, c := range kube.AllContainers(dep.Pod()) {
			if e.matchContainer(c.Container) {
				return true
			}
		}
	}
	return false
}

// Proxy returns the index, in spec.containers, of the container that makes the Deployment a data plane. Where labels or
// an init container make it one, that is the container named "proxy", or the only container there is.
func (d *DataPlanes) Proxy(dep *kube.Deployment) (int, bool) {
	containers := dep.Pod().Containers
	for i := range containers {
		for j := range d.entries {
			if d.entries[j].matchContainer(&containers[i]) {
				return i, true
			}
		}
	}
	for i := range containers {
		if containers[i].Name == proxyName {
			return i, true
		}
	}
	return 0, len(containers) == 1
}

func (m *dataPlaneMatcher) matchContainer(c *kube.Container) bool {
	if m.image != nil && m.image.MatchString(c.Image) {
		return true
	}
	if m.env == nil {
		return false
	}
	for _, e := range c.Env {
		if e.Name == m.env.Name && (e.Value == m.env.Value && e.ValueFrom == nil || !e.Literal()) {
			return true
		}
	}
	return false
}
