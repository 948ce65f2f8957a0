//go:build unix

package chart_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

const (
	person            = "alice@example.com"
	ownServiceAccount = "system:serviceaccount:" + namespace + ":" + release
)

// hook stands in for the webhook: it allows everything and notes what it was asked.
type hook struct {
	server *httptest.Server

	mu    sync.Mutex
	calls []string
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{}
	h.server = httptest.NewTLSServer(h)
	t.Cleanup(h.server.Close)
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, fmt.Sprintf("no review: %v", err), http.StatusBadRequest)
		return
	}
	request := review.Request
	resource := request.Resource.Group + "/" + request.Resource.Version + " " + request.Resource.Resource
	if request.SubResource != "" {
		resource += "/" + request.SubResource
	}
	h.mu.Lock()
	h.calls = append(h.calls, fmt.Sprintf("%s %s %s", r.URL.Path, request.Operation, resource))
	h.mu.Unlock()

	review.Request, review.Response = nil, &admissionv1.AdmissionResponse{UID: request.UID, Allowed: true}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

// take returns the calls since it was last asked. The API server answers a
// request after its calls, so there is nothing to wait for.
func (h *hook) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	calls := h.calls
	h.calls = nil
	return calls
}

// caBundle is what the process would write into its configurations.
func (h *hook) caBundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.server.Certificate().Raw})
}

// reviewed is the calls that one reviewed request costs.
func reviewed(what string) []string {
	if what == "" {
		return nil
	}
	return []string{"/mutate " + what, "/validate " + what}
}

// as returns a client that may do everything, under a user's name.
func as(t *testing.T, user string) client.Client {
	t.Helper()
	return clientFor(t, rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters", "system:authenticated"}})
}

// asServiceAccount returns a client that may do what the chart lets the process do.
func asServiceAccount(t *testing.T) client.Client {
	t.Helper()
	return clientFor(t, rest.ImpersonationConfig{UserName: ownServiceAccount, Groups: []string{"system:authenticated"}})
}

func clientFor(t *testing.T, impersonate rest.ImpersonationConfig) client.Client {
	t.Helper()
	config := plane.Config()
	config.Impersonate = impersonate
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newNamespace(t *testing.T, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "team-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// helmUpgrade installs or upgrades the release so that h is called.
func (h *hook) helmUpgrade(t *testing.T, v values, flags ...string) {
	t.Helper()
	args := []string{
		"upgrade", release, chart, "--install", "--namespace", namespace, "--create-namespace",
		"--values", valuesFile(t, v), "--set", "webhook.url=" + h.server.URL,
	}
	if _, err := runHelm(t, append(args, flags...)...); err != nil {
		t.Fatal(err)
	}
}

// install has h called by a release with the values, until the test ends.
func (h *hook) install(t *testing.T, v values, flags ...string) {
	t.Helper()
	t.Cleanup(func() {
		// t's own context has ended.
		command := cluster.Command{Program: helm, Args: []string{"uninstall", release, "--namespace", namespace, "--ignore-not-found"}}
		if _, _, err := plane.Run(context.Background(), command); err != nil {
			t.Error(err)
		}
		h.await(t, false)
	})
	h.helmUpgrade(t, v, flags...)
	writeCABundle(t, h.caBundle())
	h.await(t, true)
}

// writeCABundle does what the process does, with the process's rights.
func writeCABundle(t *testing.T, bundle []byte) {
	t.Helper()
	c := asServiceAccount(t)
	for _, configuration := range []client.Object{&admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}} {
		configuration.SetName(release)
		var operations []map[string]any
		for i := range 3 {
			operations = append(operations, map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": bundle})
		}
		patch, err := json.Marshal(operations)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Patch(t.Context(), configuration, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner("kdp-webhook")); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits until the API server has seen that h is, or is no longer, to be called.
func (h *hook) await(t *testing.T, called bool) {
	t.Helper()
	c := as(t, person)
	var last error
	err := wait.PollUntilContextTimeout(context.Background(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		h.take()
		// The Deployments' webhook fails where it is not yet trusted, so errors are expected.
		probe := dataPlane("probe")
		probe.Namespace = metav1.NamespaceDefault
		if last = c.Create(ctx, probe, client.DryRunAll); last != nil {
			return false, nil
		}
		calls := h.take()
		return called == slices.Equal(calls, reviewed("CREATE apps/v1 deployments")) && called == (len(calls) > 0), nil
	})
	if err != nil {
		t.Fatalf("wait for the webhook configurations (called: %t): %v; last: %v", called, err, last)
	}
}

func lines(calls []string) string { return strings.Join(calls, "\n") }
