package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
)

// byRole takes Deployments with KONG_ROLE=data_plane for data planes.
type byRole struct{}

func (byRole) ReadsEnv(name string) bool { return name == "KONG_ROLE" }
func (byRole) Match(d *kube.Deployment) bool {
	return slices.ContainsFunc(kube.AllContainers(d.Pod()), func(c kube.ContainerRef) bool {
		return slices.ContainsFunc(c.Env, func(e kube.EnvVar) bool { return e.Name == "KONG_ROLE" && e.Value == "data_plane" })
	})
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: "uid-of-it", ResourceVersion: "7",
		Labels: map[string]string{"tier": "gold"}, Annotations: map[string]string{"big": "annotation"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
}

func deploymentOf(name, role string) *appsv1.Deployment {
	replicas := int32(3)
	d := &appsv1.Deployment{ObjectMeta: meta("team", name), Spec: appsv1.DeploymentSpec{Replicas: &replicas}}
	d.Annotations["kdp-webhook.io/injected"] = "{}"
	d.Spec.Template.Spec.Containers = []corev1.Container{{
		Name: "proxy", Image: "kong", Command: []string{"a", "long", "command"},
		Env:       []corev1.EnvVar{{Name: "KONG_ROLE", Value: role}, {Name: "KONG_OTHER", Value: "x"}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
	}}
	return d
}

func hpaOf(name, apiVersion, kind, target string) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: meta("team", name),
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: target}, MaxReplicas: 5,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			CurrentReplicas: 2, DesiredReplicas: 4, CurrentMetrics: []autoscalingv2.MetricStatus{{Type: "Resource"}},
			Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{
				{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue, Message: "long"},
				{Type: autoscalingv2.ScalingActive, Status: corev1.ConditionFalse, Reason: "FailedGetResourceMetric", Message: "long"},
			},
		},
	}
}

