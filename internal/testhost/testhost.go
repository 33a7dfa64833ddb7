// Package testhost gives a test binary a corner of the real kernel to itself
// and tells what it left behind.
//
// Isolate re-executes the test binary in a network and a mount namespace of
// its own, so that suites run side by side and a crash harms nothing: links,
// rules and mounts die with the last process. Take photographs what is left
// of the host; compare two photographs to find a leak.
package testhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const isolated = "GDN_TEST_ISOLATED"

// Isolate is called first in TestMain. As root it runs the test binary again
// in new network and mount namespaces, waits and exits with its code; in that
// second run, and for other users, it returns.
func Isolate() {
	if os.Geteuid() != 0 {
		return
	}
	if os.Getenv(isolated) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "testhost:", err)
			os.Exit(1)
		}
		return
	}
	runtime.LockOSThread() // Pdeathsig follows the thread that forked
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "testhost:", err)
		os.Exit(1)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // gone already: Wait reports it
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "testhost:", err)
		os.Exit(1)
	}
}

// settle makes the new namespaces usable: mounts no longer propagate to the
// host, loopback is up.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := hideUnified("/sys/fs/cgroup/unified"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// hideUnified takes a hybrid host's cgroup v2 mount out of this mount
// namespace, and only this one, if it has controllers: crun refuses to run
// beside it.
func hideUnified(mount string) error {
	controllers, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if err != nil || len(strings.TrimSpace(string(controllers))) == 0 {
		return nil // not such a host
	}
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("hide %s: %w", mount, err)
	}
	return nil
}

// TB is the part of testing.TB and GinkgoT that Need uses.
type TB interface {
	Skip(args ...any)
	Fatal(args ...any)
}

// Need skips the test unless every named feature is there: "root", or the
// name of a program in PATH. Features listed in GDN_TEST_REQUIRE (comma
// separated, or "all") fail the test instead.
func Need(t TB, features ...string) {
	required := strings.Split(os.Getenv("GDN_TEST_REQUIRE"), ",")
	for _, feature := range features {
		if err := have(feature); err != nil {
			if slices.Contains(required, feature) || slices.Contains(required, "all") {
				t.Fatal("required feature is missing:", err)
			}
			t.Skip("not tested here:", err)
		}
	}
}

func have(feature string) error {
	if feature == "root" {
		if os.Geteuid() != 0 {
			return errors.New("root")
		}
		return nil
	}
	if _, err := exec.LookPath(feature); err != nil {
		return err
	}
	return nil
}

// Host is what Take saw. Each field is sorted, one line per thing.
type Host struct {
	Mounts      []string
	Links       []string
	Rules       []string
	Cgroups     []string
	Processes   []string
	Descriptors []string
	Devices     []string
}

// Take photographs this process's mounts, links, iptables rules (both
// families), children and descriptors, whose the null device is, and the cgroups and processes in any
// top-level cgroup whose name starts with cgroupPrefix.
func Take(cgroupPrefix string) Host {
	h := Host{
		Mounts:      mounts(),
		Links:       links(),
		Rules:       rules(),
		Descriptors: descriptors(),
		Devices:     devices(),
	}
	h.Cgroups, h.Processes = cgroups(cgroupPrefix)
	h.Processes = append(h.Processes, children()...)
	for _, s := range [][]string{h.Mounts, h.Links, h.Rules, h.Cgroups, h.Processes, h.Descriptors} {
		sort.Strings(s)
	}
	return h
}

func mounts() []string {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 5 {
			out = append(out, f[4])
		}
	}
	return out
}

func links() []string {
	all, err := netlink.LinkList()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out
}

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

func rules() []string {
	var out []string
	for _, save := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		if _, err := exec.LookPath(save); err != nil {
			continue
		}
		// Not the error: a table that this kernel lacks is an empty table.
		raw, _ := exec.Command(save).Output()
		for line := range strings.Lines(string(raw)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":w") {
				out = append(out, save+" "+counters.ReplaceAllString(strings.TrimSpace(line), ""))
			}
		}
	}
	return out
}

func cgroups(prefix string) (dirs, processes []string) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + prefix + "*") // the pattern is well formed
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + prefix + "*")
	seen := map[string]bool{}
	for _, top := range append(tops, v2...) {
		var fs unix.Statfs_t
		if err := unix.Statfs(top, &fs); err != nil || (fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC) {
			continue // crun leaves plain folders where no controller is mounted
		}
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // vanished meanwhile
			}
			dirs = append(dirs, path)
			raw, _ := os.ReadFile(filepath.Join(path, "cgroup.procs")) // vanished meanwhile
			for pid := range strings.FieldsSeq(string(raw)) {
				if !seen[pid] {
					seen[pid] = true
					processes = append(processes, describe(pid))
				}
			}
			return nil
		})
	}
	return dirs, processes
}

func describe(pid string) string {
	comm, _ := os.ReadFile("/proc/" + pid + "/comm") // ended meanwhile
	return pid + " " + strings.TrimSpace(string(comm))
}

func children() []string {
	var out []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is well formed
	for _, t := range tasks {
		raw, _ := os.ReadFile(t) // thread ended meanwhile
		for pid := range strings.FieldsSeq(string(raw)) {
			out = append(out, describe(pid))
		}
	}
	return out
}

// devices tells owner and mode of the device that programs are given for
// want of a better: some take it for theirs.
func devices() []string {
	var st unix.Stat_t
	if err := unix.Stat("/dev/null", &st); err != nil {
		return []string{err.Error()}
	}
	return []string{fmt.Sprintf("/dev/null %d:%d %o", st.Uid, st.Gid, st.Mode)}
}

var unstable = regexp.MustCompile(`\[\d+\]|\d+`)

// descriptors lists what this process holds open, without numbers, and
// without the Go runtime's own.
func descriptors() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err != nil || n <= 2 {
			continue
		}
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") {
			continue
		}
		out = append(out, unstable.ReplaceAllString(target, "N"))
	}
	return out
}

// Diff tells what is in after and not in before, and the reverse; empty if
// both are alike.
func Diff(before, after Host) []string {
	var out []string
	for _, f := range []struct {
		name string
		a, b []string
	}{
		{"mount", before.Mounts, after.Mounts},
		{"link", before.Links, after.Links},
		{"rule", before.Rules, after.Rules},
		{"cgroup", before.Cgroups, after.Cgroups},
		{"process", before.Processes, after.Processes},
		{"descriptor", before.Descriptors, after.Descriptors},
		{"device", before.Devices, after.Devices},
	} {
		rest := slices.Clone(f.a)
		for _, thing := range f.b {
			if i := slices.Index(rest, thing); i >= 0 {
				rest = slices.Delete(rest, i, i+1)
			} else {
				out = append(out, fmt.Sprintf("new %s: %s", f.name, thing))
			}
		}
		for _, thing := range rest {
			out = append(out, fmt.Sprintf("lost %s: %s", f.name, thing))
		}
	}
	return out
}
