//go:build unix

package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

const (
	secretName = "kdp-webhook-ca"
	dnsName    = "kdp-webhook.kdp.svc"
)

// controlPlane is started by the first test that needs it.
var (
	started      bool
	controlPlane = sync.OnceValues(func() (*cluster.Cluster, error) {
		started = true
		return cluster.Start(context.Background(), cluster.Options{Progress: os.Stderr})
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := noneLeft(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if started {
		if err := stopControlPlane(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func stopControlPlane() error {
	c, err := controlPlane()
	if err != nil {
		return nil // the tests have told
	}
	return c.Stop()
}

// noneLeft waits until no goroutine of a source is left.
func noneLeft() error {
	var left string
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, 10*time.Second, true,
		func(context.Context) (bool, error) {
			buf := make([]byte, 1<<20)
			left = ""
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				for _, ours := range []string{"internal/certs.(", "cert-manager/pkg/", "client-go/tools/cache"} {
					if strings.Contains(g, ours) {
						left += g + "\n\n"
						break
					}
				}
			}
			return left == "", nil
		})
	if err != nil {
		return fmt.Errorf("goroutines left behind:\n%s", left)
	}
	return nil
}

// fixture is one installation: a namespace, two webhook configurations and the
// process's identity with the documented rights and no others.
type fixture struct {
	Options
	admin kubernetes.Interface
	cfg   *rest.Config
	user  string

	// Where the API server sends writes of ConfigMaps in the namespace; empty: it
	// sends none.
	mutatingURL, validatingURL string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	c, err := controlPlane()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{admin: kubernetes.NewForConfigOrDie(c.Config())}
	ns, err := f.admin.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "certs-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Options = Options{
		Namespace: ns.Name, SecretName: secretName, DNSNames: []string{dnsName, "localhost"},
		MutatingWebhookConfiguration: ns.Name + "-mutating", ValidatingWebhookConfiguration: ns.Name + "-validating",
	}
	f.user = ns.Name + "-process"
	if f.cfg, err = c.ConfigFor(f.user); err != nil {
		t.Fatal(err)
	}
	f.grant(t, "secrets", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{f.SecretName}, Verbs: []string{"list", "watch", "update"}},
	})
	f.grant(t, "read", f.configurationRules("list", "watch"))
	f.grant(t, "write", f.configurationRules("patch"))
	return f
}

func (f *fixture) configurationRules(verbs ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{admissionv1.GroupName}, Resources: []string{"mutatingwebhookconfigurations"}, ResourceNames: []string{f.MutatingWebhookConfiguration}, Verbs: verbs},
		{APIGroups: []string{admissionv1.GroupName}, Resources: []string{"validatingwebhookconfigurations"}, ResourceNames: []string{f.ValidatingWebhookConfiguration}, Verbs: verbs},
	}
}

// grant gives the process the rules: those on secrets in the namespace, others
// in the cluster.
func (f *fixture) grant(t *testing.T, name string, rules []rbacv1.PolicyRule) {
	t.Helper()
	rbac := f.admin.RbacV1()
	subjects := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: f.user}}
	var err, bindErr error
	if name == "secrets" {
		_, err = rbac.Roles(f.Namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
		_, bindErr = rbac.RoleBindings(f.Namespace).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		}, metav1.CreateOptions{})
	} else {
		meta := metav1.ObjectMeta{Name: f.Namespace + "-" + name}
		_, err = rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
		_, bindErr = rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		}, metav1.CreateOptions{})
	}
	if err := errors.Join(err, bindErr); err != nil {
		t.Fatal(err)
	}
}

// revoke takes a cluster-wide grant back and waits until the API server no
// longer allows the verb.
func (f *fixture) revoke(t *testing.T, name, verb string) {
	t.Helper()
	rbac := f.admin.RbacV1()
	err := errors.Join(
		rbac.ClusterRoleBindings().Delete(t.Context(), f.Namespace+"-"+name, metav1.DeleteOptions{}),
		rbac.ClusterRoles().Delete(t.Context(), f.Namespace+"-"+name, metav1.DeleteOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		review, err := f.admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: f.user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: admissionv1.GroupName, Resource: "mutatingwebhookconfigurations", Name: f.MutatingWebhookConfiguration, Verb: verb,
			}},
		}, metav1.CreateOptions{})
		if err == nil && review.Status.Allowed {
			err = fmt.Errorf("%s may still %s", f.user, verb)
		}
		return err
	})
}

// settings are what the webhooks of a configuration have in common.
func (f *fixture) settings(url string) admissionv1.MutatingWebhook {
	resource := "configmaps"
	if url == "" {
		url, resource = "https://localhost:1/", "none"
	}
	return admissionv1.MutatingWebhook{
		ClientConfig:            admissionv1.WebhookClientConfig{URL: &url},
		NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: f.Namespace}},
		SideEffects:             ptr.To(admissionv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
		}},
	}
}

func (f *fixture) createMutating(t *testing.T) *admissionv1.MutatingWebhookConfiguration {
	t.Helper()
	o := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: f.MutatingWebhookConfiguration}}
	for _, name := range []string{"one.example.com", "two.example.com"} {
		w := f.settings(f.mutatingURL)
		w.Name = name
		o.Webhooks = append(o.Webhooks, w)
	}
	o, err := f.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (f *fixture) createValidating(t *testing.T) *admissionv1.ValidatingWebhookConfiguration {
	t.Helper()
	o := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: f.ValidatingWebhookConfiguration}}
	for _, name := range []string{"one.example.com", "two.example.com", "three.example.com"} {
		w := f.settings(f.validatingURL)
		o.Webhooks = append(o.Webhooks, admissionv1.ValidatingWebhook{
			Name: name, ClientConfig: w.ClientConfig, NamespaceSelector: w.NamespaceSelector, Rules: w.Rules,
			SideEffects: w.SideEffects, AdmissionReviewVersions: w.AdmissionReviewVersions,
		})
	}
	o, err := f.admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// request is a write that the API server asks every webhook about.
