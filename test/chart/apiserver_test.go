//go:build unix

package chart_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestAPIServerTakesEveryVariant(t *testing.T) {
	many := func(n int, entry func(i int) map[string]any) (all []any) {
		for i := range n {
			all = append(all, entry(i))
		}
		return all
	}
	long := strings.Repeat("x", 253)
	c := as(t, person)
	createNamespace(t, c, namespace)
	for name, v := range map[string]values{
		"defaults":        nil,
		"nasty strings":   {"dataPlanes": nastyDataPlanes},
		"every kind":      {"dataPlanes": everyKindOfDataPlane},
		"process outside": {"webhook": values{"url": "https://localhost:9443"}},
		"no autoscalers":  {"autoscalers": []string{}},
		"nothing excluded besides the release's namespace": {"excludedNamespaces": []string{}},
		"failurePolicy Ignore":                             {"failurePolicy": "Ignore", "timeoutSeconds": 1},
		"a policy":                                         {"policy": values{"apiVersion": "kdp-webhook.io/v1alpha1", "kind": "DataPlanePolicy"}},
		"one replica of another image":                     {"replicas": 1, "image": values{"repository": "mirror/kdp", "tag": "2"}, "resources": values{}},
		"100 environment entries": {"dataPlanes": many(100, func(i int) map[string]any {
			return map[string]any{"env": map[string]any{"name": fmt.Sprintf("%s%d", long, i), "value": long}}
		})},
		"100 globs": {"dataPlanes": many(100, func(i int) map[string]any {
			return map[string]any{"image": fmt.Sprintf("*%d*/*?%s:*", i, long)}
		})},
		"100 selectors": {"dataPlanes": many(100, func(i int) map[string]any {
			return map[string]any{"labels": map[string]any{"matchLabels": map[string]any{fmt.Sprintf("example.com/%d", i): "a", "b": "c"}}}
		})},
	} {
		t.Run(name, func(t *testing.T) {
			for _, o := range objects(t, template(t, v)) {
				err := c.Create(t.Context(), o, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
				if err != nil {
					t.Errorf("%s: %v", o.GetKind(), err)
				}
			}
		})
	}
}

// With config/ applied and no process running, only data planes' Deployments wait for one.
func TestNothingElseIsAtStakeWhileTheWebhookIsDown(t *testing.T) {
	const install = "../../config/install.yaml"
	c := as(t, person)
	ns := newNamespace(t, c)
	team := client.NewNamespacedClient(c, ns)
	for _, d := range []*appsv1.Deployment{dataPlane("gateway"), dataPlane("doomed"), deployment("plain")} {
		if err := team.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		// Not the Namespace: without controllers it would stay in deletion for ever.
		if _, _, err := plane.Kubectl(context.Background(), "delete", "-f", install, "--ignore-not-found",
			"--selector=app.kubernetes.io/name=kdp-webhook"); err != nil {
			t.Error(err)
		}
		awaitDataPlanes(t, c, true)
	})
	for _, file := range []string{install, "../../config/samples/"} {
		if _, _, err := plane.Kubectl(t.Context(), "apply", "-f", file); err != nil {
			t.Fatal(err)
		}
	}
	awaitDataPlanes(t, c, false)

	for name, do := range map[string]action{
		"create a plain Deployment": create(deployment("other")),
		"change a plain Deployment": update(deployment("plain"), func(d *appsv1.Deployment) { d.Spec.Paused = true }),
		"create an HPA":             create(hpa("apps/v1", "Deployment")),
		"scale":                     scale(deployment("gateway"), 7),
		"delete a data plane":       remove(dataPlane("doomed")),
	} {
		t.Run(name, func(t *testing.T) {
			if err := do(t.Context(), team); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("apply config/ again", func(t *testing.T) {
		bundle := newHook(t).caBundle()
		writeCABundle(t, bundle)
		if _, _, err := plane.Kubectl(t.Context(), "apply", "-f", install); err != nil {
			t.Fatal(err)
		}
		expectCABundle(t, 5, bundle)
	})
	t.Run("note a revision", func(t *testing.T) {
		controller := client.NewNamespacedClient(as(t, "system:serviceaccount:kube-system:deployment-controller"), ns)
		if err := annotate(deployment("gateway"))(t.Context(), controller); err != nil {
			t.Error(err)
		}
	})
}

// awaitDataPlanes waits until Deployments that are data planes are admitted, or refused for want of a webhook.
func awaitDataPlanes(t *testing.T, c client.Client, admitted bool) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(context.Background(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		d := dataPlane("probe")
		d.Namespace = metav1.NamespaceDefault
		last = c.Create(ctx, d, client.DryRunAll)
		return admitted == (last == nil) && (admitted || apierrors.IsInternalError(last)), nil
	})
	if err != nil {
		t.Fatalf("wait for data planes (admitted: %t): %v; last: %v", admitted, err, last)
	}
}

func TestUpgradesKeepTheCABundle(t *testing.T) {
	for name, flags := range map[string][]string{
		"server-side apply": {"--server-side=true"},
		"forced":            {"--server-side=true", "--force-conflicts"},
		"three-way merge":   {"--server-side=false"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHook(t)
			h.install(t, nil, flags[0])
			h.helmUpgrade(t, values{"timeoutSeconds": 4, "dataPlanes": everyKindOfDataPlane}, flags...)
			expectCABundle(t, 4, h.caBundle())
		})
	}
}

// expectCABundle looks at every webhook of both configurations.
func expectCABundle(t *testing.T, timeout int32, bundle []byte) {
	t.Helper()
	c := as(t, person)
	mutating, validating := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	for _, o := range []client.Object{mutating, validating} {
		if err := c.Get(t.Context(), client.ObjectKey{Name: release}, o); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name string, got int32, config admissionregistrationv1.WebhookClientConfig) {
		if got != timeout || !bytes.Equal(config.CABundle, bundle) {
			t.Errorf("%s: timeout %d, CA bundle:\n%s", name, got, config.CABundle)
		}
	}
	for _, w := range mutating.Webhooks {
		check(w.Name, *w.TimeoutSeconds, w.ClientConfig)
	}
	for _, w := range validating.Webhooks {
		check(w.Name, *w.TimeoutSeconds, w.ClientConfig)
	}
}

func createNamespace(t *testing.T, c client.Client, name string) {
	t.Helper()
	err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// What the chart deploys must start in a namespace as strict as config/ makes its own.
func TestPodsPassTheRestrictedStandard(t *testing.T) {
	c := as(t, person)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "restricted-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	d := find[appsv1.Deployment](t, objects(t, template(t, nil)), "Deployment")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "webhook", Namespace: ns.Name}, Spec: d.Spec.Template.Spec}
	if err := c.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Error(err)
	}
	pod.Spec.SecurityContext = nil
	if err := c.Create(t.Context(), pod, client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Errorf("nothing checks pods here: %v", err)
	}
}

func TestServiceAccountMayDoWhatTheProcessDoesAndNoMore(t *testing.T) {
	h := newHook(t)
	h.install(t, nil)
	config := plane.Config()
	config.Impersonate = rest.ImpersonationConfig{UserName: ownServiceAccount, Groups: []string{"system:authenticated"}}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}

	// SelfSubjectRulesReview has both roles merged, and what every user may.
	review, err := c.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, rule := range review.Status.ResourceRules {
		for _, group := range rule.APIGroups {
			if strings.HasPrefix(group, "auth") { // reviews of oneself
				continue
			}
			for _, resource := range rule.Resources {
				key := strings.TrimSpace(strings.TrimPrefix(group+"/"+resource, "/") + " " + strings.Join(rule.ResourceNames, " "))
				got[key] = strings.TrimSpace(got[key] + " " + strings.Join(rule.Verbs, " "))
			}
		}
	}
	want := map[string]string{
		"apps/deployments":                     "get list watch",
		"autoscaling/horizontalpodautoscalers": "get list watch",
		"namespaces":                           "get list watch",
		"limitranges":                          "get list watch",
		"configmaps":                           "get list watch",
		"secrets":                              "create",
		"secrets kdp-webhook-ca":               "get list watch update",
		"events.k8s.io/events":                 "create patch update",
		"admissionregistration.k8s.io/mutatingwebhookconfigurations kdp-webhook":   "get list watch patch",
		"admissionregistration.k8s.io/validatingwebhookconfigurations kdp-webhook": "get list watch patch",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rights (-want +got):\n%s", diff)
	}

	// What rests on resourceNames is asked for by name.
	named := metav1.ListOptions{FieldSelector: "metadata.name=" + release}
	secret := metav1.ListOptions{FieldSelector: "metadata.name=" + release + "-ca"}
	configurations := c.AdmissionregistrationV1()
	for name, request := range map[string]struct {
		do      func(o metav1.ListOptions) error
		options metav1.ListOptions
	}{
		"list mutating configurations": {func(o metav1.ListOptions) error {
			_, err := configurations.MutatingWebhookConfigurations().List(t.Context(), o)
			return err
		}, named},
		"watch mutating configurations": {func(o metav1.ListOptions) error {
			w, err := configurations.MutatingWebhookConfigurations().Watch(t.Context(), o)
			if err == nil {
				w.Stop()
			}
			return err
		}, named},
		"list secrets": {func(o metav1.ListOptions) error {
			_, err := c.CoreV1().Secrets(namespace).List(t.Context(), o)
			return err
		}, secret},
		"watch secrets": {func(o metav1.ListOptions) error {
			w, err := c.CoreV1().Secrets(namespace).Watch(t.Context(), o)
			if err == nil {
				w.Stop()
			}
			return err
		}, secret},
	} {
		t.Run(name, func(t *testing.T) {
			if err := request.do(request.options); err != nil {
				t.Errorf("by name: %v", err)
			}
			if err := request.do(metav1.ListOptions{}); !apierrors.IsForbidden(err) {
				t.Errorf("all: got %v, want Forbidden", err)
			}
		})
	}
}
