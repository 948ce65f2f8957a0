//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/test/harness"
)

// realDataPlane is the manifest of KONG_MANIFESTS that is measured with.
const realDataPlane = "kong-3.4.1-dataplane.yaml"

// dataPlane returns a data plane without resources as JSON, and where it comes from: the real chart's where
// KONG_MANIFESTS has it, else one of the same size.
func dataPlane() (object []byte, source string, err error) {
	d := madeUp()
	source = "made up, as large as chart 3.4.1's"
	if dir := harness.Manifests(); dir != "" {
		if d, err = fromManifest(filepath.Join(dir, realDataPlane)); err != nil {
			return nil, "", err
		}
		source = "the real chart's, " + realDataPlane
	}
	d.Namespace = ""
	object, err = json.Marshal(d)
	return object, source, err
}

func fromManifest(path string) (*appsv1.Deployment, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the data plane: %w", err)
	}
	defer func() { _ = f.Close() }()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(f))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the data plane: %s has no Deployment", path)
		}
		if err != nil {
			return nil, fmt.Errorf("read the data plane: %w", err)
		}
		d := &appsv1.Deployment{}
		if err := yaml.Unmarshal(doc, d); err != nil {
			return nil, fmt.Errorf("read the data plane: %w", err)
		}
		if d.Kind == "Deployment" {
			return d, nil
		}
	}
}

// madeUp builds a Deployment of the shape and size that the Kong chart renders.
func madeUp() *appsv1.Deployment {
	env := []corev1.EnvVar{{Name: "KONG_ROLE", Value: "data_plane"}}
	for i := range 42 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprintf("KONG_SETTING_NUMBER_%d", i), Value: "0.0.0.0:8000, [::]:8000, 0.0.0.0:8443"})
	}
	labels := map[string]string{
		"app.kubernetes.io/name": "kong", "app.kubernetes.io/instance": "kong-dp", "app.kubernetes.io/component": "app",
	}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "kong-dp-kong", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					InitContainers: []corev1.Container{{Name: "clear-stale-pid", Image: "kong/kong-gateway:3.11", Env: env}},
					Containers:     []corev1.Container{{Name: "proxy", Image: "kong/kong-gateway:3.11", Env: env}},
				},
			},
		},
	}
}
