package policy_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

var update = flag.Bool("update", false, "write what is seen into testdata")

const header = "apiVersion: kdp-webhook.io/v1alpha1\nkind: DataPlanePolicy\n"

// quantities compares quantities by value.
var quantities = cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })

// text returns the errors as a user sees them, one per line.
func text(errs field.ErrorList) string {
	var b strings.Builder
	for _, err := range errs {
		b.WriteString(err.Error() + "\n")
	}
	return b.String()
}

// parse parses a document that must be good.
func parse(t *testing.T, doc string) *policy.Document {
	t.Helper()
	d, errs := policy.Parse([]byte(doc))
	if len(errs) > 0 {
		t.Fatalf("the document is refused:\n%s", text(errs))
	}
	return d
}

// Each folder holds a document, and every error that it must be refused with, all at once.
func TestABrokenDocumentIsRefusedWithEveryErrorAtOnce(t *testing.T) {
	cases, err := filepath.Glob("testdata/broken/*/policy.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range cases {
		folder := filepath.Dir(path)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			doc, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d, errs := policy.Parse(doc)
			if d != nil {
				t.Errorf("a document came back: %v", d)
			}
			golden(t, filepath.Join(folder, "errors.txt"), text(errs))
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if got == "" {
		t.Error("nothing is refused")
	}
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestADocumentLongerThanAConfigMapMayBeIsRefused(t *testing.T) {
	_, errs := policy.Parse([]byte(header + strings.Repeat("# padding\n", 1<<17)))
	if diff := cmp.Diff("policy.yaml: Too long: may not be more than 1048576 bytes\n", text(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestADocumentThatExpandsWithoutEndIsRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString(header + "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		from := string(rune('0' + i))
		to := string(rune('1' + i))
		b.WriteString("a" + to + ": &a" + to + " [" + strings.TrimSuffix(strings.Repeat("*a"+from+",", 10), ",") + "]\n")
	}
	_, errs := policy.Parse([]byte(b.String()))
	if diff := cmp.Diff("policy.yaml: Invalid value: document contains excessive aliasing\n", text(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestGoodDocuments(t *testing.T) {
	changed := func(change func(d *policy.Document)) *policy.Document {
		d := policy.Default()
		change(d)
		return d
	}
	tests := map[string]struct {
		doc  string
		want *policy.Document
	}{
		"the least there can be is the built-in policy": {doc: header, want: policy.Default()},
		"comments and separators around it": {
			doc: "# ours\n---\n" + header + "---\n# the end\n", want: policy.Default(),
		},
		"the same in JSON": {
			doc: `{"apiVersion":"kdp-webhook.io/v1alpha1","kind":"DataPlanePolicy"}`, want: policy.Default(),
		},
		"empty sections": {
			doc:  header + "match: {}\nresources: {}\nautoscaling: {}\nreplicas: {}\nbreakGlass: {}\n",
			want: policy.Default(),
		},
		"sections, fields and lists that are null": {
			doc: header + "mode:\nmatch:\nresources: {proxy: null, sidecars: ~, onUpdate: null}\n" +
				"autoscaling: {minReplicas: null, maxReplicas: {max: null}, ensure: null}\nreplicas: {autoscalers: null}\nbreakGlass:\n",
			want: policy.Default(),
		},
		"a max below the built-in default lowers the default": {
			doc:  header + "autoscaling: {maxReplicas: {max: 15}}\n",
			want: changed(func(d *policy.Document) { d.Autoscaling.MaxReplicas = policy.Bounds{Default: 15, Min: 1, Max: 15} }),
		},
		"a max above the built-in default leaves it": {
			doc:  header + "autoscaling: {maxReplicas: {max: 50}}\n",
			want: changed(func(d *policy.Document) { d.Autoscaling.MaxReplicas = policy.Bounds{Default: 20, Min: 1, Max: 50} }),
		},
		"a min above the built-in default raises the default": {
			doc: header + "autoscaling: {minReplicas: {min: 3}, targetCPUUtilization: {min: 80}}\n",
			want: changed(func(d *policy.Document) {
				d.Autoscaling.MinReplicas = policy.Bounds{Default: 3, Min: 3, Max: 20}
				d.Autoscaling.TargetCPUUtilization = policy.Bounds{Default: 80, Min: 80, Max: 90}
			}),
		},
		"a default that is given stays": {
			doc:  header + "autoscaling: {minReplicas: {default: 2, min: 0}}\n",
			want: changed(func(d *policy.Document) { d.Autoscaling.MinReplicas = policy.Bounds{Default: 2, Min: 0, Max: 20} }),
		},
		"zero is given too": {
			doc:  header + "autoscaling: {minReplicas: {default: 0, min: 0}}\n",
			want: changed(func(d *policy.Document) { d.Autoscaling.MinReplicas = policy.Bounds{Default: 0, Min: 0, Max: 20} }),
		},
		"one choice beside all defaults": {
			doc:  header + "replicas: {onOverride: Preserve}\n",
			want: changed(func(d *policy.Document) { d.Replicas.OnOverride = policy.Preserve }),
		},
		"everything is false": {
			doc: header + "autoscaling: {ensure: false, replaceServerDefault: false, allowOptOut: false}\nreplicas: {releaseOwnership: false}\n",
			want: changed(func(d *policy.Document) {
				d.Autoscaling.Ensure, d.Autoscaling.ReplaceServerDefault, d.Autoscaling.AllowOptOut = false, false, false
				d.Replicas.ReleaseOwnership = false
			}),
		},
		"an Off without quotes, which YAML takes for false": {
			doc: header + "mode: Off\nresources: {mode: off}\nautoscaling: {computable: {mode: Off}}\n",
			want: changed(func(d *policy.Document) {
				d.Mode, d.Resources.Mode, d.Autoscaling.Computable.Mode = policy.Off, policy.Off, policy.Off
			}),
		},
		"a mode for a section alone": {
			doc: header + "mode: Warn\nreplicas: {mode: Enforce}\nautoscaling: {computable: {mode: \"Off\"}}\n",
			want: changed(func(d *policy.Document) {
				d.Mode, d.Replicas.Mode, d.Autoscaling.Computable.Mode = policy.Warn, policy.Enforce, policy.Off
			}),
		},
		"the proxy's resources are taken whole, not merged with the built-in ones": {
			doc: header + "resources: {proxy: {requests: {cpu: 1}}}\n",
			want: changed(func(d *policy.Document) {
				d.Resources.Proxy = &policy.ContainerResources{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}
			}),
		},
		"lists are taken whole": {
			doc: header + "match: {dataPlane: [{image: \"kong:*\"}]}\nreplicas: {autoscalers: [keda]}\nbreakGlass: {groups: [sre], maxDuration: 90m}\n",
			want: changed(func(d *policy.Document) {
				d.Match.DataPlane = []policy.DataPlaneMatch{{Image: "kong:*"}}
				d.Replicas.Autoscalers = []string{"keda"}
				d.BreakGlass.Groups = []string{"sre"}
				d.BreakGlass.MaxDuration.Duration = 90 * time.Minute
			}),
		},
		"nobody's scale writes are free": {
			doc:  header + "replicas: {autoscalers: []}\n",
			want: changed(func(d *policy.Document) { d.Replicas.Autoscalers = []string{} }),
		},
		"no break glass": {
			doc: header + "breakGlass: {groups: []}\n", want: policy.Default(),
		},
		"quantities without a unit": {
			doc: header + "resources: {proxy: {requests: {cpu: 0.5, memory: 1e9}, limits: {}}}\n",
			want: changed(func(d *policy.Document) {
				d.Resources.Proxy = &policy.ContainerResources{
					Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1G"),
					},
					Limits: corev1.ResourceList{},
				}
			}),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parse(t, tt.doc), quantities); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheSampleSaysWhatIsBuiltIn(t *testing.T) {
	raw, err := os.ReadFile("../../config/samples/default.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sample corev1.ConfigMap
	if err := yaml.UnmarshalStrict(raw, &sample); err != nil {
		t.Fatal(err)
	}
	if sample.Labels[policy.Label] != "true" {
		t.Errorf("labels %v do not make it a policy", sample.Labels)
	}
	if diff := cmp.Diff(policy.Default(), parse(t, sample.Data[policy.DataKey]), quantities); diff != "" {
		t.Errorf("(-built in +sample):\n%s", diff)
	}
}

func TestTheBuiltInPolicyIsValid(t *testing.T) {
	if errs := policy.Validate(policy.Default()); len(errs) > 0 {
		t.Errorf("errors:\n%s", text(errs))
	}
}

func TestTheModeOfASection(t *testing.T) {
	d := parse(t, header+"mode: Audit\nreplicas: {mode: Enforce}\n")
	if got := d.SectionMode(d.Replicas.Mode); got != policy.Enforce {
		t.Errorf("of its own: %s", got)
	}
	if got := d.SectionMode(d.Resources.Mode); got != policy.Audit {
		t.Errorf("the document's: %s", got)
	}
}

func TestBoundsIncludeBothEnds(t *testing.T) {
	b := policy.Bounds{Min: 2, Max: 4}
	for v, want := range map[int32]bool{1: false, 2: true, 3: true, 4: true, 5: false} {
		if b.Contains(v) != want {
			t.Errorf("Contains(%d) = %v", v, !want)
		}
	}
}
