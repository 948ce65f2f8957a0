//go:build unix

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kdp-webhook/kdp-webhook/internal/admission"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

// stop stops the webhook and has the test's end start it again.
func stop(t *testing.T) {
	t.Helper()
	if err := stopped(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if exited, _ := webhook.Exited(); exited {
			if err := webhook.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWhileTheWebhookIsDownOnlyDataPlanesWait(t *testing.T) {
	s := shell{namespace: newNamespace(t, nil), kubeconfig: alice}
	create(t, admin, s.namespace, dataPlane("kong"))
	create(t, admin, s.namespace, dataPlane("doomed"))
	create(t, admin, s.namespace, controlPlane("control"))
	stop(t)
	s.stdin = manifest("another")
	o := s.kubectl(t, "create", "-f", "-")
	address := strings.TrimPrefix(webhook.URL, "https://localhost:")
	o.stderr = strings.ReplaceAll(strings.ReplaceAll(o.stderr, address, "PORT"), "[::1]", "127.0.0.1")
	want := outcome{status: 1, stderr: "Error from server (InternalError): error when creating \"STDIN\": Internal error occurred: " +
		"failed calling webhook \"deployments.kdp-webhook.io\": failed to call webhook: Post \"https://localhost:PORT/mutate?timeout=5s\": " +
		"dial tcp 127.0.0.1:PORT: connect: connection refused\n"}
	o.stderr = strings.ReplaceAll(o.stderr, `STDIN`, "STDIN")
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("create a data plane (-want +got):\n%s", diff)
	}
	if o := s.kubectl(t, "annotate", "deployment/kong", "a=b"); o.status == 0 {
		t.Errorf("change a data plane: %s", o)
	}
	s.stdin = hpaManifest("kong", "kong", "maxReplicas: 50\n"+cpu(80))
	for name, args := range map[string][]string{
		"create an HPA":          command("create -f -"),
		"scale a data plane":     command("scale deployment/kong --replicas=3"),
		"change a control plane": command("annotate deployment/control a=b"),
		"delete a data plane":    command("delete deployment/doomed --wait=false"),
	} {
		if o := s.kubectl(t, args...); o.status != 0 {
			t.Errorf("%s: %s", name, o)
		}
	}
}

func TestNothingPassesUnreviewedWhileTheWebhookStarts(t *testing.T) {
	for round := range 3 {
		ns := newNamespace(t, nil)
		stop(t)
		ctx := t.Context()
		ready := make(chan struct{})
		var workers errgroup.Group
		for worker := range 4 {
			workers.Go(func() error {
				for n := 0; ; n++ {
					name := fmt.Sprintf("kong-%d-%d", worker, n)
					d, err := apply(ctx, admin, ns, dataPlane(name))
					if err != nil {
						if !apierrors.IsInternalError(err) {
							return fmt.Errorf("%s: %w", name, err)
						}
						continue
					}
					if d.Spec.Template.Spec.Containers[0].Resources.Limits.Cpu().String() != "1200m" {
						return fmt.Errorf("%s was stored without resources", name)
					}
					select {
					case <-ready:
						return nil
					default:
					}
				}
			})
		}
		if err := webhook.Start(ctx); err != nil {
			t.Error(err)
		}
		close(ready)
		if err := workers.Wait(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
}

func TestTheWebhookIsReadyOnlyWhenItsConfigurationsTrustIt(t *testing.T) {
	stop(t)
	configurations := func(ctx context.Context) ([][]byte, error) {
		mutating, err := admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, harness.Release, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		validating, err := admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, harness.Release, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		var bundles [][]byte
		for i := range mutating.Webhooks {
			bundles = append(bundles, mutating.Webhooks[i].ClientConfig.CABundle)
		}
		for i := range validating.Webhooks {
			bundles = append(bundles, validating.Webhooks[i].ClientConfig.CABundle)
		}
		return bundles, nil
	}
	without := []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"},{"op":"remove","path":"/webhooks/1/clientConfig/caBundle"},{"op":"remove","path":"/webhooks/2/clientConfig/caBundle"}]`)
	if _, err := admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(t.Context(), harness.Release, types.JSONPatchType, without, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch(t.Context(), harness.Release, types.JSONPatchType, without, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := webhook.Launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		if exited, err := webhook.Exited(); exited {
			t.Fatal(err)
		}
		if err := webhook.Ready(ctx); err != nil {
			return err
		}
		bundles, err := configurations(ctx)
		if err != nil {
			return err
		}
		for i, bundle := range bundles {
			if len(bundle) == 0 {
				t.Errorf("ready without the CA bundle of webhook %d of %d", i, len(bundles))
			}
		}
		return nil
	})
	// The API server hears of the bundle in its own time.
	ns := newNamespace(t, nil)
	eventually(t, func(ctx context.Context) error {
		_, err := apply(ctx, admin, ns, dataPlane("kong"))
		return err
	})
}

func TestWithoutItsRightsTheWebhookDecidesNothingAndIsNotReady(t *testing.T) {
	ns := newNamespace(t, nil)
	create(t, admin, ns, dataPlane("kong"))
	client := httpsClient(t)
	stop(t)
	bindings := admin.RbacV1().ClusterRoleBindings()
	binding, err := bindings.Get(t.Context(), harness.Release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindings.Delete(t.Context(), harness.Release, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	restored := false
	restore := func() {
		if restored {
			return
		}
		restored = true
		binding.ResourceVersion, binding.UID = "", ""
		if _, err := bindings.Create(context.Background(), binding, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	if err := webhook.Launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := webhook.AwaitReady(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	for _, path := range []string{admission.MutatePath, admission.ValidatePath} {
		eventually(t, func(ctx context.Context) error {
			_, err := sendIn(ctx, t, client, path, createReview(t))
			if exited, err := webhook.Exited(); exited {
				t.Fatal(err)
			}
			if err == nil {
				t.Fatal("something was decided")
			}
			if !strings.Contains(err.Error(), "500 Internal Server Error: kdp-webhook could not decide: ") {
				return err // not listening yet
			}
			if !strings.Contains(err.Error(), "not yet read from the API server: deployments, horizontalpodautoscalers, limitranges, namespaces") {
				return err
			}
			return nil
		})
	}
	if err := webhook.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "500 Internal Server Error") || !strings.Contains(err.Error(), "[-]facts failed") {
		t.Errorf("ready: %v", err)
	}
	_, err = admin.AppsV1().Deployments(ns).Patch(t.Context(), "kong", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	if err == nil {
		t.Error("a data plane was changed while nothing could be decided")
	} else if want := `Internal error occurred: failed calling webhook "deployments.kdp-webhook.io": failed to call webhook: an error on the server ` +
		`("kdp-webhook could not decide: not yet read from the API server: deployments, horizontalpodautoscalers, limitranges, namespaces") has prevented the request from succeeding`; err.Error() != want {
		t.Errorf("the refusal (-want +got):\n%s", cmp.Diff(want, err.Error()))
	}
	// What has failurePolicy Ignore goes on.
	if _, err := apply(t.Context(), admin, ns, hpa("kong", 1, 50, 80)); err != nil {
		t.Error(err)
	}
	// The rights come, and so does the webhook, without a restart.
	restore()
	if err := webhook.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, admin, ns, dataPlane("kong-2"))
}
