package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// DataPlanes recognizes the data planes that this process is about; of other Deployments only the name is kept.
type DataPlanes interface {
	kube.Keep
	Match(d *kube.Deployment) bool
}

// Informers keeps the facts in memory, each object stripped to what rules read.
type Informers struct {
	client      kubernetes.Interface
	dataPlanes  DataPlanes
	factory     informers.SharedInformerFactory
	deployments cache.SharedIndexInformer
	hpas        cache.SharedIndexInformer
	namespaces  cache.SharedIndexInformer
	limitRanges cache.SharedIndexInformer
}

var _ Facts = (*Informers)(nil)

const (
	indexTarget    = "target"
	indexNamespace = cache.NamespaceIndex
)

// NewInformers prepares the informers; Start runs them.
func NewInformers(client kubernetes.Interface, dataPlanes DataPlanes) (*Informers, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	i := &Informers{
		client: client, dataPlanes: dataPlanes, factory: factory,
		deployments: factory.Apps().V1().Deployments().Informer(),
		hpas:        factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
		namespaces:  factory.Core().V1().Namespaces().Informer(),
		limitRanges: factory.Core().V1().LimitRanges().Informer(),
	}
	return i, errors.Join(
		i.deployments.SetTransform(i.stripDeployment),
		i.hpas.SetTransform(stripHPA),
		i.namespaces.SetTransform(stripNamespace),
		i.limitRanges.SetTransform(stripLimitRange),
		i.hpas.AddIndexers(cache.Indexers{indexTarget: func(obj any) ([]string, error) {
			return []string{kube.HPATarget(obj.(*autoscalingv2.HorizontalPodAutoscaler)).String()}, nil
		}}),
	)
}

// Start runs the informers until ctx ends.
func (i *Informers) Start(ctx context.Context) error {
	i.factory.StartWithContext(ctx)
	i.factory.WaitForCacheSyncWithContext(ctx)
	// The first lists are far larger than what is kept of them.
	debug.FreeOSMemory()
	<-ctx.Done()
	i.factory.Shutdown()
	return nil
}

// NeedLeaderElection is false: every replica decides, so every replica needs the facts.
func (i *Informers) NeedLeaderElection() bool { return false }

// Synced returns nil once all facts are there.
func (i *Informers) Synced() error {
	var missing []string
	for name, informer := range map[string]cache.SharedIndexInformer{
		"deployments": i.deployments, "horizontalpodautoscalers": i.hpas, "namespaces": i.namespaces, "limitranges": i.limitRanges,
	} {
		if !informer.HasSynced() {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("not yet read from the API server: %s", strings.Join(missing, ", "))
	}
	return nil
}

// deployment is what the cache holds: what rules read, and the metadata that a cache goes by, made when it asks.
type deployment struct{ *kube.Deployment }

// GetObjectMeta implements metav1.ObjectMetaAccessor.
func (d deployment) GetObjectMeta() metav1.Object {
	m := &d.Metadata
	return &metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion}
}

func (i *Informers) stripDeployment(obj any) (any, error) {
	d, ok := obj.(*appsv1.Deployment)
	if !ok {
		return obj, nil
	}
	return deployment{i.strip(d)}, nil
}

func (i *Informers) strip(d *appsv1.Deployment) *kube.Deployment {
	stripped := kube.FromDeployment(d, i.dataPlanes)
	if i.dataPlanes.Match(stripped) {
		return stripped
	}
	return &kube.Deployment{Metadata: kube.Metadata{
		Namespace: stripped.Metadata.Namespace, Name: d.Name, UID: d.UID, ResourceVersion: d.ResourceVersion,
	}}
}

func stripHPA(obj any) (any, error) {
	h, ok := obj.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return obj, nil
	}
	stripped := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: stripMeta(&h.ObjectMeta), Spec: h.Spec}
	ref := &stripped.Spec.ScaleTargetRef
	ref.APIVersion, ref.Kind = kube.Intern(ref.APIVersion), kube.Intern(ref.Kind)
	stripped.Status.DesiredReplicas = h.Status.DesiredReplicas
	if c := kube.ScalingActive(h); c.Type != "" {
		c.Message = ""
		stripped.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{c}
	}
	return stripped, nil
}

