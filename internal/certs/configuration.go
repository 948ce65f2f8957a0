package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// fieldManager owns the bundles in managedFields, so that a server-side apply
// of a chart that leaves them out leaves them in place.
const fieldManager = "kdp-webhook-certs"

// configuration is one of the two webhook configurations; the API has a type
// of its own for each.
type configuration struct {
	*watched
	contents func() (contents, error)
	patch    func(ctx context.Context, data []byte) error
	writeErr atomic.Pointer[error] // why the last write failed, nil when it did not

	// replaced is a resourceVersion that is known to have a successor, which is
	// about to be seen: judging the old one again would only make conflicts.
	replaced string
}

// contents is what matters here of a webhook configuration.
type contents struct {
	resourceVersion string
	entries         []entry
}

type entry struct {
	name     string
	caBundle []byte
}

func newMutating(client kubernetes.Interface, name string, changed func()) (*configuration, error) {
	return newConfiguration(
		fmt.Sprintf("mutating webhook configuration %q", name), name,
		admissioninformers.NewFilteredMutatingWebhookConfigurationInformer(client, 0, nil, named(name)),
		client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch,
		func(o *admissionv1.MutatingWebhookConfiguration) contents {
			c := contents{resourceVersion: o.ResourceVersion}
			for i := range o.Webhooks {
				c.entries = append(c.entries, entry{o.Webhooks[i].Name, o.Webhooks[i].ClientConfig.CABundle})
			}
			return c
		}, changed)
}

func newValidating(client kubernetes.Interface, name string, changed func()) (*configuration, error) {
	return newConfiguration(
		fmt.Sprintf("validating webhook configuration %q", name), name,
		admissioninformers.NewFilteredValidatingWebhookConfigurationInformer(client, 0, nil, named(name)),
		client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch,
		func(o *admissionv1.ValidatingWebhookConfiguration) contents {
			c := contents{resourceVersion: o.ResourceVersion}
			for i := range o.Webhooks {
				c.entries = append(c.entries, entry{o.Webhooks[i].Name, o.Webhooks[i].ClientConfig.CABundle})
			}
			return c
		}, changed)
}

func newConfiguration[T any](
	what, name string,
	informer cache.SharedIndexInformer,
	patch func(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error),
	read func(T) contents,
	changed func(),
) (*configuration, error) {
	w, err := watch(what, name, informer, changed)
	if err != nil {
		return nil, err
	}
	return &configuration{
		watched: w,
		contents: func() (contents, error) {
			obj, err := get[T](w)
			if err != nil {
				return contents{}, err
			}
			return read(obj), nil
		},
		patch: func(ctx context.Context, data []byte) error {
			_, err := patch(ctx, name, types.JSONPatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
			return err
		},
	}, nil
}

// cas returns every certificate in the bundles.
func (c contents) cas() []*x509.Certificate {
	var cas []*x509.Certificate
	for _, e := range c.entries {
		cas = append(cas, parseCAs(e.caBundle)...)
	}
	return cas
}

// trusts returns nil when the API server, going by the configuration as last
// seen, accepts the leaf from every webhook; else what is missing.
func (c *configuration) trusts(leaf *x509.Certificate) error {
	seen, err := c.contents()
	if err != nil {
		return err
	}
	for _, e := range seen.entries {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(e.caBundle)
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: webhook %q: its caBundle does not vouch for the serving certificate: %w", c.what, e.name, err)
		if failed := c.writeErr.Load(); failed != nil {
			err = fmt.Errorf("%w; %w", err, *failed)
		}
		return err
	}
	return nil
}

// write puts the bundle into every webhook that does not have exactly it, and
// writes nothing when all do. Seen is what the bundle was made from: a fresher
// look here might hold a CA that the bundle lacks, and the write would drop it.
func (c *configuration) write(ctx context.Context, seen contents, pem []byte) error {
	err := c.tryWrite(ctx, seen, pem)
	if err != nil {
		c.writeErr.Store(&err)
		return err
	}
	c.writeErr.Store(nil)
	return nil
}

func (c *configuration) tryWrite(ctx context.Context, seen contents, pem []byte) error {
	// Setting the version that was seen turns a write in between into a conflict.
	ops := []jsonpatch.Operation{jsonpatch.NewOperation("replace", "/metadata/resourceVersion", seen.resourceVersion)}
	var webhooks []string
	for i, e := range seen.entries {
		if !bytes.Equal(e.caBundle, pem) {
			ops = append(ops, jsonpatch.NewOperation("add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), pem))
			webhooks = append(webhooks, e.name)
		}
	}
	if len(webhooks) == 0 || seen.resourceVersion == c.replaced {
		return nil
	}
	data, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("encode the CA bundle for %s: %w", c.what, err)
	}
	log := ctrllog.FromContext(ctx).WithValues("configuration", c.what, "webhooks", webhooks)
	switch err := c.patch(ctx, data); {
	case apierrors.IsConflict(err):
		log.V(1).Info("Somebody else wrote first")
	case err != nil:
		return fmt.Errorf("write the CA bundle into %s: %w", c.what, err)
	default:
		log.Info("Wrote the CA bundle")
	}
	c.replaced = seen.resourceVersion
	return nil
}
