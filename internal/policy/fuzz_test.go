package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

// FuzzParse: no document makes Parse panic; what it takes is valid, and is the same document when it is written down
// and parsed again.
func FuzzParse(f *testing.F) {
	cases, err := filepath.Glob("testdata/broken/*/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range cases {
		doc, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	for _, doc := range []string{
		"", "mode: Off\nautoscaling: {maxReplicas: {max: 15}, minSpread: 3}\n",
		"match: {namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}, dataPlane: [{image: \"kong:*\"}]}\n",
		"resources: {mode: Audit, onUpdate: Always, proxy: {limits: {cpu: 1e3}}, sidecars: {requests: {cpu: 100m}}}\n",
		"replicas: {autoscalers: [a, b], onReset: Reject}\nbreakGlass: {groups: [sre], maxDuration: 1h30m}\n",
		"resources: {proxy: {requests: {cpu: 0.0000001, memory: 1.5Gi}}}\n",
		"resources: {proxy: {requests: {}}, sidecars: {limits: {}}}\nreplicas: {autoscalers: []}\n",
		"priority: 1e2\nautoscaling: {minSpread: 0x1F}\n",
	} {
		f.Add([]byte(header + doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		d, errs := policy.Parse(doc)
		if (d == nil) != (len(errs) > 0) {
			t.Fatalf("a document and errors, or neither: %v, %v", d, errs)
		}
		for _, err := range errs {
			if err.Field == "" || err.Error() == "" {
				t.Errorf("an error about nothing: %#v", err)
			}
		}
		if d == nil {
			return
		}
		if _, err := policy.New(policy.Ref{Name: "fuzz"}, d); err != nil {
			t.Errorf("a valid document cannot be put in force: %v", err)
		}
		written, err := yaml.Marshal(d)
		if err != nil {
			t.Fatalf("marshal: %v", err)
		}
		again, errs := policy.Parse(written)
		if len(errs) > 0 {
			t.Fatalf("written down it is refused:\n%s\n%s", text(errs), written)
		}
		if diff := cmp.Diff(d, again, quantities, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("written down it is another (-first +second):\n%s", diff)
		}
	})
}
