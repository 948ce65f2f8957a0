//go:build unix

package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

func TestOnlyOldFoldersWithoutAnOwnerAreSwept(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{
		"kdp-cluster-abandoned": 2 * keepAbandoned,
		"kdp-cluster-running":   2 * keepAbandoned,
		"kdp-cluster-recent":    keepAbandoned / 2,
		"something-else":        2 * keepAbandoned,
	} {
		if err := os.MkdirAll(filepath.Join(dir, name, "bin"), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "kdp-cluster-running" {
			owner, err := child.TryLock(filepath.Join(dir, name, "bin", "owner"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = owner.Close() })
		}
		if err := os.Chtimes(filepath.Join(dir, name), now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}

	sweepAbandoned(dir, now)

	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"kdp-cluster-recent", "kdp-cluster-running", "something-else"}; !slices.Equal(left, want) {
		t.Errorf("got %q left, want %q", left, want)
	}
}
