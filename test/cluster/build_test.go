//go:build unix

package cluster

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTwoBuildsOfOneComponentAtOnceCompileItOnce(t *testing.T) {
	t.Setenv("KDP_CACHE", t.TempDir())
	t.Setenv("KUBEBUILDER_ASSETS", "/nonexistent") // holds nothing for components that are always built
	t.Setenv("GOFLAGS", "-race -mod=mod")          // must not reach the build
	type result struct {
		path, progress string
		err            error
	}
	results := make(chan result)
	for range 2 {
		go func() {
			var progress bytes.Buffer
			paths, err := Build(t.Context(), &progress, leash)
			results <- result{paths[leash], progress.String(), err}
		}()
	}
	first, second := <-results, <-results
	if err := errors.Join(first.err, second.err); err != nil {
		t.Fatal(err)
	}
	if first.path != second.path || !filepath.IsAbs(first.path) {
		t.Errorf("got paths %q and %q, want the same absolute one", first.path, second.path)
	}
	if built := strings.Count(first.progress+second.progress, "built leash in "); built != 1 {
		t.Errorf("built %d times, want once:\n%s%s", built, first.progress, second.progress)
	}

	var progress bytes.Buffer
	third, err := Build(t.Context(), &progress, leash)
	if err != nil || third[leash] != first.path || progress.Len() > 0 {
		t.Errorf("with a warm cache got %q, %v and progress %q; want %q and none", third[leash], err, &progress, first.path)
	}
}

func TestAssetsReplaceBuiltBinaries(t *testing.T) {
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	if err := os.WriteFile(filepath.Join(assets, "etcd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	paths, err := Build(t.Context(), nil, Etcd)
	if want := filepath.Join(assets, "etcd"); err != nil || paths[Etcd] != want {
		t.Errorf("got %q, %v, want %q", paths[Etcd], err, want)
	}
	_, err = Build(t.Context(), nil, Etcd, Kubectl)
	missing := filepath.Join(assets, "kubectl")
	want := "kubectl: KUBEBUILDER_ASSETS is set, but: stat " + missing + ": no such file or directory"
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAnUnknownComponentIsNamed(t *testing.T) {
	_, err := Build(t.Context(), nil, "kubelet")
	if want := `kubelet: unknown component "kubelet"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestEveryComponentIsStampedWithTheVersionThatItsModuleRequires(t *testing.T) {
	for _, c := range Components() {
		j, err := plan(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(j.version, "v") || !strings.Contains(j.path, string(c)+"-"+j.version+"-") {
			t.Errorf("%s: version %q, path %q", c, j.version, j.path)
		}
	}
	got := recipe{stamp: []string{"p.version=VERSION", "p.short=MAJOR.MINOR"}}.ldflags("v1.37.2")
	if want := "-s -w -X p.version=v1.37.2 -X p.short=1.37"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheCacheKeyFollowsTheSources(t *testing.T) {
	key := func(files map[string]string) string {
		dir := t.TempDir()
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var b strings.Builder
		if err := hashFiles(&b, dir); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	base := key(map[string]string{"go.mod": "a", "go.sum": "b"})
	if again := key(map[string]string{"go.mod": "a", "go.sum": "b"}); again != base {
		t.Errorf("the same sources differ: %q, %q", base, again)
	}
	for name, files := range map[string]map[string]string{
		"a file's content": {"go.mod": "a", "go.sum": "c"},
		"a further file":   {"go.mod": "a", "go.sum": "b", "main.go": ""},
		"a file's name":    {"go.mod": "a", "go.sun": "b"},
	} {
		if key(files) == base {
			t.Errorf("%s makes no difference", name)
		}
	}
}
