// Package certs provides the webhook's serving certificate and makes the API
// server trust it: cert-manager's own library issues and renews the certificate
// from a CA kept in a Secret, and the CA goes into the process's two webhook
// configurations. No cert-manager installation is needed. Every replica does
// the same work; they agree through the API server alone.
//
// The process needs, in the Secret's namespace, create on secrets and list,
// watch and update on that one Secret; and on its two webhook configurations
// list, watch and patch.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// issueRetry is short because at first start the library asks for a
	// certificate before it has made the CA.
	issueRetry = 200 * time.Millisecond

	// settle before a new certificate is served; see handover.
	settle = 10 * time.Second

	writeRetryMin = 500 * time.Millisecond
	writeRetryMax = time.Minute
)

// Source is where the serving certificate comes from. It is a manager.Runnable
// that every replica runs.
type Source struct {
	secret         *watched
	configurations []*configuration
	library        *servertls.DynamicSource
	handover       *handover

	wake  chan struct{}       // something changed
	seen  []*x509.Certificate // the Secret's CAs, newest last; of the goroutine that writes
	ready atomic.Bool
}

// New returns a source that has not been started and has not called the API
// server. The error names every option that cannot be used.
func New(cfg *rest.Config, client kubernetes.Interface, o Options) (*Source, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("certificate options: %w", err)
	}
	s := &Source{wake: make(chan struct{}, 1)}
	key := o.Namespace + "/" + o.SecretName
	var errs [3]error
	s.secret, errs[0] = watch(fmt.Sprintf("secret %q", key), key,
		coreinformers.NewFilteredSecretInformer(client, o.Namespace, 0, nil, named(o.SecretName)), s.changed)
	s.configurations = make([]*configuration, 2)
	s.configurations[0], errs[1] = newMutating(client, o.MutatingWebhookConfiguration, s.changed)
	s.configurations[1], errs[2] = newValidating(client, o.ValidatingWebhookConfiguration, s.changed)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	s.library = &servertls.DynamicSource{
		DNSNames:      o.DNSNames,
		RetryInterval: issueRetry,
		Authority: &authority.DynamicAuthority{
			SecretNamespace: o.Namespace,
			SecretName:      o.SecretName,
			RESTConfig:      rest.CopyConfig(cfg),
			CommonName:      caCommonName,
			CADuration:      o.CADuration,
			LeafDuration:    o.LeafDuration,
		},
	}
	s.handover = &handover{
		latest:  func() (*tls.Certificate, error) { return s.library.GetCertificate(nil) },
		trusted: s.trusted,
		settle:  settle,
	}
	return s, nil
}

// NeedLeaderElection is false: every replica serves.
func (s *Source) NeedLeaderElection() bool { return false }

// Start issues, renews and publishes until ctx ends, and then returns nil. It
// logs through the logger in ctx. A failing API server is no error but retried;
// Check tells.
func (s *Source) Start(ctx context.Context) error {
	// The library falls back to a logger of its own where ctx carries none.
	ctx = ctrllog.IntoContext(ctx, ctrllog.FromContext(ctx).WithName("certs"))
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range s.watches() {
		group.Go(func() error {
			w.informer.RunWithContext(ctx)
			return nil
		})
	}
	group.Go(func() error {
		s.publish(ctx)
		return nil
	})
	group.Go(func() error {
		if err := s.library.Start(ctx); err != nil {
			return fmt.Errorf("issue the serving certificate: %w", err)
		}
		return nil
	})
	return group.Wait()
}

// GetCertificate is for tls.Config. The error says that there is none yet.
func (s *Source) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := s.handover.certificate(time.Now())
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	return cert, nil
}

// Check is a healthz.Checker: nil once there is a certificate that both
// configurations vouch for in every webhook, else all that is missing for it.
// It stays nil from then on: a later mismatch is repaired or logged, and all
// replicas turning unready would only make it worse.
func (s *Source) Check(*http.Request) error {
	if s.ready.Load() {
		return nil
	}
	cert, err := s.GetCertificate(nil)
	if err != nil {
		_, secretErr := get[*corev1.Secret](s.secret)
		return utilerrors.NewAggregate([]error{err, secretErr})
	}
	if err := s.trusted(cert.Leaf); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}

// trusted returns nil when both configurations vouch for the leaf.
func (s *Source) trusted(leaf *x509.Certificate) error {
	var errs []error
	for _, c := range s.configurations {
		errs = append(errs, c.trusts(leaf))
	}
	return utilerrors.NewAggregate(errs)
}

func (s *Source) watches() []*watched {
	all := []*watched{s.secret}
	for _, c := range s.configurations {
		all = append(all, c.watched)
	}
	return all
}

func (s *Source) changed() {
	select {
	case s.wake <- struct{}{}:
	default: // already due
	}
}

// publish writes the bundles whenever something changed, and again after a
// failure, until ctx ends.
func (s *Source) publish(ctx context.Context) {
	var synced []cache.DoneChecker
	for _, w := range s.watches() {
		synced = append(synced, w.informer.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return
	}
	s.changed() // an object that does not exist causes no event

	unhurried := wait.Backoff{Duration: writeRetryMin, Cap: writeRetryMax, Factor: 2, Jitter: 0.1, Steps: 10}
	backoff := unhurried
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-retry:
		}
		retry = nil
		if err := s.writeBundles(ctx); err != nil && ctx.Err() == nil {
			after := backoff.Step()
			ctrllog.FromContext(ctx).Error(err, "Failed to publish the CA bundle", "retryAfter", after.String())
			retry = time.After(after)
			continue
		}
		backoff = unhurried
	}
}

// writeBundles makes both configurations hold the bundle. Without any CA there is
// nothing to write yet; its arrival calls again.
func (s *Source) writeBundles(ctx context.Context) error {
	var (
		found  []*x509.Certificate
		writes []func(pem []byte) error
		errs   []error
	)
	for _, c := range s.configurations {
		seen, err := c.contents()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, seen.cas()...)
		writes = append(writes, func(pem []byte) error { return c.write(ctx, seen, pem) })
	}
	if pem := bundle(s.required(found), found, time.Now()); len(pem) > 0 {
		for _, write := range writes {
			errs = append(errs, write(pem))
		}
	}
	return utilerrors.NewAggregate(errs)
}

// required returns the Secret's CA and, while it is another one, the CA of the
// certificate that is being served, looked for in what this process has seen:
// a bundle that somebody blanked in between has to get both back.
func (s *Source) required(found []*x509.Certificate) []*x509.Certificate {
	var required []*x509.Certificate
	if secret, err := get[*corev1.Secret](s.secret); err == nil {
		if cas := parseCAs(secret.Data[corev1.TLSCertKey]); len(cas) > 0 {
			required = append(required, cas[0]) // the one that signs
			s.remember(cas[0])
		}
	}
	if cert, err := s.GetCertificate(nil); err == nil {
		if ca := issuer(cert.Leaf, slices.Concat(s.seen, found)); ca != nil {
			required = append(required, ca)
		}
	}
	return required
}

func (s *Source) remember(ca *x509.Certificate) {
	if contains(s.seen, ca) {
		return
	}
	s.seen = append(s.seen, ca)
	s.seen = s.seen[max(0, len(s.seen)-maxCAs):]
}
