package main

import (
	"bytes"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zapcore"
)

func TestGoodOptions(t *testing.T) {
	o, err := parseOptions([]string{
		"--namespace=kdp-system", "--instance=pod-1", "--serving-dns-names=kdp-webhook.kdp-system.svc,localhost",
		"--webhook-bind-address=127.0.0.1:9444", "--log-level=debug",
		`--data-planes=[{"env":{"name":"ROLE","value":"gateway"}},{"image":"kong/*"}]`,
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kdp-webhook.kdp-system.svc", "localhost"}, o.dnsNames); diff != "" {
		t.Error(diff)
	}
	if o.webhookAddress != (hostPort{host: "127.0.0.1", port: 9444}) || o.logLevel != zapcore.DebugLevel || o.caSecret != "kdp-webhook-ca" {
		t.Errorf("%+v", o)
	}
	if !o.dataPlanes.ReadsEnv("ROLE") || o.dataPlanes.ReadsEnv("KONG_ROLE") {
		t.Error("the data planes are not the ones given")
	}
}

func TestEverythingThatIsWrongWithTheOptionsIsToldAtOnce(t *testing.T) {
	_, err := parseOptions([]string{
		"--instance=" + strings.Repeat("x", 129), "--webhook-bind-address=9443", "--log-level=loud", "--ca-secret=No Name",
		`--data-planes=[{"env":{"name":"ROLE","value":"gateway"},"image":"kong/*"},{"image":"*"}]`, "--serving-dns-names=127.0.0.1:1", "stray",
	}, &bytes.Buffer{})
	if err == nil {
		t.Fatal("no error")
	}
	const dnsRule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character " +
		"(e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	want := []string{
		`argument 1: "stray" is not a flag`,
		"--namespace: required",
		`--instance: "` + strings.Repeat("x", 129) + `" must have 1 to 128 characters`,
		"--data-planes: [dataPlanes[0]: Invalid value: must have exactly one of env, labels, image, " +
			`dataPlanes[1].image: Invalid value: "*": must hold more than wildcards: this makes every Deployment a data plane]`,
		`--serving-dns-names: "127.0.0.1:1": ` + dnsRule,
		`--webhook-bind-address: "9443" must be HOST:PORT or :PORT: address 9443: missing port in address`,
		`--ca-secret: "No Name": ` + dnsRule,
		`--log-level: "loud" must be debug, info or error`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestDataPlanesThatAreNoListAreRefused(t *testing.T) {
	for _, text := range []string{"", "[]", "{}", `[{"environment":{}}]`, "no"} {
		if _, err := parseDataPlanes(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if _, err := parseOptions([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("error %v", err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if name, ok := strings.CutPrefix(line, "  -"); ok {
			got = append(got, strings.Fields(name)[0])
		}
	}
	want := []string{
		"ca-secret", "data-planes", "health-probe-bind-address", "instance", "kubeconfig", "log-level", "metrics-bind-address",
		"mutating-webhook-configuration", "namespace", "pprof-bind-address", "serving-dns-names", "validating-webhook-configuration",
		"webhook-bind-address",
	}
	if !slices.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}
