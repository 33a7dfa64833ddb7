// Package cgroups finds, reads and removes the cgroups of containers, on
// cgroup v1 (one hierarchy per controller), v2 and hosts that have both.
//
// It makes none and sets no limit: that is the OCI runtime's part.
package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// Unified tells whether Root is cgroup v2 alone.
func Unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(Root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// Paths maps a controller ("memory", "pids", "name=systemd"; "" is v2) to a
// cgroup's folder on the host.
type Paths map[string]string

// Of returns the cgroups that process pid is in.
func Of(pid int) (Paths, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	mounts, err := mountpoints()
	if err != nil {
		return nil, err
	}
	return parseMembership(string(raw), mounts), nil
}

// parseMembership reads /proc/<pid>/cgroup, given where each hierarchy is.
func parseMembership(text string, mounts map[string]string) Paths {
	paths := Paths{}
	for line := range strings.Lines(text) {
		// hierarchy-ID:controller-list:path
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if at, ok := mounts[controller]; ok {
				paths[controller] = filepath.Join(at, fields[2])
			}
		}
	}
	return paths
}

// mountpoints maps each controller to where its hierarchy is mounted. It is
// read once: the host's mount table grows with the containers, and nobody
// moves these.
var mountpoints = sync.OnceValues(readMountpoints)

func readMountpoints() (map[string]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountpoints(string(raw)), nil
}

func parseMountpoints(mountinfo string) map[string]string {
	at := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 3 || !strings.HasPrefix(h[4], Root) {
			continue
		}
		switch t[0] {
		case "cgroup2":
			at[""] = h[4]
		case "cgroup":
			for option := range strings.SplitSeq(t[2], ",") {
				at[option] = h[4]
			}
		}
	}
	return at
}

// tree is the folder whose cgroup.procs tells the members: of any controller
// but the root of its hierarchy will do.
func (p Paths) tree() string {
	for _, key := range slices.Sorted(maps.Keys(p)) {
		if !isMount(p[key]) {
			return p[key]
		}
	}
	return ""
}

// isMount tells the root of a hierarchy by the files that only it has, or
// lacks. What is gone is none.
func isMount(dir string) bool {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	return has("release_agent") || // v1: in the root only
		has("cgroup.procs") && !has("cgroup.type") && !has("tasks") // v2: in all but the root; v1: in all
}

// Processes lists the pids in the cgroup and those below it, as this process
// sees them. Without a cgroup, or with one that is gone, there are none.
func (p Paths) Processes() ([]int, error) {
	top := p.tree()
	if top == "" {
		return nil, nil
	}
	var pids []int
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		for field := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// Holds tells whether process pid is in the cgroup or below it.
func (p Paths) Holds(pid int) bool {
	theirs, err := Of(pid)
	if err != nil {
		return false
	}
	top := p.tree()
	if top == "" {
		return false
	}
	for _, at := range theirs {
		if at == top || strings.HasPrefix(at, top+"/") {
			return true
		}
	}
	return false
}

// Thaw lets the cgroup's processes go on, if they are frozen.
func (p Paths) Thaw() error {
	for _, thaw := range []struct{ controller, file, value string }{
		{"freezer", "freezer.state", "THAWED"},
		{"", "cgroup.freeze", "0"},
	} {
		at, ok := p[thaw.controller]
		if !ok || isMount(at) {
			continue
		}
		if err := os.WriteFile(filepath.Join(at, thaw.file), []byte(thaw.value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Remove removes the cgroup name (absolute within each hierarchy) and all
// below it from every hierarchy. Missing is done; one with members is an
// error, and so is a name that is, or leads out of, a hierarchy's root. Plain folders of that name, which crun leaves with plain files in
// them where no controller is mounted, go too.
func Remove(name string) error {
	if err := validate(name); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	tops := []string{Root}
	entries, err := os.ReadDir(Root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			tops = append(tops, filepath.Join(Root, e.Name()))
		}
	}
	var errs []error
	for _, top := range tops {
		errs = append(errs, removeTree(filepath.Join(top, name)))
	}
	return errors.Join(errs...)
}

// validate refuses a name of more than one cgroup.
func validate(name string) error {
	if filepath.Clean("/"+name) == "/" || slices.Contains(strings.Split(name, "/"), "..") {
		return fmt.Errorf("%q names no single cgroup", name)
	}
	return nil
}

func removeTree(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	if st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
		return os.RemoveAll(dir)
	}
	if isMount(dir) {
		return fmt.Errorf("remove cgroup %s: it is the root of its hierarchy", dir)
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

// Named returns the existing cgroups called name (absolute within each
// hierarchy), keyed by the hierarchy's folder.
func Named(name string) Paths {
	paths := Paths{}
	tops, _ := filepath.Glob(Root + "/*") // the pattern is well formed
	for _, top := range append(tops, Root) {
		at := filepath.Join(top, name)
		if _, err := os.Stat(filepath.Join(at, "cgroup.procs")); err == nil {
			paths[top] = at
		}
	}
	return paths
}
