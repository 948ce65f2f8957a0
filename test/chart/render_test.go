//go:build unix

package chart_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

const (
	chart     = "../../charts/kdp-webhook"
	release   = "kdp-webhook"
	namespace = "kdp-system"
)

// values is what a user would write into a values file.
type values map[string]any

// valuesFile writes v where helm can read it: as JSON, with escapes for what a
// YAML file must not hold.
func valuesFile(t *testing.T, v values) string {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var escaped strings.Builder
	for _, r := range string(content) {
		if r < 0x7f {
			escaped.WriteRune(r)
		} else {
			fmt.Fprintf(&escaped, `\U%08x`, r)
		}
	}
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(escaped.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runHelm returns helm's standard output, or an error with what it said.
func runHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	stdout, _, err := plane.Run(t.Context(), cluster.Command{Program: helm, Args: args})
	return stdout, err
}

func template(t *testing.T, v values) string {
	t.Helper()
	out, err := runHelm(t, "template", release, chart, "--namespace", namespace, "--values", valuesFile(t, v))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	var all []*unstructured.Unstructured
	for {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(u); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) > 0 {
			all = append(all, u)
		}
	}
}

// find returns the only object of T's kind among all, nil when there is none.
func find[T any](t *testing.T, all []*unstructured.Unstructured, kind string) *T {
	t.Helper()
	var found *T
	for _, u := range all {
		if u.GetKind() != kind {
			continue
		}
		if found != nil {
			t.Fatalf("more than one %s", kind)
		}
		found = new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, found, true); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	return found
}

func TestTwoRendersAreByteEqual(t *testing.T) {
	v := values{"dataPlanes": nastyDataPlanes}
	if diff := cmp.Diff(template(t, v), template(t, v)); diff != "" {
		t.Error(diff)
	}
}

func TestConfigIsWhatTheChartRenders(t *testing.T) {
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "../../hack/manifests.sh", out)
	cmd.Env = append(os.Environ(), "HELM="+helm)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	want, err := os.ReadFile(filepath.Join(out, "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../config/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("config/ is not what the chart renders (run make manifests):\n%s", cmp.Diff(string(want), string(got)))
	}
}

func TestBothConfigurationsDifferInPathAndReinvocationAlone(t *testing.T) {
	all := objects(t, template(t, nil))
	mutating := find[admissionregistrationv1.MutatingWebhookConfiguration](t, all, "MutatingWebhookConfiguration")
	validating := find[admissionregistrationv1.ValidatingWebhookConfiguration](t, all, "ValidatingWebhookConfiguration")
	var got []admissionregistrationv1.ValidatingWebhook
	for _, w := range mutating.Webhooks {
		if *w.ReinvocationPolicy != admissionregistrationv1.IfNeededReinvocationPolicy || *w.ClientConfig.Service.Path != "/mutate" {
			t.Errorf("%s: reinvocationPolicy %s, path %s", w.Name, *w.ReinvocationPolicy, *w.ClientConfig.Service.Path)
		}
		service := *w.ClientConfig.Service
		service.Path = new("/validate")
		got = append(got, admissionregistrationv1.ValidatingWebhook{
			Name: w.Name, ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &service}, Rules: w.Rules,
			FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy, NamespaceSelector: w.NamespaceSelector,
			ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
			AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		})
	}
	if diff := cmp.Diff(validating.Webhooks, got); diff != "" {
		t.Error(diff)
	}
}

// failurePolicies is what is at stake when the webhook is down, by webhook.
func failurePolicies(t *testing.T, v values) map[string]string {
	t.Helper()
	configuration := find[admissionregistrationv1.ValidatingWebhookConfiguration](t, objects(t, template(t, v)), "ValidatingWebhookConfiguration")
	got := map[string]string{}
	for _, w := range configuration.Webhooks {
		got[w.Name] = string(*w.FailurePolicy)
	}
	return got
}

func TestFailurePolicyIsAboutDeploymentsAlone(t *testing.T) {
	want := map[string]string{
		"deployments.kdp-webhook.io": "Fail", "horizontalpodautoscalers.kdp-webhook.io": "Ignore", "scales.kdp-webhook.io": "Ignore",
	}
	if diff := cmp.Diff(want, failurePolicies(t, nil)); diff != "" {
		t.Error(diff)
	}
	want["deployments.kdp-webhook.io"] = "Ignore"
	if diff := cmp.Diff(want, failurePolicies(t, values{"failurePolicy": "Ignore"})); diff != "" {
		t.Error(diff)
	}
}

func TestReleaseNamespaceIsExcludedOnce(t *testing.T) {
	v := values{"excludedNamespaces": []string{namespace, "build"}}
	configuration := find[admissionregistrationv1.ValidatingWebhookConfiguration](t, objects(t, template(t, v)), "ValidatingWebhookConfiguration")
	for _, w := range configuration.Webhooks {
		if diff := cmp.Diff([]string{namespace, "build"}, w.NamespaceSelector.MatchExpressions[0].Values); diff != "" {
			t.Errorf("%s: %s", w.Name, diff)
		}
	}
}

