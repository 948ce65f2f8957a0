package mutate_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/kdp-webhook/kdp-webhook/internal/kube"
	"github.com/kdp-webhook/kdp-webhook/internal/mutate"
	"github.com/kdp-webhook/kdp-webhook/internal/policy"
)

var update = flag.Bool("update", false, "write what is seen into testdata")

// quantities compares quantities by value.
var quantities = cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })

// folders returns the cases of a kind.
func folders(t *testing.T, kind string) []string {
	t.Helper()
	objects, err := filepath.Glob(filepath.Join("testdata", kind, "*", "object.yaml"))
	if err != nil || len(objects) == 0 {
		t.Fatalf("no cases of %s: %v", kind, err)
	}
	for i := range objects {
		objects[i] = filepath.Dir(objects[i])
	}
	return objects
}

// read returns a file of a case as JSON, nil where there is none.
func read(t *testing.T, folder, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return raw
}

func readDeployment(t *testing.T, folder, file string) *kube.Deployment {
	t.Helper()
	raw := read(t, folder, file)
	if raw == nil {
		return nil
	}
	return decode(t, raw)
}

func decode(t testing.TB, raw []byte) *kube.Deployment {
	t.Helper()
	d, err := kube.DecodeDeployment(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// readPolicy returns a case's own policy, else the built-in one.
func readPolicy(t *testing.T, folder string) *policy.Policy {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "policy.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return policy.BuiltIn()
	}
	if err != nil {
		t.Fatal(err)
	}
	d, errs := policy.Parse(text)
	if len(errs) > 0 {
		t.Fatalf("policy.yaml: %v", errs.ToAggregate())
	}
	p, err := policy.New(policy.Ref{Name: "test", ResourceVersion: "1"}, d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readLimitRanges(t *testing.T, folder string) []*corev1.LimitRange {
	t.Helper()
	raw := read(t, folder, "limitranges.yaml")
	if raw == nil {
		return nil
	}
	var ranges []*corev1.LimitRange
	if err := json.Unmarshal(raw, &ranges); err != nil {
		t.Fatalf("limitranges.yaml: %v", err)
	}
	return ranges
}

// apply applies a patch as the API server does.
func apply(t testing.TB, raw []byte, patch mutate.Patch) []byte {
	t.Helper()
	if len(patch) == 0 {
		return raw
	}
	text, err := json.Marshal(patch)
	if err != nil {
		t.Fatalf("marshal patch: %v", err)
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatalf("decode patch: %v", err)
	}
	patched, err := decoded.Apply(raw)
	if err != nil {
		t.Fatalf("apply %s\nto %s: %v", text, raw, err)
	}
	return patched
}

// operations returns a patch as one line of JSON for each operation.
func operations(t *testing.T, patch mutate.Patch) []string {
	t.Helper()
	var lines []string
	for _, op := range patch {
		line, err := json.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}

// changeLines returns changes as a reader sees them.
func changeLines(changes []mutate.Change) []string {
	var lines []string
	for _, c := range changes {
		from, to := c.Old, c.New
		if from == "" {
			from = "absent"
		}
		if to == "" {
			to = "absent"
		}
		lines = append(lines, string(c.Rule)+": "+c.Field+": "+from+" -> "+to)
	}
	return lines
}

func noteLines(notes []mutate.Note) []string {
	var lines []string
	for _, n := range notes {
		lines = append(lines, string(n.Rule)+": "+n.Field+": "+n.Message)
	}
	return lines
}

// golden compares a value, as YAML, with a file of the case.
func golden(t *testing.T, folder, file string, value any) {
	t.Helper()
	got, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, file)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// differences returns the paths of a JSON document that a write touched.
func differences(before, after any, path string) []string {
	a, isMap := before.(map[string]any)
	b, bothMaps := after.(map[string]any)
	if isMap && bothMaps {
		var paths []string
		for key := range a {
			if _, has := b[key]; !has {
				paths = append(paths, path+"/"+key)
			}
		}
		for key := range b {
			if _, had := a[key]; !had {
				paths = append(paths, path+"/"+key)
			} else {
				paths = append(paths, differences(a[key], b[key], path+"/"+key)...)
			}
		}
		return paths
	}
	c, isList := before.([]any)
	d, bothLists := after.([]any)
	if isList && bothLists && len(c) == len(d) {
		var paths []string
		for i := range c {
			paths = append(paths, differences(c[i], d[i], path+"/"+string(rune('0'+i)))...)
		}
		return paths
	}
	if !cmp.Equal(before, after) {
		return []string{path}
	}
	return nil
}

// onlyUnder tells whether every path is one of the prefixes or below it.
func onlyUnder(paths []string, prefixes ...string) (string, bool) {
	for _, path := range paths {
		covered := false
		for _, prefix := range prefixes {
			covered = covered || strings.HasPrefix(path, prefix)
		}
		if !covered {
			return path, false
		}
	}
	return "", true
}

// generic decodes JSON with its numbers as they are written.
func generic(t testing.TB, raw []byte) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
