package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// hierarchy is a mounted cgroup tree: version 1 has one per controller, version 2 a single one.
type hierarchy struct {
	mount   string
	version int
}

func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := parseHierarchies(string(text))
	if len(found) == 0 {
		return nil, errors.New("no cgroup filesystem is mounted; a kubelet needs one (usually at /sys/fs/cgroup)")
	}
	return found, nil
}

// parseHierarchies parses /proc/self/mountinfo: the mount point is field 5, and the filesystem's
// type follows a single dash.
func parseHierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) == 0 || seen[fields[4]] {
			continue
		}
		switch kind[0] {
		case "cgroup":
			found = append(found, hierarchy{mount: fields[4], version: 1})
		case "cgroup2":
			found = append(found, hierarchy{mount: fields[4], version: 2})
		default:
			continue
		}
		seen[fields[4]] = true
	}
	return found
}

// AddCgroup creates a cgroup of this name at the top of every hierarchy, for a kubelet to create
// pods' cgroups in.
func AddCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if h.version == 2 {
			enableControllers(h.mount)
		}
		dir := filepath.Join(h.mount, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the cgroup %s (root with a writable %s is needed): %w", dir, h.mount, err)
		}
		if h.version == 2 {
			enableControllers(dir)
		} else if err := inheritCpuset(h.mount, dir); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers enables every controller of a version 2 cgroup for its children. Controllers
// that cannot be enabled are skipped: the kubelet reports those that it needs.
func enableControllers(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for controller := range strings.FieldsSeq(string(text)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// inheritCpuset copies the parent's processors and memory nodes to a version 1 cpuset; without them
// no process can join it.
func inheritCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another controller's hierarchy
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cgroupsWithPrefix lists the cluster's top-level cgroups in every hierarchy.
func cgroupsWithPrefix(prefix string) []string {
	all, err := hierarchies()
	if err != nil {
		return nil
	}
	var dirs []string
	for _, h := range all {
		found, _ := filepath.Glob(filepath.Join(h.mount, prefix+"*"))
		dirs = append(dirs, found...)
	}
	return dirs
}

// cgroupMembers lists the processes in the cluster's cgroups.
func cgroupMembers(prefix string) map[int]bool {
	members := map[int]bool{}
	for _, top := range cgroupsWithPrefix(prefix) {
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || entry.Name() != "cgroup.procs" {
				return nil // a cgroup may be removed meanwhile
			}
			text, _ := os.ReadFile(path)
			for word := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
					members[pid] = true
				}
			}
			return nil
		})
	}
	return members
}

// RemoveCgroups removes the cluster's cgroups; they must be empty.
func RemoveCgroups(prefix string) error {
	var failed error
	for _, top := range cgroupsWithPrefix(prefix) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = fmt.Errorf("remove the cgroup %s: %w", dirs[i], err)
			}
		}
	}
	return failed
}
