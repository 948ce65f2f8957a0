//go:build unix

package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
	"github.com/kdp-webhook/kdp-webhook/test/cluster"
	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

// The namespaces that differ in who is called: nobody, a pair of webhooks that do nothing, this product.
const (
	nobody  = "bench-nobody"
	nothing = "bench-nothing"
	product = "bench-product"
)

// bench is a running control plane with the product and the webhooks that do nothing.
type bench struct {
	client  kubernetes.Interface
	webhook *harness.Webhook
	out     io.Writer
}

func requestsAndMemory(ctx context.Context, out io.Writer, object []byte, requests, objects int) (err error) {
	// Audit logging would be paid for by every request alike and make the ratios smaller.
	c, err := cluster.Start(ctx, cluster.Options{Progress: os.Stderr, APIServerArgs: map[string]string{"audit-log-path": os.DevNull}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	w, err := harness.Install(ctx, c, harness.Options{
		Progress: os.Stderr,
		Values:   map[string]any{"excludedNamespaces": []string{"kube-system", "kube-public", "kube-node-lease", nobody, nothing}},
	})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	b := &bench{client: client, webhook: w, out: out}
	for _, name := range []string{nobody, nothing, product} {
		if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
	}
	idle, err := residentMiB(w.PID())
	if err != nil {
		return err
	}
	compliant, err := withResources(object)
	if err != nil {
		return err
	}
	stop, err := b.serveNothing(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.requests(ctx, "needs", "a data plane that has its resources, so that nothing is changed", compliant, requests); err != nil {
		return err
	}
	if err := b.requests(ctx, "gets", "a data plane without resources: they are injected, and an Event is written", object, requests); err != nil {
		return err
	}
	return b.memory(ctx, object, objects, idle)
}

// requests creates the data plane in each of the namespaces in turn, so that whatever else the machine does falls on all
// alike, and compares the medians.
func (b *bench) requests(ctx context.Context, prefix, what string, object []byte, n int) (err error) {
	namespaces := []string{nobody, nothing, product}
	took := map[string][]time.Duration{}
	const warmUp = 20
	var cpu time.Duration
	var calls int
	for i := range n + warmUp {
		if i == warmUp {
			if cpu, calls, err = b.spent(ctx); err != nil {
				return err
			}
		}
		for _, namespace := range namespaces {
			d := &appsv1.Deployment{}
			if err := json.Unmarshal(object, d); err != nil {
				return fmt.Errorf("decode the data plane: %w", err)
			}
			d.Name = fmt.Sprintf("%s-%s-%d", d.Name, prefix, i)
			began := time.Now()
			if _, err := b.client.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create a data plane in %s: %w", namespace, err)
			}
			if i >= warmUp {
				took[namespace] = append(took[namespace], time.Since(began))
			}
		}
	}
	cpuAfter, callsAfter, err := b.spent(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "POST of %s; median of %d each, taken in turn:\n", what, n)
	for _, row := range []struct{ name, namespace string }{
		{"nobody is called", nobody}, {"a webhook pair that does nothing", nothing}, {"this product", product},
	} {
		p50 := median(took[row.namespace])
		fmt.Fprintf(b.out, "  %-34s %6.2f ms  %.2f times nobody, %.2f times a pair that does nothing\n", row.name,
			float64(p50.Microseconds())/1000, ratio(p50, median(took[nobody])), ratio(p50, median(took[nothing])))
	}
	reviewed := callsAfter - calls
	fmt.Fprintf(b.out, "CPU of the webhook's process per review (%d reviews; TLS, log, Events and caches included): %.3f ms\n\n",
		reviewed, float64((cpuAfter-cpu).Microseconds())/1000/float64(max(reviewed, 1)))
	return nil
}

// spent returns the CPU time that the webhook's process has used and the reviews that it has answered.
func (b *bench) spent(ctx context.Context) (time.Duration, int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.webhook.PID()))
	if err != nil {
		return 0, 0, fmt.Errorf("read the process's CPU time: %w", err)
	}
	// The fields behind the command's name, which ends with the last parenthesis: utime and stime are the 12th and 13th.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, 0, fmt.Errorf("read the process's CPU time: %w", err)
		}
		ticks += n
	}
	mutating, err := b.webhook.Calls(ctx, "/mutate")
	if err != nil {
		return 0, 0, err
	}
	validating, err := b.webhook.Calls(ctx, "/validate")
	// Linux reports the times in hundredths of a second.
	return time.Duration(ticks) * 10 * time.Millisecond, mutating + validating, err
}

