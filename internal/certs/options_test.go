package certs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestOptionsThatCannotWorkAreRefusedAllAtOnce(t *testing.T) {
	good := Options{
		Namespace: "kdp", SecretName: "ca", DNSNames: []string{"kdp-webhook.kdp.svc"},
		MutatingWebhookConfiguration: "kdp-webhook", ValidatingWebhookConfiguration: "kdp-webhook",
	}
	const subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', " +
		"and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
		`'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"good", func(*Options) {}, ""},
		{"own durations", func(o *Options) { o.CADuration, o.LeafDuration = 2*time.Hour, time.Hour }, ""},
		{"nothing set", func(o *Options) { *o = Options{} }, "certificate options: " +
			`namespace "": ` + subdomain + "\n" +
			`secret name "": ` + subdomain + "\n" +
			`mutating webhook configuration "": ` + subdomain + "\n" +
			`validating webhook configuration "": ` + subdomain + "\n" +
			"dns names: at least one is required"},
		{"names that are none", func(o *Options) { o.DNSNames = []string{"127.0.0.1", "a_b", "localhost"} }, "certificate options: " +
			`dns name "127.0.0.1": is an IP address` + "\n" +
			`dns name "a_b": ` + subdomain},
		{
			"a leaf as long as its CA", func(o *Options) { o.CADuration = 7 * 24 * time.Hour },
			"certificate options: leaf duration 168h0m0s: must be positive and shorter than the CA's, 168h0m0s",
		},
		{
			"a negative duration", func(o *Options) { o.LeafDuration = -1 },
			"certificate options: leaf duration -1ns: must be positive and shorter than the CA's, 8760h0m0s",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := good
			tc.change(&o)
			cfg := &rest.Config{Host: "https://127.0.0.1:1"}
			_, err := New(cfg, kubernetes.NewForConfigOrDie(cfg), o)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
