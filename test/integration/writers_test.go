//go:build unix

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const hpaController = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"

// result is what becomes of a write.
type result string

const (
	// through: as the user wrote it.
	through result = "through"
	// changed: with something of ours added to it or kept.
	changed result = "changed"
	// refused: not at all.
	refused result = "refused"
)

// write is a case of the table: a state, and what a person does to it.
type write struct {
	name string
	// state the namespace is in before.
	state func(t *testing.T, s shell)
	// files that the person has at hand.
	files map[string]string
	// editor is a sed script that stands in for the person's editor.
	editor string
	args   []string
	// noDryRun says that kubectl has no dry run of it.
	noDryRun bool
	want     result
	// replicas of the Deployment "kong" afterwards.
	replicas int32
	// rollsNothingOut says that the pod template stays as it is.
	rollsNothingOut bool
}

// driven is a data plane that an HPA between 2 and 10 has scaled to 4; it was written by client-side apply.
func driven(spec ...string) func(*testing.T, shell) {
	return func(t *testing.T, s shell) {
		t.Helper()
		applied(manifest("kong", spec...))(t, s)
		create(t, admin, s.namespace, hpa("kong", 2, 10, 75))
		mustScaleTo(t, mustClientAs(t, hpaController), s.namespace, "kong", 4)
		syncHPAs(t)
	}
}

// applied is what client-side apply makes of a manifest.
func applied(text string) func(*testing.T, shell) {
	return func(t *testing.T, s shell) {
		t.Helper()
		s.stdin = text
		if o := s.kubectl(t, "apply", "-f", "-"); o.status != 0 {
			t.Fatal(o)
		}
	}
}

// drivenServerSide is driven, but written by server-side apply.
func drivenServerSide(spec ...string) func(*testing.T, shell) {
	return func(t *testing.T, s shell) {
		t.Helper()
		s.stdin = manifest("kong", spec...)
		if o := s.kubectl(t, "apply", "--server-side", "-f", "-"); o.status != 0 {
			t.Fatal(o)
		}
		create(t, admin, s.namespace, hpa("kong", 2, 10, 75))
		mustScaleTo(t, mustClientAs(t, hpaController), s.namespace, "kong", 4)
		syncHPAs(t)
	}
}

// uninjected is a data plane that was there before the webhook.
func uninjected(t *testing.T, s shell) {
	t.Helper()
	create(t, unreviewed, s.namespace, dataPlane("kong"))
}

// injected is a data plane that got its resources from the webhook.
func injected(t *testing.T, s shell) {
	t.Helper()
	create(t, admin, s.namespace, dataPlane("kong"))
}

func nothing(*testing.T, shell) {}

