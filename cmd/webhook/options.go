package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// options are the server's flags.
type options struct {
	// namespace is the webhook's own: its policies and its CA live there.
	namespace string
	// instance names this process in Events.
	instance string
	// dataPlanes recognizes the data planes that the API server sends.
	dataPlanes *policy.DataPlanes

	webhookAddress hostPort
	metricsAddress string
	probeAddress   string
	pprofAddress   string

	dnsNames                       []string
	caSecret                       string
	mutatingWebhookConfiguration   string
	validatingWebhookConfiguration string

	logLevel zapcore.Level
}

type hostPort struct {
	host string
	port int
}

// parseOptions reads and validates the flags; it reports all that is wrong at once.
func parseOptions(args []string, output io.Writer) (*options, error) {
	o := &options{}
	var dataPlanes, dnsNames, webhookAddress, logLevel string
	fs := flag.NewFlagSet("webhook", flag.ContinueOnError)
	fs.SetOutput(output)
	config.RegisterFlags(fs)
	fs.StringVar(&o.namespace, "namespace", "", "the webhook's own namespace, where its policies and its CA live (required)")
	fs.StringVar(&o.instance, "instance", hostname(), "name of this process in Events, at most 128 characters; in a Pod the Pod's name")
	fs.StringVar(&dataPlanes, "data-planes", `[{"env":{"name":"KONG_ROLE","value":"data_plane"}}]`,
		"JSON list of what makes a Deployment a data plane, as in a policy's match.dataPlane; the list that the webhook configurations' matchConditions are rendered from")
	fs.StringVar(&webhookAddress, "webhook-bind-address", ":9443", "address that the API server calls")
	fs.StringVar(&o.metricsAddress, "metrics-bind-address", ":8080", "address of /metrics; 0 for none")
	fs.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	fs.StringVar(&o.pprofAddress, "pprof-bind-address", "", "address of /debug/pprof; empty for none")
	fs.StringVar(&dnsNames, "serving-dns-names", "", "comma-separated names that the serving certificate is for (required)")
	fs.StringVar(&o.caSecret, "ca-secret", "kdp-webhook-ca", "Secret of the own namespace that keeps the CA")
	fs.StringVar(&o.mutatingWebhookConfiguration, "mutating-webhook-configuration", "kdp-webhook", "own MutatingWebhookConfiguration, whose caBundle is kept up to date")
	fs.StringVar(&o.validatingWebhookConfiguration, "validating-webhook-configuration", "kdp-webhook", "own ValidatingWebhookConfiguration, whose caBundle is kept up to date")
	fs.StringVar(&logLevel, "log-level", "info", "debug, info or error")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}

	var errs []error
	for i, arg := range fs.Args() {
		errs = append(errs, fmt.Errorf("argument %d: %q is not a flag", i+1, arg))
	}
	if o.namespace == "" {
		errs = append(errs, errors.New("--namespace: required"))
	}
	if o.instance == "" || len(o.instance) > 128 {
		errs = append(errs, fmt.Errorf("--instance: %q must have 1 to 128 characters", o.instance))
	}
	var err error
	if o.dataPlanes, err = parseDataPlanes(dataPlanes); err != nil {
		errs = append(errs, fmt.Errorf("--data-planes: %w", err))
	}
	if o.dnsNames, err = parseDNSNames(dnsNames); err != nil {
		errs = append(errs, fmt.Errorf("--serving-dns-names: %w", err))
	}
	if o.webhookAddress, err = parseHostPort(webhookAddress); err != nil {
		errs = append(errs, fmt.Errorf("--webhook-bind-address: %w", err))
	}
	for _, name := range []struct{ flag, value string }{
		{"ca-secret", o.caSecret},
		{"mutating-webhook-configuration", o.mutatingWebhookConfiguration},
		{"validating-webhook-configuration", o.validatingWebhookConfiguration},
	} {
		if problems := validation.IsDNS1123Subdomain(name.value); len(problems) > 0 {
			errs = append(errs, fmt.Errorf("--%s: %q: %s", name.flag, name.value, strings.Join(problems, "; ")))
		}
	}
	if err := o.logLevel.UnmarshalText([]byte(logLevel)); err != nil ||
		!slices.Contains([]zapcore.Level{zapcore.DebugLevel, zapcore.InfoLevel, zapcore.ErrorLevel}, o.logLevel) {
		errs = append(errs, fmt.Errorf("--log-level: %q must be debug, info or error", logLevel))
	}
	return o, errors.Join(errs...)
}

// hostname is the Pod's name in a Pod.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func parseDataPlanes(text string) (*policy.DataPlanes, error) {
	var entries []policy.DataPlaneMatch
	if err := yaml.UnmarshalStrict([]byte(text), &entries); err != nil {
		return nil, fmt.Errorf("must be a JSON list of entries: %w", err)
	}
	if len(entries) == 0 {
		return nil, errors.New("must have at least one entry")
	}
	if errs := policy.ValidateDataPlanes(entries, field.NewPath("dataPlanes")); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return policy.CompileDataPlanes(entries)
}

func parseDNSNames(text string) ([]string, error) {
	names := strings.Split(text, ",")
	var errs []error
	for _, name := range names {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			errs = append(errs, fmt.Errorf("%q: %s", name, strings.Join(problems, "; ")))
		}
	}
	return names, errors.Join(errs...)
}

func parseHostPort(text string) (hostPort, error) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return hostPort{}, fmt.Errorf("%q must be HOST:PORT or :PORT: %w", text, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 1 || port > 65535 {
		return hostPort{}, fmt.Errorf("%q: the port must be between 1 and 65535", text)
	}
	return hostPort{host: host, port: port}, nil
}
