//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	webhooks "github.com/kdp-webhook/kdp-webhook/internal/admission"
	"github.com/kdp-webhook/kdp-webhook/internal/audit"
	"github.com/kdp-webhook/kdp-webhook/internal/cluster"
	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// emptyCluster is a cluster with one namespace and nothing in it.
type emptyCluster struct{}

func (emptyCluster) Synced() error { return nil }
func (emptyCluster) With(context.Context, string, string) (cluster.Facts, error) {
	return emptyCluster{}, nil
}

func (emptyCluster) NamespaceLabels(string) map[string]string                        { return map[string]string{} }
func (emptyCluster) Deployment(string, string) *kube.Deployment                      { return nil }
func (emptyCluster) LimitRanges(string) []*corev1.LimitRange                         { return nil }
func (emptyCluster) Record(audit.Review)                                             {}
func (emptyCluster) HPAsFor(kube.TargetKey) []*autoscalingv2.HorizontalPodAutoscaler { return nil }

// reviews compares a mutating review of the data plane with the stock way to write one: decode the typed object, change
// it, marshal it, and let controller-runtime diff it against the original.
func reviews(ctx context.Context, out io.Writer, object []byte) error {
	log.SetLogger(logr.Discard())
	body, err := review(object)
	if err != nil {
		return err
	}
	reviewer := &webhooks.Reviewer{
		Facts: emptyCluster{}, Policies: emptyCluster{}, Store: policy.NewStore(), Recorder: emptyCluster{}, Now: time.Now,
	}
	mux := http.NewServeMux()
	server := webhook.NewServer(webhook.Options{WebhookMux: mux})
	reviewer.Register(server, logr.Discard())
	server.Register("/stock", &admission.Webhook{Handler: stock(admission.NewDecoder(runtime.NewScheme()))})

	ours, err := measure(ctx, mux, webhooks.MutatePath, body)
	if err != nil {
		return err
	}
	theirs, err := measure(ctx, mux, "/stock", body)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "A mutating review, from the request's bytes to the response's, without the network:")
	fmt.Fprintf(out, "  this webhook   %8d ns  %6d allocations\n", ours.NsPerOp(), ours.AllocsPerOp())
	fmt.Fprintf(out, "  the stock way  %8d ns  %6d allocations\n", theirs.NsPerOp(), theirs.AllocsPerOp())
	fmt.Fprintf(out, "  stock / this   %8.1f times %5.1f times\n\n",
		float64(theirs.NsPerOp())/float64(ours.NsPerOp()), float64(theirs.AllocsPerOp())/float64(ours.AllocsPerOp()))
	return nil
}

func review(object []byte) ([]byte, error) {
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Operation: admissionv1.Create, Namespace: "team", Name: "kong-dp-kong",
			Kind:   metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
			Object: runtime.RawExtension{Raw: object},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("marshal a review: %w", err)
	}
	return body, nil
}

// stock is a mutating webhook as the documentation of controller-runtime shows it.
func stock(decoder admission.Decoder) admission.HandlerFunc {
	return func(_ context.Context, req admission.Request) admission.Response {
		d := &appsv1.Deployment{}
		if err := decoder.Decode(req, d); err != nil {
			return admission.Errored(http.StatusBadRequest, err)
		}
		d.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("300m"), corev1.ResourceMemory: resource.MustParse("300Mi"),
			},
			Limits: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("1200m"), corev1.ResourceMemory: resource.MustParse("800Mi"),
			},
		}
		changed, err := json.Marshal(d)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		return admission.PatchResponseFromRaw(req.Object.Raw, changed)
	}
}

// measure benchmarks a path of the server, having looked at its answer: it must patch.
func measure(ctx context.Context, handler http.Handler, path string, body []byte) (testing.BenchmarkResult, error) {
	post := func() *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		return w
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(post().Body.Bytes(), &answer); err != nil {
		return testing.BenchmarkResult{}, fmt.Errorf("%s: %w", path, err)
	}
	if r := answer.Response; r == nil || !r.Allowed || len(r.Patch) == 0 {
		return testing.BenchmarkResult{}, fmt.Errorf("%s: no patch in the answer: %+v", path, answer.Response)
	}
	return testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			post()
		}
	}), nil
}
