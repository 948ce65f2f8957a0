package certs

import (
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	defaultCADuration   = 365 * 24 * time.Hour
	defaultLeafDuration = 7 * 24 * time.Hour
)

// Options say whose certificate is served, where its CA is kept and who has to
// trust it.
type Options struct {
	// Namespace and SecretName of the Secret that holds the CA and its private
	// key. It is created when it does not exist.
	Namespace, SecretName string

	// DNSNames of the serving certificate, at least one. IP addresses are
	// refused: the library issues DNS names only.
	DNSNames []string

	// CADuration is how long a CA is valid, 365 days where 0. A new CA is made
	// when a third of that is left.
	CADuration time.Duration

	// LeafDuration is how long a serving certificate is valid, 7 days where 0.
	// It is renewed when a third of that is left. Shorter than CADuration.
	LeafDuration time.Duration

	// MutatingWebhookConfiguration and ValidatingWebhookConfiguration name the
	// two objects whose every webhook gets the CA bundle.
	MutatingWebhookConfiguration, ValidatingWebhookConfiguration string
}

func (o Options) withDefaults() Options {
	if o.CADuration == 0 {
		o.CADuration = defaultCADuration
	}
	if o.LeafDuration == 0 {
		o.LeafDuration = defaultLeafDuration
	}
	return o
}

// validate returns everything that is wrong with o, joined.
func (o Options) validate() error {
	var errs []error
	for _, name := range []struct{ what, value string }{
		{"namespace", o.Namespace},
		{"secret name", o.SecretName},
		{"mutating webhook configuration", o.MutatingWebhookConfiguration},
		{"validating webhook configuration", o.ValidatingWebhookConfiguration},
	} {
		for _, msg := range validation.IsDNS1123Subdomain(name.value) {
			errs = append(errs, fmt.Errorf("%s %q: %s", name.what, name.value, msg))
		}
	}
	if len(o.DNSNames) == 0 {
		errs = append(errs, errors.New("dns names: at least one is required"))
	}
	for _, name := range o.DNSNames {
		if net.ParseIP(name) != nil {
			errs = append(errs, fmt.Errorf("dns name %q: is an IP address", name))
			continue
		}
		for _, msg := range validation.IsDNS1123Subdomain(name) {
			errs = append(errs, fmt.Errorf("dns name %q: %s", name, msg))
		}
	}
	if o.LeafDuration < 0 || o.LeafDuration >= o.CADuration {
		errs = append(errs, fmt.Errorf("leaf duration %s: must be positive and shorter than the CA's, %s", o.LeafDuration, o.CADuration))
	}
	return errors.Join(errs...)
}
