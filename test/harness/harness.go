//go:build unix

// Package harness installs the product into a cluster of test/cluster as a user would, by its chart, and runs the real
// webhook process beside it: with the chart's own ServiceAccount as its identity, so that a missing right fails a test.
package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kdp-webhook/kdp-webhook/test/cluster"
)

const (
	// Release is the name of the chart's release, and of what it renders.
	Release = "kdp-webhook"
	// Namespace is where the product is installed.
	Namespace = "kdp-system"
	// readyTimeout is generous: two busy cores take long.
	readyTimeout = 2 * time.Minute
	tokenSeconds = 24 * 60 * 60
)

// Options say what Install installs. The zero value is the chart's defaults.
type Options struct {
	// Values override the chart's, as a values file would.
	Values map[string]any
	// Race builds the webhook with the race detector, which makes it exit with status 66 when it finds one.
	Race bool
	// Progress is told what is built; nil: nobody.
	Progress io.Writer
	// LogLevel of the process; empty is info.
	LogLevel string
}

// Webhook is an installed product and its running process.
type Webhook struct {
	*cluster.Process
	// URL that the API server calls, without the path.
	URL string

	cluster *cluster.Cluster
	program cluster.Program
	metrics string
	probes  string
}

// Install applies the rendered chart, starts the process and waits until it is ready.
func Install(ctx context.Context, c *cluster.Cluster, o Options) (*Webhook, error) {
	var ports [3]int
	for i := range ports {
		port, err := cluster.FreePort()
		if err != nil {
			return nil, fmt.Errorf("install the webhook: %w", err)
		}
		ports[i] = port
	}
	w := &Webhook{
		cluster: c,
		// By name, since the certificate is for DNS names.
		URL:     fmt.Sprintf("https://localhost:%d", ports[0]),
		metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[1]),
		probes:  fmt.Sprintf("http://127.0.0.1:%d", ports[2]),
	}
	if err := w.applyChart(ctx, o); err != nil {
		return nil, fmt.Errorf("install the chart: %w", err)
	}
	kubeconfig, err := w.kubeconfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("get the ServiceAccount's token: %w", err)
	}
	binary, err := buildWebhook(ctx, c.Dir(), o)
	if err != nil {
		return nil, err
	}
	w.program = cluster.Program{
		Name: "webhook", Path: binary,
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--namespace=" + Namespace, "--instance=webhook",
			fmt.Sprintf("--webhook-bind-address=127.0.0.1:%d", ports[0]),
			fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[1]),
			fmt.Sprintf("--health-probe-bind-address=127.0.0.1:%d", ports[2]),
			"--serving-dns-names=localhost", "--ca-secret=" + Release + "-ca",
			"--mutating-webhook-configuration=" + Release, "--validating-webhook-configuration=" + Release,
		},
	}
	if o.LogLevel != "" {
		w.program.Args = append(w.program.Args, "--log-level="+o.LogLevel)
	}
	if planes, ok := o.Values["dataPlanes"]; ok {
		text, err := json.Marshal(planes)
		if err != nil {
			return nil, fmt.Errorf("marshal dataPlanes: %w", err)
		}
		w.program.Args = append(w.program.Args, "--data-planes="+string(text))
	}
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Start starts the process, the first time or after it was stopped, and waits until it is ready.
func (w *Webhook) Start(ctx context.Context) error {
	if err := w.Launch(); err != nil {
		return err
	}
	if err := w.AwaitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("start the webhook: %w\n%s", err, w.LogTail(30)), w.Stop())
	}
	return nil
}

// Launch starts the process and does not wait until it is ready.
func (w *Webhook) Launch() error {
	process, err := w.cluster.StartProcess(w.program)
	if err != nil {
		return fmt.Errorf("start the webhook: %w", err)
	}
	w.Process = process
	return nil
}

// Ready returns nil once the process says that it is ready, else what it says or why it says nothing.
func (w *Webhook) Ready(ctx context.Context) error {
	_, err := fetch(ctx, w.probes+"/readyz")
	return err
}

// AwaitReady waits until the process is ready.
func (w *Webhook) AwaitReady(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, readyTimeout, true, func(ctx context.Context) (bool, error) {
		if done, err := w.Exited(); done {
			return false, fmt.Errorf("it exited: %w", err)
		}
		last = w.Ready(ctx)
		return last == nil, nil
	})
	return errors.Join(err, last)
}

// applyChart renders the chart and applies it as the admin, the way `helm template | kubectl apply` does.
func (w *Webhook) applyChart(ctx context.Context, o Options) error {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return err
	}
	binaries, err := cluster.Build(ctx, o.Progress, cluster.Helm4)
	if err != nil {
		return err
	}
	values, err := json.Marshal(o.Values)
	if err != nil {
		return fmt.Errorf("marshal values: %w", err)
	}
	rendered, _, err := w.cluster.Run(ctx, cluster.Command{
		Program: binaries[cluster.Helm4],
		Args: []string{
			"template", Release, filepath.Join(root, "charts", "kdp-webhook"), "--namespace", Namespace,
			"--set", "webhook.url=" + w.URL, "--values", "-",
		},
		Stdin: strings.NewReader(string(values)),
	})
	if err != nil {
		return err
	}
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + Namespace + "\n---\n"
	_, _, err = w.cluster.Run(ctx, cluster.Command{
		Args: []string{"apply", "--server-side", "-f", "-"}, Stdin: strings.NewReader(namespace + rendered),
	})
	return err
}

// kubeconfig writes a kubeconfig whose only credential is a token of the chart's ServiceAccount.
func (w *Webhook) kubeconfig(ctx context.Context) (string, error) {
	admin := w.cluster.Config()
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return "", err
	}
	seconds := int64(tokenSeconds)
	token, err := client.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, Release,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	const name = "webhook"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	path := filepath.Join(w.cluster.Dir(), "webhook.kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// buildWebhook builds the command from the module's own source.
func buildWebhook(ctx context.Context, dir string, o Options) (string, error) {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "webhook")
	args := []string{"build", "-o", path}
	if o.Race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/webhook")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the webhook: %w\n%s", err, out)
	}
	return path, nil
}

// ModuleRoot returns the folder of this module.
func ModuleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Metric returns the sum of the process's samples of that name whose labels include the given ones; a counter that has
// not been touched counts as 0.
func (w *Webhook) Metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	body, err := fetch(ctx, w.metrics)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	var sum float64
	for _, m := range families[name].GetMetric() {
		matching := 0
		for _, l := range m.GetLabel() {
			if v, ok := labels[l.GetName()]; ok && v == l.GetValue() {
				matching++
			}
		}
		if matching == len(labels) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum, nil
}

// Calls returns how many reviews a path has answered, by the process's own counters.
func (w *Webhook) Calls(ctx context.Context, path string) (int, error) {
	sum, err := w.Metric(ctx, "controller_runtime_webhook_requests_total", map[string]string{"webhook": path})
	return int(sum), err
}

func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), nil
}

// Manifests returns the folder of Kong manifests that the environment names, or "".
func Manifests() string { return os.Getenv("KONG_MANIFESTS") }
