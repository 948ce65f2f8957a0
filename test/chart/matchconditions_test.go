//go:build unix

package chart_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// action is a request as its sender makes it.
type action func(ctx context.Context, c client.Client) error

func create(o client.Object, options ...client.CreateOption) action {
	return func(ctx context.Context, c client.Client) error { return c.Create(ctx, o, options...) }
}

func update[T client.Object](o T, change func(T)) action {
	return func(ctx context.Context, c client.Client) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return c.Update(ctx, o)
	}
}

func updateStatus[T client.Object](o T, change func(T)) action {
	return func(ctx context.Context, c client.Client) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return c.Status().Update(ctx, o)
	}
}

func patch(o client.Object, kind types.PatchType, data string, options ...client.PatchOption) action {
	return func(ctx context.Context, c client.Client) error {
		return c.Patch(ctx, o, client.RawPatch(kind, []byte(data)), options...)
	}
}

func remove(o client.Object) action {
	return func(ctx context.Context, c client.Client) error { return c.Delete(ctx, o) }
}

func scale(o client.Object, replicas int32) action {
	return func(ctx context.Context, c client.Client) error {
		o, body := o.DeepCopyObject().(client.Object), &autoscalingv1.Scale{}
		if err := c.SubResource("scale").Get(ctx, o, body); err != nil {
			return err
		}
		body.Spec.Replicas = replicas
		return c.SubResource("scale").Update(ctx, o, client.WithSubResourceBody(body))
	}
}

func patchScale(o client.Object, data string) action {
	return func(ctx context.Context, c client.Client) error {
		o := o.DeepCopyObject().(client.Object)
		options := &client.SubResourcePatchOptions{SubResourceBody: &autoscalingv1.Scale{}}
		return c.SubResource("scale").Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(data)), options)
	}
}

// manifest is a data plane as `kubectl apply --server-side` sends it.
const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway}}
    spec: {containers: [{name: proxy, image: "example/proxy:1", env: [{name: KONG_ROLE, value: data_plane}]}]}