func (f *fixture) request(ctx context.Context) error {
	_, err := f.admin.CoreV1().ConfigMaps(f.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "request-"},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// patch is the admin's JSON patch of a configuration, "mutating" or "validating".
func (f *fixture) patch(t *testing.T, kind, patch string) {
	t.Helper()
	api := f.admin.AdmissionregistrationV1()
	var err error
	if kind == "mutating" {
		_, err = api.MutatingWebhookConfigurations().Patch(t.Context(), f.MutatingWebhookConfiguration, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	} else {
		_, err = api.ValidatingWebhookConfigurations().Patch(t.Context(), f.ValidatingWebhookConfiguration, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// bundles returns what every webhook of both configurations holds.
func (f *fixture) bundles(ctx context.Context) ([][]byte, error) {
	api := f.admin.AdmissionregistrationV1()
	m, err := api.MutatingWebhookConfigurations().Get(ctx, f.MutatingWebhookConfiguration, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	v, err := api.ValidatingWebhookConfigurations().Get(ctx, f.ValidatingWebhookConfiguration, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, w := range m.Webhooks {
		all = append(all, w.ClientConfig.CABundle)
	}
	for _, w := range v.Webhooks {
		all = append(all, w.ClientConfig.CABundle)
	}
	return all, nil
}

// awaitBundle waits until every webhook holds exactly these CAs. CAs made in the
// same second come in any order.
func (f *fixture) awaitBundle(t *testing.T, cas ...[]byte) {
	t.Helper()
	slices.SortFunc(cas, bytes.Compare)
	eventually(t, func() error {
		bundles, err := f.bundles(t.Context())
		if err != nil {
			return err
		}
		for i, bundle := range bundles {
			var held [][]byte
			for _, ca := range parseCAs(bundle) {
				held = append(held, testCA{Certificate: ca}.pem())
			}
			slices.SortFunc(held, bytes.Compare)
			if !slices.EqualFunc(held, cas, bytes.Equal) || len(bundle) != len(bytes.Join(cas, nil)) {
				return fmt.Errorf("bundle %d is\n%s\nwant\n%s", i, bundle, bytes.Join(cas, nil))
			}
		}
		return nil
	})
}

// ca returns the Secret's CA certificate, waiting for one other than old.
func (f *fixture) ca(t *testing.T, old []byte) []byte {
	t.Helper()
	var ca []byte
	eventually(t, func() error {
		secret, err := f.admin.CoreV1().Secrets(f.Namespace).Get(t.Context(), f.SecretName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ca = secret.Data[corev1.TLSCertKey]; len(ca) == 0 || bytes.Equal(ca, old) {
			return errors.New("no new CA in the Secret")
		}
		return nil
	})
	return ca
}

func (f *fixture) deleteSecret(t *testing.T) {
	t.Helper()
	if err := f.admin.CoreV1().Secrets(f.Namespace).Delete(t.Context(), f.SecretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) updateSecret(t *testing.T, data map[string][]byte) {
	t.Helper()
	secrets := f.admin.CoreV1().Secrets(f.Namespace)
	secret, err := secrets.Get(t.Context(), f.SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data = data
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// writes counts the process's writes to its configurations, refused ones too.
func (f *fixture) writes(t *testing.T) int {
	t.Helper()
	c, err := controlPlane()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(c.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range bytes.Lines(log) {
		var event struct {
			Verb string
			User struct{ Username string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			continue // being written
		}
		if event.User.Username == f.user && event.Verb == "patch" {
			count++
		}
	}
	return count
}

// process is a source that runs.
type process struct {
	*Source
	stop func()

	mu  sync.Mutex
	log []string
}

// start runs a source under the process's identity until the test ends, or
// stop. Change, which may be nil, is called before.
func (f *fixture) start(t *testing.T, change func(*Source)) *process {
	t.Helper()
	s, err := New(f.cfg, kubernetes.NewForConfigOrDie(f.cfg), f.Options)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	return run(t, s)
}

func run(t *testing.T, s *Source) *process {
	t.Helper()
	p := &process{Source: s}
	logger := funcr.New(func(prefix, args string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.log = append(p.log, prefix+" "+args)
		t.Log(prefix, args)
	}, funcr.Options{Verbosity: 2})
	ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), logger))
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the source ended with: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the source does not end")
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *process) logged(part string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(strings.Join(p.log, "\n"), part)
}

func (p *process) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, func() error { return p.Check(nil) })
}

// leaf is the certificate being served.
func (p *process) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := p.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

// serve admits everything at the URL it returns until the test ends. Every
// request costs a handshake.
func (p *process) serve(t *testing.T) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: p.GetCertificate, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // a client that does not trust us complains itself
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admissionapi.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			review.Response = &admissionapi.AdmissionResponse{UID: review.Request.UID, Allowed: true}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(review)
		}),
	}
	server.SetKeepAlivesEnabled(false)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://localhost:" + port + "/"
}

// dial makes the handshake of an API server that has this bundle.
func dial(address, serverName string, bundle []byte) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := tls.DialWithDialer(dialer, "tcp", u.Host, &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	return conn.Close()
}

func encoded(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

// eventually waits until the condition has no complaint any more.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}
