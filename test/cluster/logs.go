//go:build unix

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// LogTail returns the last lines of what a component, or a process started with
// StartProcess under that name, has written; why it cannot, where it cannot.
func (c *Cluster) LogTail(component string, lines int) string {
	return fileTail(c.logPath(component), lines)
}

func (c *Cluster) logPath(component string) string {
	return filepath.Join(c.dir, component+".log")
}

func (c *Cluster) openLog(component string) (*os.File, error) {
	f, err := os.OpenFile(c.logPath(component), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", component, err)
	}
	return f, nil
}

func fileTail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return lastLines(string(text), lines)
}

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