// start runs informers over a fake API and waits until they are synced.
func start(t *testing.T, objects ...runtime.Object) (*Informers, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	i, err := NewInformers(client, byRole{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, i)
	eventually(t, func() bool { return i.Synced() == nil })
	return i, client
}

func run(t *testing.T, i *Informers) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		return condition(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADataPlaneIsKeptAsRulesReadIt(t *testing.T) {
	i, _ := start(t, deploymentOf("kong", "data_plane"))
	replicas := int32(3)
	want := &kube.Deployment{Metadata: kube.Metadata{
		Namespace: "team", Name: "kong", UID: "uid-of-it", ResourceVersion: "7",
		Labels: map[string]string{"tier": "gold"}, Annotations: map[string]string{"kdp-webhook.io/injected": "{}"},
	}}
	want.Spec.Replicas = &replicas
	want.Spec.Template.Spec.Containers = []kube.Container{{
		Name: "proxy", Image: "kong", Env: []kube.EnvVar{{Name: "KONG_ROLE", Value: "data_plane"}},
		Resources: &kube.Resources{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
	}}
	if diff := cmp.Diff(want, i.Deployment("team", "kong"), cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
		t.Errorf("data plane (-want +got):\n%s", diff)
	}
	for _, at := range [][2]string{{"team", "other"}, {"other", "kong"}} {
		if d := i.Deployment(at[0], at[1]); d != nil {
			t.Errorf("%v: %+v", at, d)
		}
	}
}

func TestOfOtherDeploymentsOnlyTheNameIsKept(t *testing.T) {
	i, _ := start(t, deploymentOf("kong", "control_plane"))
	want := &kube.Deployment{Metadata: kube.Metadata{Namespace: "team", Name: "kong", UID: "uid-of-it", ResourceVersion: "7"}}
	if diff := cmp.Diff(want, i.Deployment("team", "kong"), cmpopts.IgnoreUnexported(kube.Deployment{})); diff != "" {
		t.Errorf("control plane (-want +got):\n%s", diff)
	}
}

func TestLabelsAreKeptOnlyWhereTheyAreLookedAt(t *testing.T) {
	client := fake.NewClientset(deploymentOf("kong", "data_plane"))
	i, err := NewInformers(client, byRole{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, i)
	eventually(t, func() bool { return i.Synced() == nil })
	if got := i.Deployment("team", "kong").Metadata.Labels["tier"]; got != "gold" {
		t.Errorf("label %q", got)
	}
}

func TestHPAsAreFoundByTargetWhateverItsVersion(t *testing.T) {
	elsewhere := hpaOf("z", "apps/v1", "Deployment", "kong")
	elsewhere.Namespace = "other"
	i, client := start(t,
		hpaOf("c", "apps/v1", "Deployment", "kong"), hpaOf("a", "apps/v1beta9", "Deployment", "kong"), hpaOf("b", "apps/v1", "Deployment", "other"),
		hpaOf("d", "apps/v1", "StatefulSet", "kong"), hpaOf("e", "example.com/v1", "Deployment", "kong"), hpaOf("f", "", "Deployment", "kong"), elsewhere,
	)
	names := func(target kube.TargetKey) []string {
		var out []string
		for _, h := range i.HPAsFor(target) {
			out = append(out, h.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"a", "c"}, names(kube.DeploymentKey("team", "kong"))); diff != "" {
		t.Errorf("HPAs (-want +got):\n%s", diff)
	}
	if got := names(kube.DeploymentKey("team", "none")); got != nil {
		t.Errorf("HPAs of nothing: %q", got)
	}
	// One that aims elsewhere moves with its target, and one that is removed is gone.
	moved := hpaOf("c", "apps/v1", "Deployment", "other")
	if _, err := client.AutoscalingV2().HorizontalPodAutoscalers("team").Update(t.Context(), moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.AutoscalingV2().HorizontalPodAutoscalers("team").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		return names(kube.DeploymentKey("team", "kong")) == nil && slices.Equal(names(kube.DeploymentKey("team", "other")), []string{"b", "c"})
	})
}

func TestAnHPAIsKeptAsRulesReadIt(t *testing.T) {
	i, _ := start(t, hpaOf("kong", "apps/v1", "Deployment", "kong"))
	want := hpaOf("kong", "apps/v1", "Deployment", "kong")
	want.Labels, want.Annotations, want.ManagedFields, want.Status.CurrentMetrics, want.Status.CurrentReplicas = nil, nil, nil, nil, 0
	want.Status.Conditions = want.Status.Conditions[1:]
	want.Status.Conditions[0].Message = ""
	if diff := cmp.Diff([]*autoscalingv2.HorizontalPodAutoscaler{want}, i.HPAsFor(kube.DeploymentKey("team", "kong"))); diff != "" {
		t.Errorf("HPA (-want +got):\n%s", diff)
	}
}

func TestLimitRangesAndLabelsOfNamespaces(t *testing.T) {
	i, _ := start(t,
		&corev1.Namespace{ObjectMeta: meta("", "team")}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bare"}},
		&corev1.LimitRange{ObjectMeta: meta("team", "b")}, &corev1.LimitRange{ObjectMeta: meta("team", "a")}, &corev1.LimitRange{ObjectMeta: meta("other", "c")},
	)
	if diff := cmp.Diff(map[string]string{"tier": "gold"}, i.NamespaceLabels("team")); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	for _, none := range []string{"bare", "missing"} {
		if got := i.NamespaceLabels(none); len(got) != 0 {
			t.Errorf("labels of %s: %v", none, got)
		}
	}
	var names []string
	for _, l := range i.LimitRanges("team") {
		names = append(names, l.Name)
		if len(l.Annotations)+len(l.ManagedFields) > 0 {
			t.Errorf("not stripped: %+v", l.ObjectMeta)
		}
	}
	if diff := cmp.Diff([]string{"a", "b"}, names); diff != "" {
		t.Errorf("LimitRanges (-want +got):\n%s", diff)
	}
}

func TestSyncedNamesWhatIsMissing(t *testing.T) {
	client := fake.NewClientset()
	forbidden := errors.New("deployments is forbidden")
	client.PrependReactor("list", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, forbidden
	})
	client.PrependWatchReactor("deployments", clienttesting.DefaultWatchReactor(nil, forbidden))
	i, err := NewInformers(client, byRole{})
	if err != nil {
		t.Fatal(err)
	}
	const all = "not yet read from the API server: deployments, horizontalpodautoscalers, limitranges, namespaces"
	if err := i.Synced(); err == nil || err.Error() != all {
		t.Errorf("before the start: %v", err)
	}
	run(t, i)
	const one = "not yet read from the API server: deployments"
	eventually(t, func() bool { return i.Synced() != nil && i.Synced().Error() == one })
}

// counted counts the live reads.
func counted(client *fake.Clientset) func() []string {
	return func() []string {
		var reads []string
		for _, a := range client.Actions() {
			if get, ok := a.(clienttesting.GetAction); ok && a.GetVerb() == "get" {
				reads = append(reads, a.GetResource().Resource+" "+get.GetName())
			}
		}
		return reads
	}
}

func TestWhatTheCacheHasIsNotReadLive(t *testing.T) {
	i, client := start(t, &corev1.Namespace{ObjectMeta: meta("", "team")}, deploymentOf("kong", "data_plane"))
	for _, name := range []string{"kong", ""} {
		facts, err := i.With(t.Context(), "team", name)
		if err != nil {
			t.Fatal(err)
		}
		if facts != Facts(i) {
			t.Errorf("%q: other facts than the cache's", name)
		}
	}
	if reads := counted(client)(); reads != nil {
		t.Errorf("live reads: %q", reads)
	}
}

func TestWhatTheCacheDoesNotHaveIsReadLive(t *testing.T) {
	i, client := start(t)
	kong, labels := deploymentOf("kong", "data_plane"), map[string]string{"tier": "gold"}
	for resource, object := range map[string]runtime.Object{
		"namespaces": &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team", Labels: labels}}, "deployments": kong,
	} {
		client.PrependReactor("get", resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, object, nil })
	}
	facts, err := i.With(t.Context(), "team", "kong")
	if err != nil {
		t.Fatal(err)
	}
	if d := facts.Deployment("team", "kong"); d == nil || !(byRole{}).Match(d) || *d.Spec.Replicas != 3 || len(d.Pod().Containers[0].Env) != 1 {
		t.Errorf("Deployment %+v", d)
	}
	if diff := cmp.Diff(labels, facts.NamespaceLabels("team")); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	// Nothing else is different, and nothing stays.
	if facts.Deployment("team", "other") != nil || facts.Deployment("other", "kong") != nil || facts.NamespaceLabels("other") != nil ||
		i.Deployment("team", "kong") != nil {
		t.Error("the live read is seen elsewhere")
	}
	if diff := cmp.Diff([]string{"namespaces team", "deployments kong"}, counted(client)()); diff != "" {
		t.Errorf("live reads (-want +got):\n%s", diff)
	}
}

func TestALiveReadOfTheOneKeepsTheOtherFromTheCache(t *testing.T) {
	i, client := start(t, &corev1.Namespace{ObjectMeta: meta("", "team")}, hpaOf("kong", "apps/v1", "Deployment", "kong"))
	client.PrependReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, deploymentOf("kong", "data_plane"), nil
	})
	facts, err := i.With(t.Context(), "team", "kong")
	if err != nil {
		t.Fatal(err)
	}
	if facts.Deployment("team", "kong") == nil || facts.NamespaceLabels("team")["tier"] != "gold" || len(facts.HPAsFor(kube.DeploymentKey("team", "kong"))) != 1 {
		t.Errorf("facts %+v", facts)
	}
}

func TestWhatDoesNotExistIsNoError(t *testing.T) {
	i, _ := start(t)
	facts, err := i.With(t.Context(), "team", "kong")
	if err != nil {
		t.Fatal(err)
	}
	if facts.Deployment("team", "kong") != nil || facts.NamespaceLabels("team") != nil {
		t.Errorf("facts %+v", facts)
	}
}

func TestALiveReadThatFailsIsAnError(t *testing.T) {
	for resource, want := range map[string]string{
		"namespaces": "read namespace team: the API server is away", "deployments": "read deployment team/kong: the API server is away",
	} {
		i, client := start(t)
		client.PrependReactor("get", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("the API server is away")
		})
		if _, err := i.With(t.Context(), "team", "kong"); err == nil || err.Error() != want {
			t.Errorf("%s: %v", resource, err)
		}
	}
}
