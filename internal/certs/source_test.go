//go:build unix

package certs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestTheFirstStartMakesACAAndServesWhatBothConfigurationsTrust(t *testing.T) {
	f := newFixture(t)
	before := f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, nil)
	p.awaitReady(t)

	ca := f.ca(t, nil)
	f.awaitBundle(t, ca)
	url := p.serve(t)
	for _, name := range f.DNSNames {
		if err := dial(url, name, ca); err != nil {
			t.Errorf("dial %s: %v", name, err)
		}
	}
	if err := dial(url, "elsewhere.example.com", ca); err == nil {
		t.Error("another name is served as well")
	}

	after, err := f.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), before.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(after.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == fieldManager }) {
		t.Errorf("no field manager of ours in %v", after.ManagedFields)
	}
	for i := range before.Webhooks {
		before.Webhooks[i].ClientConfig.CABundle = ca
	}
	before.ObjectMeta, after.ObjectMeta = metav1.ObjectMeta{}, metav1.ObjectMeta{}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("more than the bundle was written (-want +got):\n%s", diff)
	}
	if !p.logged(`certs "level"=0 "msg"="Serving certificate generated successfully"`) {
		t.Error("the library does not log through our logger")
	}
}

func TestARestartUsesTheSameCAAndWritesNothing(t *testing.T) {
	f := newFixture(t)
	f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, nil)
	p.awaitReady(t)
	ca, first, writes := f.ca(t, nil), p.leaf(t), f.writes(t)
	p.stop()

	p = f.start(t, nil)
	p.awaitReady(t)
	if p.leaf(t).Equal(first) {
		t.Error("the private key outlived the process")
	}
	f.awaitBundle(t, ca)
	if got := f.writes(t); got != writes {
		t.Errorf("%d writes to the configurations, want %d as before", got, writes)
	}
}

func TestTwoReplicasAgreeOnOneCAAndRest(t *testing.T) {
	f := newFixture(t)
	f.createMutating(t)
	f.createValidating(t)
	one, two := f.start(t, nil), f.start(t, nil)
	one.awaitReady(t)
	two.awaitReady(t)

	ca := f.ca(t, nil)
	f.awaitBundle(t, ca)
	for i, p := range []*process{one, two} {
		if err := dial(p.serve(t), dnsName, ca); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
	// Both replicas may have tried each configuration once.
	start := f.atRest(t)
	if start < 2 || start > 4 {
		t.Errorf("%d writes at start, want 2 to 4", start)
	}

	// Somebody else's business in the configurations is none of ours.
	f.patch(t, "mutating", `[{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}]`)
	f.patch(t, "validating", `[{"op":"replace","path":"/webhooks/0/timeoutSeconds","value":3}]`)
	if got := f.atRest(t); got != start {
		t.Errorf("%d writes after changes that are none of ours, want none", got-start)
	}

	f.deleteSecret(t)
	rotated := f.ca(t, ca)
	f.awaitBundle(t, rotated, ca)
	if got := f.atRest(t) - start; got < 2 || got > 4 {
		t.Errorf("%d writes for a rotation, want 2 to 4", got)
	}
}

// atRest waits until nobody has written for two seconds and returns the number
// of writes so far.
func (f *fixture) atRest(t *testing.T) int {
	t.Helper()
	count, since := f.writes(t), time.Now()
	eventually(t, func() error {
		if now := f.writes(t); now != count {
			count, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return fmt.Errorf("%d writes, the last one just now", count)
		}
		return nil
	})
	return count
}

func TestNoRequestIsLostOverACARotation(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rotate func(*testing.T, *fixture)
	}{
		{"the Secret is deleted", func(t *testing.T, f *fixture) { f.deleteSecret(t) }},
		{"the Secret is emptied", func(t *testing.T, f *fixture) { f.updateSecret(t, nil) }},
		{"the Secret gets another CA", func(t *testing.T, f *fixture) {
			ca := newCA(t, caCommonName, time.Now(), time.Now().Add(24*time.Hour))
			f.updateSecret(t, map[string][]byte{"tls.crt": ca.pem(), "tls.key": ca.keyPEM(t), "ca.crt": ca.pem()})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			quick := func(s *Source) { s.handover.settle = 2 * time.Second }
			one, two := f.start(t, quick), f.start(t, quick)
			f.mutatingURL, f.validatingURL = one.serve(t), two.serve(t)
			f.createMutating(t)
			f.createValidating(t)
			one.awaitReady(t)
			two.awaitReady(t)
			eventually(t, func() error { return f.request(t.Context()) }) // the API server learns of them later
			old := f.ca(t, nil)
			requests := f.hammer(t)
			tc.rotate(t, f)
			rotated := f.ca(t, old)
			ca := parseCAs(rotated)[0]
			eventually(t, func() error {
				return errors.Join(one.leaf(t).CheckSignatureFrom(ca), two.leaf(t).CheckSignatureFrom(ca))
			})
			after := requests() + 10
			eventually(t, func() error {
				if requests() < after {
					return errors.New("no requests with the new certificates")
				}
				return nil
			})
			f.awaitBundle(t, rotated, old)
			t.Logf("%d requests", requests())
		})
	}
}