func TestURLTakesThePlaceOfDeploymentAndService(t *testing.T) {
	all := objects(t, template(t, values{"webhook": values{"url": "https://localhost:9443/base/"}}))
	if find[appsv1.Deployment](t, all, "Deployment") != nil || find[corev1.Service](t, all, "Service") != nil {
		t.Error("a Deployment or a Service is rendered")
	}
	if find[corev1.ServiceAccount](t, all, "ServiceAccount") == nil {
		t.Error("no ServiceAccount is rendered")
	}
	configuration := find[admissionregistrationv1.MutatingWebhookConfiguration](t, all, "MutatingWebhookConfiguration")
	for _, w := range configuration.Webhooks {
		want := admissionregistrationv1.WebhookClientConfig{URL: new("https://localhost:9443/base/mutate")}
		if diff := cmp.Diff(want, w.ClientConfig); diff != "" {
			t.Errorf("%s: %s", w.Name, diff)
		}
	}
}

// The process must be given the very strings that the matchConditions were made from.
func TestDataPlanesReachTheProcessAsTheyWereWritten(t *testing.T) {
	all := objects(t, template(t, values{"dataPlanes": nastyDataPlanes}))
	deployment := find[appsv1.Deployment](t, all, "Deployment")
	var got []any
	for _, arg := range deployment.Spec.Template.Spec.Containers[0].Args {
		list, ok := strings.CutPrefix(arg, "--data-planes=")
		if !ok {
			continue
		}
		// What the kubelet makes of it, as long as every $ is doubled.
		if strings.Contains(strings.ReplaceAll(list, "$$", ""), "$") {
			t.Errorf("a single $ in %s", list)
		}
		if err := json.Unmarshal([]byte(strings.ReplaceAll(list, "$$", "$")), &got); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(nastyDataPlanes, got); diff != "" {
		t.Error(diff)
	}
}

func TestPolicyBecomesTheLabelledConfigMap(t *testing.T) {
	if find[corev1.ConfigMap](t, objects(t, template(t, nil)), "ConfigMap") != nil {
		t.Error("the empty default renders a ConfigMap")
	}
	policy := values{"apiVersion": "kdp-webhook.io/v1alpha1", "kind": "DataPlanePolicy", "mode": "Warn"}
	got := find[corev1.ConfigMap](t, objects(t, template(t, values{"policy": policy})), "ConfigMap")
	if got.Name != "kdp-webhook-policy" || got.Namespace != namespace || got.Labels["kdp-webhook.io/policy"] != "true" {
		t.Errorf("metadata: %v", got.ObjectMeta)
	}
	want := map[string]string{"policy.yaml": "apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\nmode: Warn\n"}
	if diff := cmp.Diff(want, got.Data); diff != "" {
		t.Error(diff)
	}
}

func TestBadValuesAreRefusedByName(t *testing.T) {
	entry := func(e values) values { return values{"dataPlanes": []any{e}} }
	expression := func(e values) values { return entry(values{"labels": values{"matchExpressions": []any{e}}}) }
	for name, c := range map[string]struct {
		values values
		want   string
	}{
		"no data planes":             {values{"dataPlanes": []any{}}, "dataPlanes: at least one entry is required"},
		"an entry no map":            {values{"dataPlanes": []any{"kong"}}, "dataPlanes[0]: must be a map with one of env, labels and image, got kong"},
		"an unknown entry":           {entry(values{"annotations": values{}}), "dataPlanes[0]: must have exactly one of env, labels and image, got annotations"},
		"two kinds in one entry":     {entry(values{"image": "a", "env": values{}}), "dataPlanes[0]: must have exactly one of env, labels and image, got env, image"},
		"env without a value":        {entry(values{"env": values{"name": "A"}}), "dataPlanes[0].env: name and value are required"},
		"env empty":                  {entry(values{"env": values{}}), "dataPlanes[0].env: name and value are required"},
		"a numeric env value":        {entry(values{"env": values{"name": "A", "value": 7}}), "dataPlanes[0].env.value: must be a string, got 7"},
		"an empty image glob":        {entry(values{"image": ""}), `dataPlanes[0].image: must hold more than wildcards, got ""`},
		"an image glob of wildcards": {entry(values{"image": "*?"}), `dataPlanes[0].image: must hold more than wildcards, got "*?"`},
		"an image glob no string":    {entry(values{"image": []string{"a"}}), "dataPlanes[0].image: must be a string, got [a]"},
		"an empty selector":          {entry(values{"labels": values{}}), "dataPlanes[0].labels: an empty selector would make every Deployment a data plane"},
		"a boolean label value":      {entry(values{"labels": values{"matchLabels": values{"a": true}}}), "dataPlanes[0].labels.matchLabels[a]: must be a string, got true"},
		"an unknown operator":        {expression(values{"key": "a", "operator": "Gt", "values": []string{"1"}}), "dataPlanes[0].labels.matchExpressions[0].operator: must be In, NotIn, Exists or DoesNotExist, got Gt"},
		"In without values":          {expression(values{"key": "a", "operator": "In"}), "dataPlanes[0].labels.matchExpressions[0].values: required for operator In"},
		"Exists with values":         {expression(values{"key": "a", "operator": "Exists", "values": []string{"b"}}), "dataPlanes[0].labels.matchExpressions[0].values: must be empty for operator Exists"},
		"a timeout of 6 seconds":     {values{"timeoutSeconds": 6}, "timeoutSeconds: must be 1 to 5, got 6"},
		"an odd failurePolicy":       {values{"failurePolicy": "Open"}, "failurePolicy: must be Fail or Ignore, got Open"},
		"an autoscaler no string":    {values{"autoscalers": []any{1}}, "autoscalers[0]: must be a string, got 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := runHelm(t, "template", release, chart, "--namespace", namespace, "--values", valuesFile(t, c.values))
			if err == nil || !strings.Contains(err.Error(), "): "+c.want+"\n") {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}