`

func annotate(o client.Object) action {
	return patch(o, types.MergePatchType, `{"metadata":{"annotations":{"note":"x"}}}`)
}

func TestWhichRequestsCostACall(t *testing.T) {
	const (
		created      = "CREATE apps/v1 deployments"
		updated      = "UPDATE apps/v1 deployments"
		hpaCreated   = "CREATE autoscaling/v2 horizontalpodautoscalers"
		hpaUpdated   = "UPDATE autoscaling/v2 horizontalpodautoscalers"
		scaled       = "UPDATE apps/v1 deployments/scale"
		free         = ""
		controller   = "system:serviceaccount:kube-system:deployment-controller"
		collector    = "system:serviceaccount:kube-system:generic-garbage-collector"
		manager      = "system:kube-controller-manager"
		hpaControl   = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
		otherAccount = "system:serviceaccount:team:" + release
	)
	fromSecret := envVar(corev1.EnvVar{Name: "KONG_ROLE", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "kong"}, Key: "role"},
	}})
	dropEnv := func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Env = nil }
	addEnv := env("KONG_ROLE", "data_plane")
	newReplicas := func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(5)) }
	newQuantity := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Volumes[0].EmptyDir.SizeLimit.SetMilli(1)
	}
	huge := func(d *appsv1.Deployment) {
		c := &d.Spec.Template.Spec.Containers[0]
		for i := range 5000 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: "an ordinary value"})
		}
	}
	own := deployment("gateway") // for requests that name an object only

	h := newHook(t)
	h.install(t, nil)
	admin := as(t, person)

	for _, c := range []struct {
		name      string
		user      string // empty: a person
		namespace string // empty: a new one
		before    client.Object
		do        action
		cost      string
	}{
		{name: "Deployment: plain", do: create(deployment("gateway")), cost: free},
		{name: "Deployment: control plane", do: create(deployment("gateway", env("KONG_ROLE", "control_plane"))), cost: free},
		{name: "Deployment: the variable without a value", do: create(deployment("gateway", env("KONG_ROLE", ""))), cost: free},
		{name: "Deployment: the value under another name", do: create(deployment("gateway", env("ROLE", "data_plane"))), cost: free},
		{name: "Deployment: the value with more around it", do: create(deployment("gateway", env("KONG_ROLE", "data_plane2"))), cost: free},
		{name: "Deployment: another variable from a secret", do: create(deployment("gateway", func(d *appsv1.Deployment) {
			fromSecret(d)
			d.Spec.Template.Spec.Containers[0].Env[0].Name = "KONG_PASSWORD"
		})), cost: free},
		{name: "Deployment: 5,000 variables", do: create(deployment("gateway", huge)), cost: free},
		{name: "Deployment: data plane", do: create(dataPlane("gateway")), cost: created},
		{name: "Deployment: data plane, dry run", do: create(dataPlane("gateway"), client.DryRunAll), cost: created},
		{name: "Deployment: data plane after 5,000 other variables", do: create(deployment("gateway", huge, addEnv)), cost: created},
		{name: "Deployment: data plane by valueFrom", do: create(deployment("gateway", fromSecret)), cost: created},
		{name: "Deployment: data plane by $(VAR)", do: create(deployment("gateway", env("R", "data_plane"), env("KONG_ROLE", "$(R)"))), cost: created},
		{name: "Deployment: data plane by part of a $(VAR)", do: create(deployment("gateway", env("R", "plane"), env("KONG_ROLE", "data_$(R)"))), cost: created},
		{name: "Deployment: data plane by its init container alone", do: create(deployment("gateway", initEnv("KONG_ROLE", "data_plane"))), cost: created},
		{name: "Deployment: data plane without init containers", do: create(dataPlane("gateway", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.InitContainers = nil
		})), cost: created},
		{name: "Deployment: data plane by its second container", do: create(dataPlane("gateway", func(d *appsv1.Deployment) {
			pod := &d.Spec.Template.Spec
			pod.Containers = append([]corev1.Container{{Name: "sidecar", Image: "example/sidecar:1"}}, pod.Containers...)
		})), cost: created},
		{name: "Deployment: server-side apply", do: patch(own.DeepCopy(), types.ApplyPatchType, manifest, client.FieldOwner("kubectl")), cost: created},
		{name: "Deployment: becomes a data plane", before: deployment("gateway"), do: update(own.DeepCopy(), addEnv), cost: updated},
		{name: "Deployment: the variable is taken away in the write", before: dataPlane("gateway"), do: update(own.DeepCopy(), dropEnv), cost: updated},
		{name: "Deployment: data plane is annotated by a person", before: dataPlane("gateway"), do: annotate(own.DeepCopy()), cost: updated},
		{name: "Deployment: plain one is annotated by a person", before: deployment("gateway"), do: annotate(own.DeepCopy()), cost: free},
		{name: "Deployment: data plane's status", before: dataPlane("gateway"), do: updateStatus(own.DeepCopy(), func(d *appsv1.Deployment) {
			d.Status.ObservedGeneration = 1
		}), cost: free},
		{name: "Deployment: data plane is deleted", before: dataPlane("gateway"), do: remove(own.DeepCopy()), cost: free},
		{name: "Deployment: data plane in an excluded namespace", namespace: metav1.NamespaceSystem, do: create(dataPlane("gateway")), cost: free},
		{name: "Deployment: data plane in the release's namespace", namespace: namespace, do: create(dataPlane("gateway")), cost: free},
		{name: "Deployment: data plane, by our own ServiceAccount", user: ownServiceAccount, do: create(dataPlane("gateway")), cost: free},
		{name: "Deployment: data plane, by a ServiceAccount of our name elsewhere", user: otherAccount, do: create(dataPlane("gateway")), cost: created},
		{name: "Deployment: the Deployment controller notes a revision", user: controller, before: dataPlane("gateway", elaborate), do: annotate(own.DeepCopy()), cost: free},
		{name: "Deployment: the Deployment controller changes the spec", user: controller, before: dataPlane("gateway", elaborate), do: update(own.DeepCopy(), newReplicas), cost: updated},
		{name: "Deployment: the Deployment controller changes a quantity", user: controller, before: dataPlane("gateway", elaborate), do: update(own.DeepCopy(), newQuantity), cost: updated},
		{name: "Deployment: the Deployment controller creates", user: controller, do: create(dataPlane("gateway")), cost: created},
		{name: "Deployment: the garbage collector drops an owner", user: collector, before: dataPlane("gateway", func(d *appsv1.Deployment) {
			d.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "1"}}
		}), do: patch(own.DeepCopy(), types.MergePatchType, `{"metadata":{"ownerReferences":null}}`), cost: free},
		{name: "Deployment: the controller manager notes a revision", user: manager, before: dataPlane("gateway", elaborate), do: annotate(own.DeepCopy()), cost: free},
		{name: "Deployment: the controller manager changes the spec", user: manager, before: dataPlane("gateway", elaborate), do: update(own.DeepCopy(), newReplicas), cost: updated},
		{name: "StatefulSet: Kong", do: create(statefulSet("gateway")), cost: free},

		{name: "HPA: of a Deployment", do: create(hpa("apps/v1", "Deployment")), cost: hpaCreated},
		{name: "HPA: of a Deployment, another version", do: create(hpa("apps/v1beta9", "Deployment")), cost: hpaCreated},
		{name: "HPA: of a Deployment, in v1", do: create(hpaV1("apps/v1", "Deployment")), cost: hpaCreated},
		{name: "HPA: of a Deployment, another group", do: create(hpa("apps.example.com/v1", "Deployment")), cost: free},
		{name: "HPA: of a StatefulSet", do: create(hpa("apps/v1", "StatefulSet")), cost: free},
		{name: "HPA: of a StatefulSet, in v1", do: create(hpaV1("apps/v1", "StatefulSet")), cost: free},
		{name: "HPA: turned to a Deployment", before: hpa("apps/v1", "StatefulSet"), do: update(hpa("", ""), func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Spec.ScaleTargetRef.Kind = "Deployment"
		}), cost: hpaUpdated},
		{name: "HPA: changed in v1", before: hpa("apps/v1", "Deployment"), do: update(hpaV1("", ""), func(h *autoscalingv1.HorizontalPodAutoscaler) {
			h.Spec.MaxReplicas = 4
		}), cost: hpaUpdated},
		{name: "HPA: its status", before: hpa("apps/v1", "Deployment"), do: updateStatus(hpa("", ""), func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Status.DesiredReplicas = 2
		}), cost: free},
		{name: "HPA: in an excluded namespace", namespace: metav1.NamespaceSystem, do: create(hpa("apps/v1", "Deployment")), cost: free},
		{name: "HPA: by our own ServiceAccount", user: ownServiceAccount, do: create(hpa("apps/v1", "Deployment")), cost: free},

		{name: "scale: by a person", before: dataPlane("gateway"), do: scale(own, 3), cost: scaled},
		{name: "scale: by a person, as a patch", before: dataPlane("gateway"), do: patchScale(own, `{"spec":{"replicas":3}}`), cost: scaled},
		{name: "scale: by a person, from 1 to 0", before: dataPlane("gateway", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(1)) }), do: scale(own, 0), cost: scaled},
		{name: "scale: by a person, from 0 to 1", before: dataPlane("gateway", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) }), do: scale(own, 1), cost: scaled},
		{name: "scale: by a person, to what it is", before: dataPlane("gateway"), do: scale(own, 2), cost: free},
		{name: "scale: of a plain Deployment, whose kind cannot be seen", before: deployment("gateway"), do: scale(own, 3), cost: scaled},
		{name: "scale: by the HPA controller", user: hpaControl, before: dataPlane("gateway"), do: scale(own, 3), cost: free},
		{name: "scale: by the controller manager", user: manager, before: dataPlane("gateway"), do: scale(own, 3), cost: free},
		{name: "scale: by another ServiceAccount", user: otherAccount, before: dataPlane("gateway"), do: scale(own, 3), cost: scaled},
		{name: "scale: by our own ServiceAccount", user: ownServiceAccount, before: dataPlane("gateway"), do: scale(own, 3), cost: free},
		{name: "scale: of a StatefulSet", before: statefulSet("gateway"), do: scale(statefulSet("gateway"), 3), cost: free},
		{name: "scale: in an excluded namespace", namespace: metav1.NamespaceSystem, before: dataPlane("scaled"), do: scale(deployment("scaled"), 3), cost: free},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := c.namespace
			if ns == "" {
				ns = newNamespace(t, admin)
			}
			if c.before != nil {
				if err := client.NewNamespacedClient(admin, ns).Create(t.Context(), c.before); err != nil {
					t.Fatal(err)
				}
			}
			user := c.user
			if user == "" {
				user = person
			}
			h.take()
			if err := c.do(t.Context(), client.NewNamespacedClient(as(t, user), ns)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(reviewed(c.cost), h.take()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// A pod template without containers is the API server's to refuse, in its own words.
func TestConditionsMeetObjectsThatAreNotYetValid(t *testing.T) {
	h := newHook(t)
	h.install(t, values{"dataPlanes": everyKindOfDataPlane})
	c := client.NewNamespacedClient(as(t, person), newNamespace(t, as(t, person)))
	for name, o := range map[string]client.Object{
		"no containers":       deployment("a", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = nil }),
		"no image":            deployment("b", image(""), initImage("")),
		"empty spec":          &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "c"}},
		"HPA without a group": hpa("", "Deployment"),
		"empty HPA":           &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.Create(t.Context(), o); !apierrors.IsInvalid(err) {
				t.Errorf("got %v, want 422 Invalid", err)
			}
			if calls := h.take(); calls != nil {
				t.Errorf("calls: %s", lines(calls))
			}
		})
	}
}

// Every string of a dataPlanes value must mean itself in CEL, no more and no less.
func TestStringsOfDataPlanesMeanThemselves(t *testing.T) {
	h := newHook(t)
	h.install(t, values{"dataPlanes": nastyDataPlanes})
	var environment []any // labels of such strings are for the API server to see through only
	for _, entry := range nastyDataPlanes {
		if e, ok := entry.(map[string]any)["env"]; ok && e.(map[string]any)["name"] == "ROLE" {
			environment = append(environment, entry)
		}
	}
	process := compile(t, environment)
	c := client.NewNamespacedClient(as(t, person), newNamespace(t, as(t, person)))
	for _, s := range nastyStrings {
		t.Run(fmt.Sprintf("%+q", s), func(t *testing.T) {
			for _, other := range []string{s + "x", "x" + s} {
				expectCreate(t, c, h, process, other, false, deployment("a", env("ROLE", other)))
			}
			expectCreate(t, c, h, process, s, true, deployment("a", env("ROLE", s)))
		})
	}
}

func TestImageGlobs(t *testing.T) {
	for glob, images := range map[string]struct{ match, differ []string }{
		"kong/kong-gateway:*": {
			[]string{"kong/kong-gateway:3.4", "kong/kong-gateway:", "kong/kong-gateway:3@sha256:0/a"},
			[]string{"kong/kong-gateway", "a/kong/kong-gateway:3", "kong/kong-gatewaY:3"},
		},
		"*/kong:3.?":             {[]string{"a/kong:3.4", "a/b/kong:3.4", "/kong:3.é"}, []string{"kong:3.4", "a/kong:3.", "a/kong:3.10", "a/kong:3x4"}},
		`a.b+c(d)[e]{f}^g$|h\*i`: {[]string{`a.b+c(d)[e]{f}^g$|h\i`, `a.b+c(d)[e]{f}^g$|h\--i`}, []string{`a-b+c(d)[e]{f}^g$|h\i`, `a.b+c(d)[e]{f}^g$`, `h\i`, `a.b+c(d)[e]{f}^g$|h*i`}},
		"“é”/?":                  {[]string{"“é”/😀", "“é”/\\"}, []string{"“é”/", "“e”/x", "“é”/xx"}},
	} {
		t.Run(glob, func(t *testing.T) {
			h := newHook(t)
			dataPlanes := []any{probeEntry, map[string]any{"image": glob}}
			process := compile(t, dataPlanes)
			h.install(t, values{"dataPlanes": dataPlanes})
			c := client.NewNamespacedClient(as(t, person), newNamespace(t, as(t, person)))
			for _, i := range images.match {
				expectCreate(t, c, h, process, i, true, deployment("a", image(i)))
				expectCreate(t, c, h, process, i+" (init container)", true, deployment("a", initImage(i)))
			}
			for _, i := range images.differ {
				expectCreate(t, c, h, process, i, false, deployment("a", image(i), initImage(i)))
			}
		})
	}
}

func TestLabelSelectors(t *testing.T) {
	expression := func(key, operator string, values ...string) map[string]any {
		e := map[string]any{"key": key, "operator": operator}
		if len(values) > 0 {
			e["values"] = values
		}
		return map[string]any{"matchExpressions": []any{e}}
	}
	const key = "example.com/role"
	type labels = map[string]string
	for name, c := range map[string]struct {
		selector map[string]any
		match    []labels
		differ   []labels
	}{
		"matchLabels":            {map[string]any{"matchLabels": labels{key: "gateway", "tier": "edge"}}, []labels{{key: "gateway", "tier": "edge", "x": "y"}}, []labels{nil, {key: "gateway"}, {key: "gateway", "tier": "core"}}},
		"empty value":            {map[string]any{"matchLabels": labels{key: ""}}, []labels{{key: ""}}, []labels{nil, {key: "x"}}},
		"In":                     {expression(key, "In", "a", "b"), []labels{{key: "a"}, {key: "b"}}, []labels{nil, {key: "c"}}},
		"NotIn":                  {expression(key, "NotIn", "a", "b"), []labels{nil, {key: "c"}}, []labels{{key: "a"}, {key: "b"}}},
		"Exists":                 {expression(key, "Exists"), []labels{{key: ""}, {key: "c"}}, []labels{nil, {"other": "c"}}},
		"DoesNotExist":           {expression(key, "DoesNotExist"), []labels{nil, {"other": "c"}}, []labels{{key: ""}}},
		"matchLabels and Exists": {map[string]any{"matchLabels": labels{"tier": "edge"}, "matchExpressions": expression(key, "Exists")["matchExpressions"]}, []labels{{key: "", "tier": "edge"}}, []labels{{key: ""}, {"tier": "edge"}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHook(t)
			dataPlanes := []any{probeEntry, map[string]any{"labels": c.selector}}
			process := compile(t, dataPlanes)
			h.install(t, values{"dataPlanes": dataPlanes})
			client := client.NewNamespacedClient(as(t, person), newNamespace(t, as(t, person)))
			with := func(l labels) *appsv1.Deployment {
				return deployment("a", func(d *appsv1.Deployment) { d.Labels = l })
			}
			for _, l := range c.match {
				expectCreate(t, client, h, process, fmt.Sprint(l), true, with(l))
			}
			for _, l := range c.differ {
				expectCreate(t, client, h, process, fmt.Sprint(l), false, with(l))
			}
		})
	}
}

// compile makes of a dataPlanes value what the process makes of it.
func compile(t *testing.T, dataPlanes []any) *policy.DataPlanes {
	t.Helper()
	content, err := json.Marshal(dataPlanes)
	if err != nil {
		t.Fatal(err)
	}
	var entries []policy.DataPlaneMatch
	if err := json.Unmarshal(content, &entries); err != nil {
		t.Fatal(err)
	}
	if errs := policy.ValidateDataPlanes(entries, nil); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	compiled, err := policy.CompileDataPlanes(entries)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// expectCreate makes a dry-run create and compares what it cost. The process
// must be of the API server's opinion.
func expectCreate(t *testing.T, c client.Client, h *hook, process *policy.DataPlanes, what string, costs bool, d *appsv1.Deployment) {
	t.Helper()
	content, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := kube.DecodeDeployment(content)
	if err != nil {
		t.Fatal(err)
	}
	if got := process.Match(decoded); got != costs {
		t.Errorf("%s: for the process: %t, want %t", what, got, costs)
	}
	h.take()
	if err := c.Create(t.Context(), d, client.DryRunAll); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var want []string
	if costs {
		want = reviewed("CREATE apps/v1 deployments")
	}
	if diff := cmp.Diff(want, h.take()); diff != "" {
		t.Errorf("%s: calls (-want +got):\n%s", what, diff)
	}
}