// hammer makes requests until the test ends, each of which has to succeed. It
// returns how to learn their number.
func (f *fixture) hammer(t *testing.T) func() int64 {
	t.Helper()
	var count atomic.Int64
	var workers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		workers.Go(func() {
			for ctx.Err() == nil {
				if err := f.request(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("request %d: %v", count.Load(), err)
				}
				count.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		workers.Wait()
	})
	return count.Load
}

func TestANewCertificateWaitsForItsCAToBePublished(t *testing.T) {
	f := newFixture(t)
	f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, func(s *Source) { s.handover.settle = 0 })
	p.awaitReady(t)
	old := f.ca(t, nil)

	f.revoke(t, "write", "patch")
	f.deleteSecret(t)
	rotated := f.ca(t, old)
	eventually(t, func() error {
		latest, err := p.library.GetCertificate(nil)
		if err != nil {
			return err
		}
		return latest.Leaf.CheckSignatureFrom(parseCAs(rotated)[0])
	})
	eventually(t, func() error {
		if !p.logged("Failed to publish the CA bundle") {
			return errors.New("the failure is not logged")
		}
		return nil
	})
	if err := p.leaf(t).CheckSignatureFrom(parseCAs(old)[0]); err != nil {
		t.Errorf("a certificate is served that no configuration vouches for: %v", err)
	}
	if err := p.Check(nil); err != nil {
		t.Errorf("a process that was ready is not any more: %v", err)
	}
	f.awaitBundle(t, old)

	f.grant(t, "write", f.configurationRules("patch"))
	f.awaitBundle(t, rotated, old)
	eventually(t, func() error { return p.leaf(t).CheckSignatureFrom(parseCAs(rotated)[0]) })
}