// rolledOut is a data plane with two revisions, of which the first, from before the webhook, has no resources.
func rolledOut(t *testing.T, s shell) {
	t.Helper()
	d := dataPlane("kong")
	d.Annotations = map[string]string{"deployment.kubernetes.io/revision": "2"}
	d = create(t, admin, s.namespace, d)
	for revision, image := range map[string]string{"1": "kong/kong-gateway:3.3", "2": "kong/kong-gateway:3.4"} {
		template := dataPlane("kong").Spec.Template
		template.Spec.Containers[0].Image = image
		template.Labels = map[string]string{"app": "kong", "pod-template-hash": revision}
		_, err := admin.AppsV1().ReplicaSets(s.namespace).Create(t.Context(), &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Name: "kong-" + revision, Labels: template.Labels, Annotations: map[string]string{"deployment.kubernetes.io/revision": revision},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
			},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// withHPA is a data plane with an HPA of its own.
func withHPA(lowest, highest, utilization int32) func(*testing.T, shell) {
	return func(t *testing.T, s shell) {
		t.Helper()
		injected(t, s)
		create(t, unreviewed, s.namespace, hpa("kong", lowest, highest, utilization))
	}
}

func withAppliedHPA(spec string) func(*testing.T, shell) {
	return func(t *testing.T, s shell) {
		t.Helper()
		injected(t, s)
		applied(hpaManifest("kong", "kong", spec))(t, s)
	}
}

func file(text string) map[string]string { return map[string]string{"kong.yaml": text} }

func command(line string) []string { return strings.Fields(line) }

// newImage is the manifest after an upgrade.
var newImage = strings.ReplaceAll(manifest("kong"), "gateway:3.4", "gateway:3.5")

var (
	apply1       = command("apply -f kong.yaml")
	applyServer  = command("apply --server-side -f kong.yaml")
	applyForced  = command("apply --server-side --force-conflicts -f kong.yaml")
	replaceFile  = command("replace -f kong.yaml")
	fourAsBefore = int32(4)
)

var deploymentWrites = []write{
	// Creates: what is left out is filled in.
	{name: "create without resources", state: nothing, files: file(manifest("kong")), args: command("create -f kong.yaml"), want: changed, replicas: 1},
	{name: "client-side apply without resources", state: nothing, files: file(manifest("kong")), args: apply1, want: changed, replicas: 1},
	{name: "server-side apply without resources", state: nothing, files: file(manifest("kong")), args: applyServer, want: changed, replicas: 1},

	// Updates of a data plane that was injected: nothing moves.
	{name: "client-side apply again", state: applied(manifest("kong")), files: file(manifest("kong")), args: apply1, want: through, replicas: 1, rollsNothingOut: true},
	{name: "replace drops what was injected", state: injected, files: file(manifest("kong")), args: replaceFile, want: changed, replicas: 1},
	{name: "replace by the same without what was injected", state: injectedManifest, files: file(manifest("kong")), args: replaceFile, want: changed, replicas: 1, rollsNothingOut: true},
	{name: "annotate an injected data plane", state: injected, args: command("annotate deployment/kong note=hello"), want: through, replicas: 1, rollsNothingOut: true},

	// Updates of a data plane that was never injected roll out nothing, until they roll out anyway.
	{name: "annotate an uninjected data plane", state: uninjected, args: command("annotate deployment/kong note=hello"), want: through, replicas: 1, rollsNothingOut: true},
	{name: "label an uninjected data plane", state: uninjected, args: command("label deployment/kong note=hello"), want: through, replicas: 1, rollsNothingOut: true},
	{name: "set image of an uninjected data plane", state: uninjected, args: command("set image deployment/kong proxy=kong/kong-gateway:3.5"), want: changed, replicas: 1},
	{name: "set resources of an uninjected data plane", state: uninjected, args: command("set resources deployment/kong -c proxy --requests=cpu=2"), want: changed, replicas: 1},
	{name: "restart an uninjected data plane", state: uninjected, args: command("rollout restart deployment/kong"), noDryRun: true, want: changed, replicas: 1},
	{name: "undo a rollout to before the webhook", state: rolledOut, args: command("rollout undo deployment/kong --to-revision=1"), want: changed, replicas: 1},
	{name: "edit the image of an uninjected data plane", state: uninjected, editor: "s/gateway:3.4/gateway:3.5/", args: command("edit deployment/kong"), noDryRun: true, want: changed, replicas: 1},

	// Whole-object writes that land on 1: the live replicas are kept.
	{name: "client-side apply of replicas 1 resets nothing", state: driven("replicas: 1"), files: file(manifest("kong", "replicas: 1")), args: apply1, want: changed, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "client-side apply that leaves replicas out", state: driven(), files: file(newImage), args: apply1, want: through, replicas: fourAsBefore},
	{name: "client-side apply that drops replicas", state: driven("replicas: 2"), files: file(manifest("kong")), args: apply1, want: changed, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "client-side apply re-asserts what it held before", state: driven("replicas: 3"), files: file(manifest("kong", "replicas: 3")), args: apply1, want: changed, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "server-side apply of what the HPA owns conflicts", state: drivenServerSide("replicas: 1"), files: file(manifest("kong", "replicas: 1")), args: applyServer, want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "forced server-side apply of replicas 1", state: drivenServerSide("replicas: 1"), files: file(manifest("kong", "replicas: 1")), args: applyForced, want: changed, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "server-side apply that leaves replicas out", state: drivenServerSide(), files: file(newImage), args: applyServer, want: through, replicas: fourAsBefore},
	{name: "replace by a manifest without replicas", state: driven(), files: file(manifest("kong")), args: replaceFile, want: changed, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "patch to replicas 1", state: driven(), args: append(command("patch deployment/kong --type=merge --patch"), `{"spec":{"replicas":1}}`), want: changed, replicas: fourAsBefore, rollsNothingOut: true},

	// Overrides: refused.
	{name: "scale", state: driven(), args: command("scale deployment/kong --replicas=3"), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "scale to 1", state: driven(), args: command("scale deployment/kong --replicas=1"), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "scale to 0", state: driven(), args: command("scale deployment/kong --replicas=0"), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "scale to what it is", state: driven(), args: command("scale deployment/kong --replicas=4"), want: through, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "client-side apply of other replicas", state: driven(), files: file(manifest("kong", "replicas: 3")), args: apply1, want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "forced server-side apply of other replicas", state: drivenServerSide(), files: file(manifest("kong", "replicas: 3")), args: applyForced, want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "replace by other replicas", state: driven(), files: file(manifest("kong", "replicas: 3")), args: replaceFile, want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "edit replicas", state: driven(), editor: "s/replicas: 4/replicas: 3/", args: command("edit deployment/kong"), noDryRun: true, want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "strategic patch of replicas", state: driven(), args: append(command("patch deployment/kong --patch"), `{"spec":{"replicas":3}}`), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "merge patch of replicas", state: driven(), args: append(command("patch deployment/kong --type=merge --patch"), `{"spec":{"replicas":3}}`), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "JSON patch of replicas", state: driven(), args: append(command("patch deployment/kong --type=json --patch"), `[{"op":"replace","path":"/spec/replicas","value":3}]`), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "patch of the scale", state: driven(), args: append(command("patch deployment/kong --subresource=scale --type=merge --patch"), `{"spec":{"replicas":3}}`), want: refused, replicas: fourAsBefore, rollsNothingOut: true},
	{name: "patch from outside the range into it", state: outOfRange, args: append(command("patch deployment/kong --patch"), `{"spec":{"replicas":3}}`), want: through, replicas: 3},
	{name: "set image while the HPA drives", state: driven(), args: command("set image deployment/kong proxy=kong/kong-gateway:3.5"), want: through, replicas: fourAsBefore},
	{name: "scale a data plane that no HPA drives", state: injected, args: command("scale deployment/kong --replicas=3"), want: through, replicas: 3},
}

// injectedManifest is manifest, created through the webhook by a client that leaves no last-applied annotation.
func injectedManifest(t *testing.T, s shell) {
	t.Helper()
	create(t, admin, s.namespace, read[appsv1.Deployment](t, manifest("kong")))
}

// outOfRange is a data plane whose HPA was moved away from under it.
func outOfRange(t *testing.T, s shell) {
	t.Helper()
	d := dataPlane("kong")
	replicas := int32(15)
	d.Spec.Replicas = &replicas
	create(t, admin, s.namespace, d)
	create(t, admin, s.namespace, hpa("kong", 2, 10, 75))
	syncHPAs(t)
}

var hpaWrites = []write{
	{name: "create with the server default", state: injected, files: file(hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 5\n"+cpu(80))), args: command("create -f kong.yaml"), want: changed, replicas: 1},
	{name: "create without metrics", state: injected, files: file(hpaManifest("kong", "kong", "maxReplicas: 5")), args: command("create -f kong.yaml"), want: changed, replicas: 1},
	{name: "create without maxReplicas", state: injected, files: file(hpaManifest("kong", "kong", cpu(75))), args: command("create -f kong.yaml"), want: changed, replicas: 1},
	{name: "create within bounds", state: injected, files: file(hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 5\n"+cpu(60))), args: command("create -f kong.yaml"), want: through, replicas: 1},
	{name: "create with maxReplicas 50", state: injected, files: file(hpaManifest("kong", "kong", "maxReplicas: 50\n"+cpu(75))), args: command("create -f kong.yaml"), want: refused, replicas: 1},
	{name: "create with everything wrong", state: injected, files: file(hpaManifest("kong", "kong", "minReplicas: 30\nmaxReplicas: 50\n"+cpu(95)+"\nbehavior: {scaleUp: {selectPolicy: Disabled}}")), args: command("create -f kong.yaml"), want: refused, replicas: 1},
	{name: "create with the server default and maxReplicas 50", state: injected, files: file(hpaManifest("kong", "kong", "maxReplicas: 50\n"+cpu(80))), args: command("create -f kong.yaml"), want: refused, replicas: 1},
	{name: "create as autoscaling v1 at 80", state: injected, files: file("apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: kong}\nspec: {maxReplicas: 5, targetCPUUtilizationPercentage: 80, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: kong}}\n"), args: command("create -f kong.yaml"), want: changed, replicas: 1},
	{name: "create as autoscaling v1 with maxReplicas 50", state: injected, files: file("apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: kong}\nspec: {maxReplicas: 50, targetCPUUtilizationPercentage: 75, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: kong}}\n"), args: command("create -f kong.yaml"), want: refused, replicas: 1},
	{name: "autoscale", state: injected, args: command("autoscale deployment/kong --max=5"), want: changed, replicas: 1},
	{name: "autoscale beyond the bounds", state: injected, args: command("autoscale deployment/kong --max=21 --cpu=50%"), want: refused, replicas: 1},

	{name: "client-side apply with the server default", state: withAppliedHPA("maxReplicas: 5\n" + cpu(75)), files: file(hpaManifest("kong", "kong", "maxReplicas: 5\n"+cpu(80))), args: apply1, want: changed, replicas: 1},
	{name: "client-side apply of 80 again", state: withAppliedHPA("maxReplicas: 5\n" + cpu(80)), files: file(hpaManifest("kong", "kong", "maxReplicas: 5\n"+cpu(80))), args: apply1, want: changed, replicas: 1},
	{name: "client-side apply of maxReplicas 50", state: withAppliedHPA("maxReplicas: 5\n" + cpu(75)), files: file(hpaManifest("kong", "kong", "maxReplicas: 50\n"+cpu(75))), args: apply1, want: refused, replicas: 1},
	{name: "server-side apply with the server default", state: injected, files: file(hpaManifest("kong", "kong", "maxReplicas: 5\n"+cpu(80))), args: applyServer, want: changed, replicas: 1},
	{name: "server-side apply without maxReplicas", state: injected, files: file(hpaManifest("kong", "kong", cpu(75))), args: applyServer, want: changed, replicas: 1},
	{name: "server-side apply of maxReplicas 50", state: injected, files: file(hpaManifest("kong", "kong", "maxReplicas: 50\n"+cpu(75))), args: applyServer, want: refused, replicas: 1},
	{name: "forced server-side apply of minReplicas 21", state: withHPA(2, 5, 75), files: file(hpaManifest("kong", "kong", "minReplicas: 21\nmaxReplicas: 21\n"+cpu(75))), args: applyForced, want: refused, replicas: 1},
	{name: "replace by maxReplicas 50", state: withHPA(2, 5, 75), files: file(hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 50\n"+cpu(75))), args: replaceFile, want: refused, replicas: 1},
	{name: "replace by the server default", state: withHPA(2, 5, 60), files: file(hpaManifest("kong", "kong", "minReplicas: 2\nmaxReplicas: 5\n"+cpu(80))), args: replaceFile, want: changed, replicas: 1},
	{name: "edit maxReplicas", state: withHPA(2, 5, 75), editor: "s/maxReplicas: 5$/maxReplicas: 50/", args: command("edit hpa/kong"), noDryRun: true, want: refused, replicas: 1},
	{name: "edit the target to 80", state: withHPA(2, 5, 75), editor: "s/averageUtilization: 75/averageUtilization: 80/", args: command("edit hpa/kong"), noDryRun: true, want: changed, replicas: 1},
	{name: "merge patch of maxReplicas", state: withHPA(2, 5, 75), args: append(command("patch hpa/kong --type=merge --patch"), `{"spec":{"maxReplicas":50}}`), want: refused, replicas: 1},
	{name: "strategic patch of minReplicas", state: withHPA(2, 5, 75), args: append(command("patch hpa/kong --patch"), `{"spec":{"minReplicas":3}}`), want: through, replicas: 1},
	{name: "JSON patch of the target", state: withHPA(2, 5, 75), args: append(command("patch hpa/kong --type=json --patch"), `[{"op":"replace","path":"/spec/metrics/0/resource/target/averageUtilization","value":95}]`), want: refused, replicas: 1},
	{name: "patch that takes maxReplicas away", state: withHPA(2, 5, 75), args: append(command("patch hpa/kong --type=json --patch"), `[{"op":"remove","path":"/spec/maxReplicas"}]`), want: changed, replicas: 1},

	// What violated before and is not touched, or gets better, is no reason to refuse.
	{name: "annotate an HPA that violates", state: withHPA(2, 50, 75), args: command("annotate hpa/kong note=hello"), want: through, replicas: 1},
	{name: "patch an HPA that violates towards the policy", state: withHPA(2, 50, 75), args: append(command("patch hpa/kong --patch"), `{"spec":{"maxReplicas":30}}`), want: through, replicas: 1},
	{name: "patch an HPA that violates away from the policy", state: withHPA(2, 50, 75), args: append(command("patch hpa/kong --patch"), `{"spec":{"maxReplicas":51}}`), want: refused, replicas: 1},
	{name: "label an HPA at the server default", state: withHPA(2, 5, 80), args: command("label hpa/kong note=hello"), want: changed, replicas: 1},
}

func TestEveryWriterOfDeploymentsIsAnsweredAlike(t *testing.T) { runWrites(t, deploymentWrites) }

func TestEveryWriterOfHPAsIsAnsweredAlike(t *testing.T) { runWrites(t, hpaWrites) }

func runWrites(t *testing.T, writes []write) {
	for _, w := range writes {
		t.Run(w.name, func(t *testing.T) {
			s := shell{namespace: newNamespace(t, nil), kubeconfig: alice, dir: t.TempDir()}
			for name, text := range w.files {
				if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if w.editor != "" {
				s.env = []string{fmt.Sprintf("KUBE_EDITOR=sed -i -e '%s'", w.editor), "TMPDIR=" + s.dir}
			}
			w.state(t, s)
			var transcript strings.Builder
			if !w.noDryRun {
				transcript.WriteString(w.dryRun(t, s))
			}
			transcript.WriteString(w.real(t, s))
			text := strings.NewReplacer(s.namespace, "NAMESPACE", s.dir, "DIR").Replace(transcript.String())
			golden(t, t.Name(), scrub(text))
		})
	}
}

// dryRun does the write as a dry run, which must leave no trace.
func (w *write) dryRun(t *testing.T, s shell) string {
	t.Helper()
	before, count, mark := stored(t, s.namespace), decisions(t), auditMark(t)
	args := slices.Concat(w.args, []string{"--dry-run=server"})
	o := s.kubectl(t, args...)
	w.checkOutcome(t, o)
	if changes := difference(before, stored(t, s.namespace)); len(changes) > 0 {
		t.Errorf("the dry run changed %q", changes)
	}
	// An Event is queued where a decision is counted, and nowhere else.
	if n := decisions(t) - count; n != 0 {
		t.Errorf("the dry run was counted as %v decisions", n)
	}
	return transcriptOf(t, args, o, nil, auditSince(t, mark, s.namespace))
}

// real does the write.
func (w *write) real(t *testing.T, s shell) string {
	t.Helper()
	before, mark := stored(t, s.namespace), auditMark(t)
	o := s.kubectl(t, w.args...)
	w.checkOutcome(t, o)
	after := stored(t, s.namespace)
	changes := difference(before, after)
	if w.want == refused && len(changes) > 0 {
		t.Errorf("refused, and changed all the same: %q", changes)
	}
	if got := replicasOf(t, s.namespace, "kong"); got != w.replicas {
		t.Errorf("%d replicas, not %d", got, w.replicas)
	}
	if rolled := slices.ContainsFunc(changes, changesTemplate); w.rollsNothingOut && rolled {
		t.Errorf("rolled out: %q", changes)
	}
	audited := auditSince(t, mark, s.namespace)
	patched := false
	for _, e := range audited {
		patched = patched || len(e.patches(t)) > 0
		calls := map[string]int{}
		for k := range e.Annotations {
			if strings.HasPrefix(k, "mutation.webhook.admission.k8s.io/") {
				calls["mutating"]++
			}
		}
		if calls["mutating"] > 2 {
			t.Errorf("%d mutating calls for one write", calls["mutating"])
		}
	}
	if (w.want == changed) != patched && w.want != refused {
		t.Errorf("patched: %t, but wanted: %s", patched, w.want)
	}
	return transcriptOf(t, w.args, o, changes, audited)
}

func changesTemplate(change string) bool { return strings.Contains(change, " spec.template.") }

func (w *write) checkOutcome(t *testing.T, o outcome) {
	t.Helper()
	if (o.status != 0) != (w.want == refused) {
		t.Errorf("want %s, got\n%s", w.want, o)
	}
}

// transcriptOf tells a write as the person, the object and the audit log saw it.
func transcriptOf(t *testing.T, args []string, o outcome, changes []string, audited []auditEvent) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "$ kubectl %s\n%s", strings.Join(args, " "), o)
	for _, c := range changes {
		fmt.Fprintf(&b, "stored %s\n", c)
	}
	for _, e := range audited {
		fmt.Fprintf(&b, "audit %s %s %d\n", e.Verb, strings.TrimSuffix(e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/"), e.ResponseStatus.Code)
		for _, p := range e.patches(t) {
			fmt.Fprintf(&b, "  patch %s\n", p)
		}
		for _, a := range e.ours() {
			if !strings.HasPrefix(a, "patch.webhook") {
				fmt.Fprintf(&b, "  %s\n", a)
			}
		}
	}
	return b.String()
}
