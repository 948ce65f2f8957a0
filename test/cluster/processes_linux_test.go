package cluster

import (
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// parentOf returns a process's parent, 0 when the process is gone or a zombie.
func parentOf(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// pid (name, which may hold spaces and parentheses) state ppid …
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if fields[0] == "Z" {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// descendants returns the living processes below pid.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	entries, err := fs.ReadDir(os.DirFS("/proc"), ".")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, e := range entries {
		if p, err := strconv.Atoi(e.Name()); err == nil {
			parents[p] = parentOf(p)
		}
	}
	var found []int
	for p := range parents {
		for up := parents[p]; up > 1; up = parents[up] {
			if up == pid {
				found = append(found, p)
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

// alive returns those of the processes that have not ended.
func alive(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return parentOf(pid) == 0 })
}
