package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// Ref names one version of a policy.
type Ref struct {
	// Name of the ConfigMap; empty for the built-in policy.
	Name string `json:"name"`
	// ResourceVersion of the ConfigMap; empty for the built-in policy.
	ResourceVersion string `json:"resourceVersion"`
}

// String names the policy in messages.
func (r Ref) String() string {
	if r.Name == "" {
		return "the built-in policy"
	}
	return fmt.Sprintf("policy %q", r.Name)
}

// Label names the policy in metrics and annotations.
func (r Ref) Label() string {
	if r.Name == "" {
		return "built-in"
	}
	return r.Name
}

// Version names the policy and its version in the decision log and in audit annotations.
func (r Ref) Version() string {
	if r.Name == "" {
		return r.Label()
	}
	return r.Name + "@" + r.ResourceVersion
}

// Policy is a document that is in force, ready to be asked.
type Policy struct {
	Ref Ref
	*Document

	dataPlanes *DataPlanes
	namespaces labels.Selector
}

// New prepares a valid document.
func New(ref Ref, d *Document) (*Policy, error) {
	dataPlanes, err := CompileDataPlanes(d.Match.DataPlane)
	if err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	namespaces, err := metav1.LabelSelectorAsSelector(&d.Match.NamespaceSelector)
	if err != nil {
		return nil, fmt.Errorf("match.namespaceSelector: %w", err)
	}
	return &Policy{Ref: ref, Document: d, dataPlanes: dataPlanes, namespaces: namespaces}, nil
}

// BuiltIn returns the policy that holds where there is none.
func BuiltIn() *Policy {
	p, err := New(Ref{}, Default())
	if err != nil {
		panic("the built-in policy is invalid: " + err.Error())
	}
	return p
}

// CoversNamespace tells whether the policy is about namespaces with these labels.
func (p *Policy) CoversNamespace(namespace map[string]string) bool {
	return p.namespaces.Matches(labels.Set(namespace))
}

// IsDataPlane tells whether the policy takes the Deployment for a data plane; nil is none.
func (p *Policy) IsDataPlane(d *kube.Deployment) bool { return p.dataPlanes.Match(d) }

// Proxy returns the index of the proxy container of a Deployment. Where the write took away what made it a data plane,
// the container that was the proxy before is the proxy still; before may be nil.
func (p *Policy) Proxy(d, before *kube.Deployment) (int, bool) {
	if before == nil || p.IsDataPlane(d) {
		return p.dataPlanes.Proxy(d)
	}
	i, ok := p.dataPlanes.Proxy(before)
	if !ok {
		return 0, false
	}
	name := before.Pod().Containers[i].Name
	i = slices.IndexFunc(d.Pod().Containers, func(c kube.Container) bool { return c.Name == name })
	return max(i, 0), i >= 0
}

// Set is the policies in force at one moment, highest priority first.
type Set []*Policy

// NewSet orders policies; an empty set holds the built-in policy.
func NewSet(policies ...*Policy) Set {
	if len(policies) == 0 {
		return Set{BuiltIn()}
	}
	set := Set(slices.Clone(policies))
	slices.SortFunc(set, func(a, b *Policy) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Ref.Name, b.Ref.Name))
	})
	return set
}

// For returns the policy that holds for a write of a Deployment in a namespace with these labels: the first that takes
// it for a data plane as it will be, else the first that took it for one as it was. Either may be nil. It returns nil
// for what is no data plane.
func (s Set) For(namespace map[string]string, after, before *kube.Deployment) *Policy {
	for _, d := range []*kube.Deployment{after, before} {
		for _, p := range s {
			if p.CoversNamespace(namespace) && p.IsDataPlane(d) {
				return p
			}
		}
	}
	return nil
}

// Store keeps the policies in force. A document that is invalid never replaces a valid one. It is safe for concurrent
// readers and one writer.
type Store struct {
	set     atomic.Pointer[Set]
	sources map[string]*Policy
}

// NewStore returns a store with the built-in policy in force.
func NewStore() *Store {
	s := &Store{sources: map[string]*Policy{}}
	s.publish()
	return s
}

// Set returns the policies in force. A caller that asks once and keeps the answer decides by one version throughout.
func (s *Store) Set() Set { return *s.set.Load() }

// Put takes over a document. On errors the last good document of that name stays in force and the errors say all that
// is wrong.
func (s *Store) Put(ref Ref, text []byte) field.ErrorList {
	d, errs := Parse(text)
	if len(errs) > 0 {
		return errs
	}
	p, err := New(ref, d)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath(DataKey), err)}
	}
	s.sources[ref.Name] = p
	s.publish()
	return nil
}

// Delete takes a policy out of force.
func (s *Store) Delete(name string) {
	delete(s.sources, name)
	s.publish()
}

// Current returns the version of a policy that is in force.
func (s *Store) Current(name string) (Ref, bool) {
	p, ok := s.sources[name]
	if !ok {
		return Ref{}, false
	}
	return p.Ref, true
}

// unseen tells which environment variables a policy recognizes data planes by that the process does not keep: with them
// alone, Deployments are judged, but not their HPAs and scale writes.
func (s *Store) unseen(name string, process *DataPlanes) []string {
	var warnings []string
	for i, entry := range s.sources[name].Match.DataPlane {
		if entry.Env != nil && !process.ReadsEnv(entry.Env.Name) {
			warnings = append(warnings, fmt.Sprintf("%s: HPAs and scale writes are not judged by %s: list it in the chart's dataPlanes",
				field.NewPath("match", "dataPlane").Index(i).Child("env"), entry.Env.Name))
		}
	}
	return warnings
}

func (s *Store) publish() {
	set := NewSet(slices.Collect(maps.Values(s.sources))...)
	s.set.Store(&set)
}
