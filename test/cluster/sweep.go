//go:build unix

package cluster

import (
	"os"
	"path/filepath"
	"time"

	"github.com/kdp-webhook/kdp-webhook/test/cluster/internal/child"
)

const (
	temporaryPrefix = "kdp-cluster-"
	// keepAbandoned leaves time to look into the logs of a cluster whose owner was killed.
	keepAbandoned = time.Hour
)

// sweepAbandoned removes the temporary folders, some 70 MB each, that killed
// owners left in dir. It is a courtesy: what it may not or cannot remove stays.
func sweepAbandoned(dir string, now time.Time) {
	states, err := filepath.Glob(filepath.Join(dir, temporaryPrefix+"*"))
	if err != nil {
		return
	}
	for _, state := range states {
		info, err := os.Stat(state)
		if err != nil || now.Sub(info.ModTime()) < keepAbandoned {
			continue
		}
		// Held by the owner, and by the leashes until their programs are gone.
		owner, err := child.TryLock(filepath.Join(state, "bin", "owner"))
		if err != nil {
			continue
		}
		_ = os.RemoveAll(state)
		_ = owner.Close()
	}
}
