package certs

import (
	"context"
	"fmt"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// watched is one object of the API, kept in memory.
type watched struct {
	what     string // as messages name it
	key      string
	informer cache.SharedIndexInformer
	readErr  atomic.Pointer[error] // why listing or watching failed last
}

// watch keeps the one object that the informer is restricted to. Changed is
// called whenever it appears, changes or vanishes, and must not block.
func watch(what, key string, informer cache.SharedIndexInformer, changed func()) (*watched, error) {
	w := &watched{what: what, key: key, informer: informer}
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		w.readErr.Store(&err)
		cache.DefaultWatchErrorHandler(ctx, r, err)
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", what, err)
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(_, _ any) { changed() },
		DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", what, err)
	}
	return w, nil
}

// named restricts a list or watch to one object. RBAC with resourceNames allows
// it only with this selector.
func named(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

// get returns the object as last seen. The error says whether it does not exist
// or could not be read, and why.
func get[T any](w *watched) (T, error) {
	var none T
	if !w.informer.HasSynced() {
		if err := w.readErr.Load(); err != nil {
			return none, fmt.Errorf("read %s: %w", w.what, *err)
		}
		return none, fmt.Errorf("%s has not been read yet", w.what)
	}
	obj, exists, err := w.informer.GetStore().GetByKey(w.key)
	if err != nil {
		return none, fmt.Errorf("look up %s: %w", w.what, err)
	}
	typed, ok := obj.(T)
	if !exists || !ok {
		return none, fmt.Errorf("%s does not exist", w.what)
	}
	return typed, nil
}