// withResources returns the data plane with resources of its own.
func withResources(object []byte) ([]byte, error) {
	d := &appsv1.Deployment{}
	if err := json.Unmarshal(object, d); err != nil {
		return nil, fmt.Errorf("decode the data plane: %w", err)
	}
	proxy := policy.Default().Resources.Proxy
	d.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: proxy.Requests, Limits: proxy.Limits}
	return json.Marshal(d)
}

// serveNothing registers a mutating and a validating webhook that admit everything as it is.
func (b *bench) serveNothing(ctx context.Context) (stop func(), err error) {
	server := httptest.NewUnstartedServer(&admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })})
	server.EnableHTTP2 = true
	server.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	name, none, equivalent, fail := "nothing.bench.kdp-webhook.io", admissionregistrationv1.SideEffectClassNone,
		admissionregistrationv1.Equivalent, admissionregistrationv1.Fail
	url := server.URL
	clientConfig := admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca}
	rules := []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
	}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: nothing}}
	versions := []string{"v1"}
	registration := b.client.AdmissionregistrationV1()
	_, mutatingErr := registration.MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: name, ClientConfig: clientConfig, Rules: rules, NamespaceSelector: selector, SideEffects: &none,
			MatchPolicy: &equivalent, FailurePolicy: &fail, AdmissionReviewVersions: versions,
		}},
	}, metav1.CreateOptions{})
	_, validatingErr := registration.ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: name, ClientConfig: clientConfig, Rules: rules, NamespaceSelector: selector, SideEffects: &none,
			MatchPolicy: &equivalent, FailurePolicy: &fail, AdmissionReviewVersions: versions,
		}},
	}, metav1.CreateOptions{})
	if err := errors.Join(mutatingErr, validatingErr); err != nil {
		server.Close()
		return nil, fmt.Errorf("register the webhooks that do nothing: %w", err)
	}
	return server.Close, nil
}

// memory fills the cluster and reads the process's resident memory, as it has grown and after a restart.
func (b *bench) memory(ctx context.Context, object []byte, n int, idle float64) error {
	for _, namespace := range []string{nobody, nothing, product} {
		// What the requests left behind would be counted as well.
		if err := b.client.AppsV1().Deployments(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return fmt.Errorf("delete the data planes of %s: %w", namespace, err)
		}
	}
	fmt.Fprintf(b.out, "Resident memory of the webhook's process:\n  %-52s %5.1f MiB\n", "nothing in the cluster", idle)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range n {
		group.Go(func() error { return b.createPair(ctx, object, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	grown, err := residentMiB(b.webhook.PID())
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  %-52s %5.1f MiB\n", fmt.Sprintf("%d Deployments and %d HPAs, as they came", n, n), grown)
	if err := b.webhook.Stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := b.webhook.Start(ctx); err != nil {
		return err
	}
	restarted, err := residentMiB(b.webhook.PID())
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  %-52s %5.1f MiB, ready after %.1f s\n", "the same after a restart", restarted, time.Since(began).Seconds())
	return nil
}

// createPair creates a data plane and its HPA where nobody is called: the informers see them all the same.
func (b *bench) createPair(ctx context.Context, object []byte, i int) error {
	d := &appsv1.Deployment{}
	if err := json.Unmarshal(object, d); err != nil {
		return fmt.Errorf("decode the data plane: %w", err)
	}
	d.Name = fmt.Sprintf("kong-dp-team-%d", i)
	if _, err := b.client.AppsV1().Deployments(nobody).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create a data plane: %w", err)
	}
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: d.Name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas:    20,
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name},
		},
	}
	if _, err := b.client.AutoscalingV2().HorizontalPodAutoscalers(nobody).Create(ctx, hpa, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create an HPA: %w", err)
	}
	return nil
}

// residentMiB returns a process's resident memory in MiB.
func residentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the process's memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, errors.New("read the process's memory: no VmRSS")
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
