//go:build unix

package child

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked is returned by TryLock when another holder has the file.
var ErrLocked = errors.New("locked by another process")

// TryLock takes the exclusive lock of the file at path, which it creates where
// absent. The kernel lets go of it when the returned file is closed, also by
// the holder's death.
func TryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, ErrLocked)
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// AwaitUnlock returns when nobody holds the exclusive lock of the file at path,
// at once when nobody does.
func AwaitUnlock(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("await lock: %w", err)
	}
	defer func() { _ = f.Close() }()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("await lock %s: %w", path, err)
		}
		return nil
	}
}
