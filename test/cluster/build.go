//go:build unix

package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

// progressEvery is the time between two progress lines of one build.
const progressEvery = 10 * time.Second

// Build returns the path of each component's binary. It builds what the cache
// does not hold yet and tells progress so, which may be nil. The cache is
// KDP_CACHE, by default a folder of the user's own cache folder; two processes
// that need the same binary at once build it once. Etcd, APIServer and Kubectl
// come from KUBEBUILDER_ASSETS instead when that is set.
func Build(ctx context.Context, progress io.Writer, components ...Component) (map[Component]string, error) {
	if progress == nil {
		progress = io.Discard
	}
	paths := make(map[Component]string, len(components))
	for _, c := range components {
		path, err := asset(c)
		if path == "" && err == nil {
			path, err = build(ctx, progress, c)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
		paths[c] = path
	}
	return paths, nil
}

// asset returns the component's path in KUBEBUILDER_ASSETS, "" when it is to be built.
func asset(c Component) (string, error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" || (c != Etcd && c != APIServer && c != Kubectl) {
		return "", nil
	}
	path, err := filepath.Abs(filepath.Join(assets, string(c)))
	if err != nil {
		return "", fmt.Errorf("KUBEBUILDER_ASSETS: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("KUBEBUILDER_ASSETS is set, but: %w", err)
	}
	return path, nil
}

// job is one component's build: what to run, and where the result belongs.
type job struct {
	component Component
	recipe    recipe
	dir       string // absolute; where `go build` runs
	version   string // "" for a component of this module
	ldflags   string
	path      string // of the binary in the cache
}

func build(ctx context.Context, progress io.Writer, c Component) (string, error) {
	j, err := plan(ctx, c)
	if err != nil {
		return "", err
	}
	if j.done() {
		return j.path, nil
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o750); err != nil {
		return "", fmt.Errorf("create the cache: %w", err)
	}
	unlock, err := j.lock(ctx, progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if j.done() {
		return j.path, nil
	}
	return j.path, j.run(ctx, progress)
}

func plan(ctx context.Context, c Component) (job, error) {
	r, err := recipeFor(c)
	if err != nil {
		return job{}, err
	}
	root, err := sourceDir()
	if err != nil {
		return job{}, err
	}
	j := job{component: c, recipe: r, dir: filepath.Join(root, r.dir)}
	if r.module != "" {
		if j.version, err = requiredVersion(ctx, j.dir, r.module); err != nil {
			return job{}, err
		}
	}
	j.ldflags = r.ldflags(j.version)
	toolchain, err := goTool(ctx, j.dir, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return job{}, err
	}
	key := sha256.New()
	say(key, "%s\n%s\n%s", toolchain, r.pkg, j.ldflags)
	for _, dir := range append([]string{r.dir}, r.sources...) {
		if err := hashFiles(key, filepath.Join(root, dir)); err != nil {
			return job{}, err
		}
	}
	cache, err := cacheDir()
	if err != nil {
		return job{}, err
	}
	folder := fmt.Sprintf("%s-%s-%s", c, j.version, hex.EncodeToString(key.Sum(nil))[:16])
	j.path = filepath.Join(cache, "components", strings.ReplaceAll(folder, "--", "-"), string(c))
	return j, nil
}

func cacheDir() (string, error) {
	if dir := os.Getenv("KDP_CACHE"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("KDP_CACHE: %w", err)
		}
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder (set KDP_CACHE): %w", err)
	}
	return filepath.Join(dir, "kdp-webhook"), nil
}

// hashFiles adds the name and content of every file below dir to w, in lexical order.
func hashFiles(w io.Writer, dir string) error {
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s %x\n", name, sha256.Sum256(content))
		return err
	})
	if err != nil {
		return fmt.Errorf("hash the sources: %w", err)
	}
	return nil
}

// say writes one line; that nobody can read it stops no build.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}

func (j job) done() bool {
	_, err := os.Stat(j.path)
	return err == nil
}

func (j job) title() string {
	return strings.TrimSpace(string(j.component) + " " + j.version)
}

// lock waits until no other process builds the same binary.
func (j job) lock(ctx context.Context, progress io.Writer) (unlock func(), err error) {
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	for told := false; ; told = true {
		f, err := child.TryLock(j.path + ".lock")
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, child.ErrLocked) {
			return nil, err
		}
		if !told {
			say(progress, "waiting for another process that builds %s", j.title())
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another process's build: %w", context.Cause(ctx))
		case <-poll.C:
		}
	}
}

// run compiles the component to a temporary name and moves it into place, so
// that the cache never holds half a binary.
func (j job) run(ctx context.Context, progress io.Writer) error {
	start := time.Now()
	elapsed := func() time.Duration { return time.Since(start).Round(time.Second) }
	finished := make(chan error, 1)
	temporary := j.path + ".tmp"
	go func() {
		_, err := goTool(ctx, j.dir, "build",
			"-trimpath", "-buildvcs=false", "-ldflags", j.ldflags, "-o", temporary, j.recipe.pkg)
		finished <- err
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	say(progress, "building %s …", j.title())
	for {
		select {
		case <-tick.C:
			say(progress, "building %s … %s", j.title(), elapsed())
		case err := <-finished:
			if err != nil {
				return err
			}
			if err := os.Rename(temporary, j.path); err != nil {
				return fmt.Errorf("move the binary into the cache: %w", err)
			}
			say(progress, "built %s in %s", j.title(), elapsed())
			return nil
		}
	}
}
