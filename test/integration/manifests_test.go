//go:build unix

package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

// What becomes of a data plane that brings no resources, and of an HPA at the server default: each a path of the stored
// object, compared with what the API server stores without the webhook.
func injectedInto(container int) []string {
	at := fmt.Sprintf("spec.template.spec.containers[%d].resources", container)
	return []string{
		`metadata.annotations[kdp-webhook.io/injected]: nothing → "{\"proxy\":{\"limits\":{\"cpu\":\"1200m\",\"memory\":\"800Mi\"},\"requests\":{\"cpu\":\"300m\",\"memory\":\"300Mi\"}}}"`,
		at + `.limits.cpu: nothing → "1200m"`,
		at + `.limits.memory: nothing → "800Mi"`,
		at + `.requests.cpu: nothing → "300m"`,
		at + `.requests.memory: nothing → "300Mi"`,
	}
}

var lowered = []string{"spec.metrics[0].resource.target.averageUtilization: 80 → 75"}

func TestRenderedManifestsAreStoredAsTheyAreButForWhatTheyLeaveOut(t *testing.T) {
	folder := harness.Manifests()
	if folder == "" {
		folder = filepath.Join("testdata", "manifests")
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(files) == 0 || len(files) > len(excluded) {
		t.Fatalf("%d manifests in %s: %v", len(files), folder, err)
	}
	seen := map[string]int{}
	for i, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			_, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: excluded[i]}}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			for what, n := range compareStored(t, file, excluded[i], newNamespace(t, nil)) {
				seen[what] += n
			}
		})
	}
	// Nothing is shown by a folder without the interesting cases.
	for _, what := range []string{"injected", "left alone", "lowered", "asks for 75", "control plane"} {
		if seen[what] == 0 {
			t.Errorf("%s holds no manifest that is %s", folder, what)
		}
	}
	if harness.Manifests() != "" {
		want := map[string]int{"Job": 3, "Service": 6, "ServiceAccount": 4, "ConfigMap": 1, "injected": 2, "left alone": 2, "lowered": 2, "asks for 75": 1, "control plane": 1}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("what became of the Kong manifests (-want +got):\n%s", diff)
		}
	}
}

// compareStored applies each document without and with the webhook and returns how many of each kind there were.
func compareStored(t *testing.T, file, without, with string) map[string]int {
	t.Helper()
	c, err := client.New(plane.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, o := range documents(t, file) {
		plain, reviewed := o.DeepCopy(), o.DeepCopy()
		plain.SetNamespace(without)
		reviewed.SetNamespace(with)
		before := callsSoFar(t)
		if err := c.Create(t.Context(), plain); err != nil {
			t.Fatalf("%s: %v", o.GetKind(), err)
		}
		if got := callsSoFar(t).minus(before); got != (calls{}) {
			t.Errorf("%s in an excluded namespace: %+v", o.GetKind(), got)
		}
		mark := auditMark(t)
		if err := c.Create(t.Context(), reviewed); err != nil {
			t.Fatalf("%s: %v", o.GetKind(), err)
		}
		called := callsSoFar(t).minus(before)
		got := difference(flatten(t, fetched(t.Context(), t, c, plain)), flatten(t, fetched(t.Context(), t, c, reviewed)))
		what, want, wantCalls, wantPatches := expected(o)
		seen[what]++
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (%s): what the webhook changed (-want +got):\n%s", o.GetKind(), o.GetName(), what, diff)
		}
		if diff := cmp.Diff(wantCalls, called); diff != "" {
			t.Errorf("%s %s (%s): calls (-want +got):\n%s", o.GetKind(), o.GetName(), what, diff)
		}
		for _, e := range auditSince(t, mark, with) {
			if n := len(e.patches(t)); n != wantPatches {
				t.Errorf("%s %s (%s): %d patches instead of %d: %q", o.GetKind(), o.GetName(), what, n, wantPatches, e.patches(t))
			}
		}
	}
	return seen
}

// expected says what the webhook should do about a document.
func expected(o *unstructured.Unstructured) (what string, changed []string, called calls, patches int) {
	once := calls{Mutating: 1, Validating: 1}
	switch o.GetKind() {
	case "Deployment":
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		proxy := slices.IndexFunc(containers, func(c any) bool { return c.(map[string]any)["name"] == "proxy" })
		env, _, _ := unstructured.NestedSlice(containers[proxy].(map[string]any), "env")
		if !slices.ContainsFunc(env, func(e any) bool {
			return e.(map[string]any)["name"] == "KONG_ROLE" && e.(map[string]any)["value"] == "data_plane"
		}) {
			return "control plane", nil, calls{}, 0
		}
		if resources, _, _ := unstructured.NestedMap(containers[proxy].(map[string]any), "resources"); len(resources) > 0 {
			return "left alone", nil, once, 0
		}
		changed = injectedInto(proxy)
		// The API server's encoding has no trace of an empty resources: nothing was there, and something is now.
		changed = append(changed, fmt.Sprintf("spec.template.spec.containers[%d].resources: {} → nothing", proxy))
		slices.Sort(changed)
		return "injected", changed, once, 1
	case "HorizontalPodAutoscaler":
		if v, ok, _ := unstructured.NestedInt64(o.Object, "spec", "targetCPUUtilizationPercentage"); ok && v == 80 {
			return "lowered", lowered, once, 1
		}
		metrics, _, _ := unstructured.NestedSlice(o.Object, "spec", "metrics")
		if v, _, _ := unstructured.NestedInt64(metrics[0].(map[string]any), "resource", "target", "averageUtilization"); v == 80 {
			return "lowered", lowered, once, 1
		}
		return "asks for 75", nil, once, 0
	default:
		return o.GetKind(), nil, calls{}, 0
	}
}

// fetched reads an object as it is stored, HPAs as autoscaling/v2.
func fetched(ctx context.Context, t *testing.T, c client.Client, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(o.GroupVersionKind())
	if o.GetKind() == "HorizontalPodAutoscaler" {
		out.SetAPIVersion("autoscaling/v2")
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(o), out); err != nil {
		t.Fatal(err)
	}
	// The API server gives these out: no two Services and Jobs have the same.
	for _, field := range [][]string{
		{"spec", "clusterIP"},
		{"spec", "clusterIPs"},
		{"spec", "healthCheckNodePort"},
		{"spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"},
	} {
		unstructured.RemoveNestedField(out.Object, field...)
	}
	for _, at := range [][]string{{"metadata", "labels"}, {"spec", "template", "metadata", "labels"}} {
		for _, label := range []string{"controller-uid", "batch.kubernetes.io/controller-uid"} {
			unstructured.RemoveNestedField(out.Object, append(slices.Clone(at), label)...)
		}
	}
	if ports, ok, _ := unstructured.NestedSlice(out.Object, "spec", "ports"); ok {
		for _, p := range ports {
			delete(p.(map[string]any), "nodePort")
		}
		if err := unstructured.SetNestedSlice(out.Object, ports, "spec", "ports"); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// documents reads the objects of a file; empty documents are none.
func documents(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var all []*unstructured.Unstructured
	reader := yaml.NewYAMLReader(bufio.NewReader(f))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := yaml.Unmarshal(doc, &tree); err != nil {
			t.Fatal(err)
		}
		// A document may be empty, or what helm has to say.
		if object, ok := tree.(map[string]any); ok {
			all = append(all, &unstructured.Unstructured{Object: object})
		}
	}
}
