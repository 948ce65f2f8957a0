package policy

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// News is what became of a policy ConfigMap.
type News struct {
	// ConfigMap that it is about.
	ConfigMap *corev1.ConfigMap
	// Deleted is true when it is gone, or is no policy any more.
	Deleted bool
	// Errors say what is wrong with the document; empty when it is in force.
	Errors field.ErrorList
	// Warnings say what of a valid document cannot work as it stands.
	Warnings []string
	// InForce names the version that holds after these news; false where none of that name does.
	InForce   Ref
	IsInForce bool
}

// Watch keeps a Store in line with the policy ConfigMaps of one namespace.
type Watch struct {
	store    *Store
	process  *DataPlanes
	factory  informers.SharedInformerFactory
	informer cache.SharedIndexInformer
	handled  cache.ResourceEventHandlerRegistration
	tell     func(News)
}

// NewWatch prepares a watch of the labelled ConfigMaps in namespace; Start runs it. tell is called, one at a time, with
// every change after it took effect. process is what this process itself takes for data planes.
func NewWatch(client kubernetes.Interface, namespace string, process *DataPlanes, store *Store, tell func(News)) (*Watch, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = Label + "=true" }))
	w := &Watch{store: store, process: process, factory: factory, informer: factory.Core().V1().ConfigMaps().Informer(), tell: tell}
	var err error
	w.handled, err = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.put,
		UpdateFunc: func(old, obj any) {
			if old.(*corev1.ConfigMap).ResourceVersion != obj.(*corev1.ConfigMap).ResourceVersion {
				w.put(obj)
			}
		},
		DeleteFunc: w.deleted,
	})
	if err != nil {
		return nil, fmt.Errorf("watch policies: %w", err)
	}
	return w, nil
}

// Start runs the watch until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	w.factory.StartWithContext(ctx)
	<-ctx.Done()
	w.factory.Shutdown()
	return nil
}

// NeedLeaderElection is false: every replica decides, so every replica needs the policies.
func (w *Watch) NeedLeaderElection() bool { return false }

// Synced returns nil once every policy that there was at the start has been taken over.
func (w *Watch) Synced() error {
	if !w.handled.HasSynced() {
		return errors.New("policies not yet read from the API server")
	}
	return nil
}

func (w *Watch) put(obj any) {
	cm, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return
	}
	var errs field.ErrorList
	ref := Ref{Name: cm.Name, ResourceVersion: cm.ResourceVersion}
	if text, has := cm.Data[DataKey]; has {
		errs = w.store.Put(ref, []byte(text))
	} else {
		errs = field.ErrorList{field.Required(field.NewPath("data").Key(DataKey), "must hold the policy document")}
	}
	news := News{ConfigMap: cm, Errors: errs}
	if len(errs) == 0 {
		news.Warnings = w.store.unseen(cm.Name, w.process)
	}
	news.InForce, news.IsInForce = w.store.Current(cm.Name)
	w.tell(news)
}

func (w *Watch) deleted(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	if cm, ok := obj.(*corev1.ConfigMap); ok {
		w.store.Delete(cm.Name)
		w.tell(News{ConfigMap: cm, Deleted: true})
	}
}