func stripNamespace(obj any) (any, error) {
	n, ok := obj.(*corev1.Namespace)
	if !ok {
		return obj, nil
	}
	stripped := &corev1.Namespace{ObjectMeta: stripMeta(&n.ObjectMeta)}
	stripped.Labels = n.Labels
	return stripped, nil
}

func stripLimitRange(obj any) (any, error) {
	l, ok := obj.(*corev1.LimitRange)
	if !ok {
		return obj, nil
	}
	// A bound that nothing can be compared with is dropped: whoever may write LimitRanges could stop the process with it.
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Min, item.Max, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			maps.DeleteFunc(list, func(_ corev1.ResourceName, q resource.Quantity) bool { return !kube.Reasonable(q) })
		}
	}
	return &corev1.LimitRange{ObjectMeta: stripMeta(&l.ObjectMeta), Spec: l.Spec}, nil
}

func stripMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: kube.Intern(m.Namespace), Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion}
}

// NamespaceLabels implements Facts.
func (i *Informers) NamespaceLabels(namespace string) map[string]string {
	if n, ok := get[*corev1.Namespace](i.namespaces, namespace); ok {
		return n.Labels
	}
	return nil
}

// Deployment implements Facts.
func (i *Informers) Deployment(namespace, name string) *kube.Deployment {
	if d, ok := get[deployment](i.deployments, namespace+"/"+name); ok {
		return d.Deployment
	}
	return nil
}

// HPAsFor implements Facts.
func (i *Informers) HPAsFor(target kube.TargetKey) []*autoscalingv2.HorizontalPodAutoscaler {
	return byIndex[*autoscalingv2.HorizontalPodAutoscaler](i.hpas, indexTarget, target.String())
}

// LimitRanges implements Facts.
func (i *Informers) LimitRanges(namespace string) []*corev1.LimitRange {
	return byIndex[*corev1.LimitRange](i.limitRanges, indexNamespace, namespace)
}

func get[T any](informer cache.SharedIndexInformer, key string) (found T, ok bool) {
	obj, exists, err := informer.GetStore().GetByKey(key)
	if err != nil || !exists {
		return found, false
	}
	found, ok = obj.(T)
	return found, ok
}

func byIndex[T metav1.Object](informer cache.SharedIndexInformer, index, value string) []T {
	objects, err := informer.GetIndexer().ByIndex(index, value)
	if err != nil || len(objects) == 0 {
		return nil
	}
	found := make([]T, 0, len(objects))
	for _, obj := range objects {
		if t, ok := obj.(T); ok {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
	return found
}

// With returns facts that know the namespace and, where name is not empty, the Deployment of that name in it, even if
// they are newer than the cache: what a request names may have been created a moment ago. Only what the cache does not
// have is read, live; what does not exist is not an error.
func (i *Informers) With(ctx context.Context, namespace, name string) (Facts, error) {
	facts := &overlay{Facts: i}
	if _, ok := get[*corev1.Namespace](i.namespaces, namespace); !ok {
		n, err := i.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if err == nil {
			facts.namespace, facts.labels = namespace, n.Labels
		} else if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read namespace %s: %w", namespace, err)
		}
	}
	if name != "" && i.Deployment(namespace, name) == nil {
		d, err := i.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			facts.deployment = i.strip(d)
		} else if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read deployment %s/%s: %w", namespace, name, err)
		}
	}
	if facts.namespace == "" && facts.deployment == nil {
		return i, nil
	}
	return facts, nil
}

// overlay is facts with what was read live over them.
type overlay struct {
	Facts
	namespace  string
	labels     map[string]string
	deployment *kube.Deployment
}

func (o *overlay) NamespaceLabels(namespace string) map[string]string {
	if namespace == o.namespace {
		return o.labels
	}
	return o.Facts.NamespaceLabels(namespace)
}

func (o *overlay) Deployment(namespace, name string) *kube.Deployment {
	if d := o.deployment; d != nil && d.Metadata.Namespace == namespace && d.Metadata.Name == name {
		return d
	}
	return o.Facts.Deployment(namespace, name)
}
