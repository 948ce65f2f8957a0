package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/kdp-webhook/kdp-webhook/internal/admission"
	"github.com/kdp-webhook/kdp-webhook/internal/audit"
	"github.com/kdp-webhook/kdp-webhook/internal/certs"
	"github.com/kdp-webhook/kdp-webhook/internal/cluster"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// eventsQPS bounds how many Events a second are written.
const eventsQPS = 200

// run wires the server up and serves until ctx ends.
func run(ctx context.Context, o *options) error {
	log := zap.New(zap.UseDevMode(false), zap.Level(o.logLevel), zap.WriteTo(os.Stdout),
		zap.StacktraceLevel(zapcore.PanicLevel))
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	ctx = logr.NewContext(ctx, log)
	log.Info("starting", "version", version, "namespace", o.namespace)

	cfg, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	// Live reads hold up somebody's write: the API server's own fairness bounds them, no limit of the client's.
	client, err := newClient(cfg, -1, 0)
	if err != nil {
		return err
	}
	eventsClient, err := newClient(cfg, eventsQPS, 2*eventsQPS)
	if err != nil {
		return err
	}

	events, err := audit.NewEvents(eventsClient.EventsV1(), o.instance, clock.RealClock{}, log.WithName("events"), metrics.Registry)
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	recorder, err := audit.NewRecorder(log.WithName("audit"), events, metrics.Registry)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	store := policy.NewStore()
	policies, err := policy.NewWatch(client, o.namespace, o.dataPlanes, store, recorder.RecordPolicy)
	if err != nil {
		return err
	}
	facts, err := cluster.NewInformers(client, o.dataPlanes)
	if err != nil {
		return fmt.Errorf("informers: %w", err)
	}
	serving, err := certs.New(cfg, client, certs.Options{
		Namespace: o.namespace, SecretName: o.caSecret, DNSNames: o.dnsNames,
		MutatingWebhookConfiguration: o.mutatingWebhookConfiguration, ValidatingWebhookConfiguration: o.validatingWebhookConfiguration,
	})
	if err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}

	server := webhook.NewServer(webhook.Options{
		Host: o.webhookAddress.host, Port: o.webhookAddress.port,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.MinVersion = tls.VersionTLS12
			c.GetCertificate = serving.GetCertificate
		}},
	})
	reviewer := &admission.Reviewer{Facts: facts, Policies: policies, Store: store, Recorder: recorder, Now: time.Now}
	reviewer.Register(server, log.WithName("admission"))

	mgr, err := ctrl.NewManager(cfg, manager.Options{
		// Nothing is read through the manager's own client or cache.
		Scheme:                 runtime.NewScheme(),
		Logger:                 log,
		Metrics:                metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress: o.probeAddress,
		PprofBindAddress:       o.pprofAddress,
		WebhookServer:          server,
		BaseContext:            func() context.Context { return ctx },
	})
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	for _, r := range []manager.Runnable{server, facts, policies, serving} {
		if err := mgr.Add(r); err != nil {
			return fmt.Errorf("manager: %w", err)
		}
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("healthz: %w", err)
	}
	for name, check := range map[string]healthz.Checker{
		"webhook-server": server.StartedChecker(),
		"facts":          func(*http.Request) error { return facts.Synced() },
		"policies":       func(*http.Request) error { return policies.Synced() },
		"certificate":    serving.Check,
	} {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("readyz: %w", err)
		}
	}
	// Events are written until the last review has been answered, which is when the manager has stopped.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	var written sync.WaitGroup
	written.Go(func() { events.Run(writing) })
	err = mgr.Start(ctx)
	stopWriting()
	written.Wait()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// newClient returns a client that speaks protobuf; qps -1 is without a limit.
func newClient(cfg *rest.Config, qps float32, burst int) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.UserAgent = rest.DefaultKubernetesUserAgent() + "/kdp-webhook"
	cfg.QPS, cfg.Burst = qps, burst
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return client, nil
}