func TestABundleThatSomebodyChangedIsPutRight(t *testing.T) {
	const path = "/webhooks/1/clientConfig/caBundle"
	foreign := newCA(t, "foreign", time.Now(), time.Now().Add(time.Hour)).pem()
	f := newFixture(t)
	f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, nil)
	p.awaitReady(t)
	ca := f.ca(t, nil)

	for _, tc := range []struct{ name, kind, patch string }{
		{"removed", "mutating", fmt.Sprintf(`[{"op":"remove","path":%q}]`, path)},
		{"blanked", "validating", fmt.Sprintf(`[{"op":"replace","path":%q,"value":""}]`, path)},
		{"replaced by a foreign one", "mutating", fmt.Sprintf(`[{"op":"replace","path":%q,"value":%q}]`, path, encoded(foreign))},
		{"extended by a foreign one", "validating", fmt.Sprintf(`[{"op":"replace","path":%q,"value":%q}]`, path, encoded(append(foreign, ca...)))},
		{"garbage", "mutating", fmt.Sprintf(`[{"op":"replace","path":%q,"value":%q}]`, path, encoded([]byte("garbage")))},
		{"a new webhook", "mutating", `[{"op":"copy","from":"/webhooks/0","path":"/webhooks/0"},` +
			`{"op":"replace","path":"/webhooks/0/name","value":"new.example.com"},{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.patch(t, tc.kind, tc.patch)
			f.awaitBundle(t, ca)
		})
	}

	t.Run("the whole configuration made anew", func(t *testing.T) {
		err := f.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(t.Context(), f.MutatingWebhookConfiguration, metav1.DeleteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.createMutating(t)
		f.awaitBundle(t, ca)
		if err := p.Check(nil); err != nil {
			t.Errorf("a process that was ready is not any more: %v", err)
		}
	})
}

func TestABundleBlankedWhileThePreviousCertificateIsServedGetsBothCAsBack(t *testing.T) {
	f := newFixture(t)
	f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, func(s *Source) { s.handover.settle = time.Hour })
	p.awaitReady(t)
	old := f.ca(t, nil)
	f.deleteSecret(t)
	rotated := f.ca(t, old)
	f.awaitBundle(t, rotated, old)

	for _, kind := range []string{"mutating", "validating"} {
		for i := range 2 {
			f.patch(t, kind, fmt.Sprintf(`[{"op":"remove","path":"/webhooks/%d/clientConfig/caBundle"}]`, i))
		}
	}
	f.awaitBundle(t, rotated, old)
	if err := p.leaf(t).CheckSignatureFrom(parseCAs(old)[0]); err != nil {
		t.Errorf("the previous certificate is not served any more: %v", err)
	}
}

func TestARenewedLeafIsServedWithoutAWrite(t *testing.T) {
	f := newFixture(t)
	f.LeafDuration = 6 * time.Second // renewed after 4
	f.createMutating(t)
	f.createValidating(t)
	p := f.start(t, func(s *Source) { s.handover.settle = 500 * time.Millisecond })
	p.awaitReady(t)
	ca, first, writes := f.ca(t, nil), p.leaf(t), f.writes(t)
	url := p.serve(t)
	eventually(t, func() error {
		if err := dial(url, dnsName, ca); err != nil {
			t.Errorf("handshake: %v", err)
		}
		// At first start the library signs twice at once; that is no renewal.
		if age := p.leaf(t).NotBefore.Sub(first.NotBefore); age < 3*time.Second {
			return fmt.Errorf("a certificate is served that is %s younger than the first", age)
		}
		return nil
	})
	if got := f.writes(t); got != writes {
		t.Errorf("%d writes to the configurations, want %d as before", got, writes)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	t.Run("before the start", func(t *testing.T) {
		s, err := New(&rest.Config{}, kubernetes.NewForConfigOrDie(&rest.Config{}), Options{
			Namespace: "kdp", SecretName: "ca", DNSNames: []string{"localhost"},
			MutatingWebhookConfiguration: "m", ValidatingWebhookConfiguration: "v",
		})
		if err != nil {
			t.Fatal(err)
		}
		checkSays(t, s, `[serving certificate: no tls.Certificate available, secret "kdp/ca" has not been read yet]`)
	})

	t.Run("a configuration that does not exist yet", func(t *testing.T) {
		f := newFixture(t)
		f.createMutating(t)
		p := f.start(t, nil)
		f.awaitCheck(t, p, fmt.Sprintf("validating webhook configuration %q does not exist", f.ValidatingWebhookConfiguration))
		f.createValidating(t)
		p.awaitReady(t)
		f.awaitBundle(t, f.ca(t, nil))
	})

	t.Run("a configuration that must not be read", func(t *testing.T) {
		f := newFixture(t)
		f.createMutating(t)
		f.createValidating(t)
		f.revoke(t, "write", "patch")
		f.revoke(t, "read", "list")
		p := f.start(t, nil)
		forbidden := func(kind, name string) string {
			return fmt.Sprintf(`read %s webhook configuration %q: failed to list *v1.%sWebhookConfiguration: `+
				`%swebhookconfigurations.admissionregistration.k8s.io %q is forbidden: User %q cannot list resource `+
				`"%swebhookconfigurations" in API group "admissionregistration.k8s.io" at the cluster scope`,
				kind, name, strings.ToUpper(kind[:1])+kind[1:], kind, name, f.user, kind)
		}
		f.awaitCheck(t, p, "["+forbidden("mutating", f.MutatingWebhookConfiguration)+", "+
			forbidden("validating", f.ValidatingWebhookConfiguration)+"]")
		f.grant(t, "read", f.configurationRules("list", "watch"))
		f.grant(t, "write", f.configurationRules("patch"))
		p.awaitReady(t)
	})

	t.Run("a bundle that must not be written", func(t *testing.T) {
		f := newFixture(t)
		f.createMutating(t)
		f.createValidating(t)
		f.revoke(t, "write", "patch")
		p := f.start(t, nil)
		forbidden := func(kind, name string) string {
			return fmt.Sprintf(`%s webhook configuration %q: webhook "one.example.com": its caBundle does not vouch for the `+
				"serving certificate: x509: certificate signed by unknown authority; write the CA bundle into %[1]s webhook configuration %[2]q: "+
				`%[1]swebhookconfigurations.admissionregistration.k8s.io %[2]q is forbidden: User %[3]q cannot patch resource `+
				`"%[1]swebhookconfigurations" in API group "admissionregistration.k8s.io" at the cluster scope`, kind, name, f.user)
		}
		f.awaitCheck(t, p, "["+forbidden("mutating", f.MutatingWebhookConfiguration)+", "+
			forbidden("validating", f.ValidatingWebhookConfiguration)+"]")
		f.grant(t, "write", f.configurationRules("patch"))
		p.awaitReady(t)
	})
}

func checkSays(t *testing.T, s *Source, want string) {
	t.Helper()
	err := s.Check(nil)
	if err == nil {
		t.Fatal("the check has no complaint")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("check (-want +got):\n%s", diff)
	}
}

func (f *fixture) awaitCheck(t *testing.T, p *process, want string) {
	t.Helper()
	eventually(t, func() error {
		err := p.Check(nil)
		if err == nil {
			t.Fatal("the check has no complaint")
		}
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			return fmt.Errorf("check (-want +got):\n%s", diff)
		}
		return nil
	})
}
