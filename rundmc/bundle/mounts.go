package bundle

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"code.cloudfoundry.org/garden"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
	"golang.org/x/sys/unix"
)

// template are the mounts that every container has.
var template = []specs.Mount{
	{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
	{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
	{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
	{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
}

// cgroups shows an unprivileged container its own cgroup, and no more of the
// tree, thanks to its cgroup namespace.
var cgroups = specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}}

// mounts are the image's, then ours, then those asked for: nothing of an
// image can cover ours, and those asked for are kept from the places on which
// the container's confinement rests.
func mounts(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	for _, m := range d.BaseConfig.Mounts {
		m.Options = slices.Clone(m.Options)
		s.Mounts = append(s.Mounts, m)
	}
	for _, m := range template {
		m.Options = slices.Clone(m.Options)
		s.Mounts = append(s.Mounts, m)
	}
	if !d.Privileged {
		m := cgroups
		m.Options = slices.Clone(m.Options)
		s.Mounts = append(s.Mounts, m)
	}

	init, err := initMount(c)
	if err != nil {
		return err
	}
	s.Mounts = append(s.Mounts, init)

	for _, b := range d.BindMounts {
		m, err := bind(c, b)
		if err != nil {
			return fmt.Errorf("bind mount %q: %w", b.DstPath, err)
		}
		s.Mounts = append(s.Mounts, m)
	}
	return nil
}

// initMount comes after /dev, whose noexec does not hold for it: a bind mount
// has flags of its own.
func initMount(c Config) (specs.Mount, error) {
	flags, err := c.MountFlags(c.InitPath)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("init program %s: %w", c.InitPath, err)
	}
	if slices.Contains(flags, "noexec") {
		return specs.Mount{}, fmt.Errorf("init program %s lies on a file system mounted noexec", c.InitPath)
	}
	return specs.Mount{
		Destination: InitInside,
		Type:        "bind",
		Source:      c.InitPath,
		Options:     bindOptions(flags, "ro", "nosuid", "nodev"),
	}, nil
}

// kept are the places that no bind mount may cover or enter: the runtime
// writes settings through the first two (CVE-2019-19921, CVE-2023-27561), and
// the last is our own program.
var kept = []string{"/proc", "/sys", InitInside}

func bind(c Config, b garden.BindMount) (specs.Mount, error) {
	if strings.ContainsRune(b.SrcPath+b.DstPath, 0) {
		return specs.Mount{}, errors.New("the path holds a NUL byte")
	}
	if !path.IsAbs(b.DstPath) {
		return specs.Mount{}, errors.New("the destination is not an absolute path")
	}
	if !path.IsAbs(b.SrcPath) {
		return specs.Mount{}, fmt.Errorf("the source %q is not an absolute path", b.SrcPath)
	}
	dst := path.Clean(b.DstPath)
	if dst == "/" || dst == "/dev" {
		return specs.Mount{}, fmt.Errorf("nothing may be mounted at %s", dst)
	}
	for _, place := range kept {
		if dst == place || strings.HasPrefix(dst, place+"/") {
			return specs.Mount{}, fmt.Errorf("nothing may be mounted at or below %s", place)
		}
	}
	mode := "ro"
	switch b.Mode {
	case garden.BindMountModeRO:
	case garden.BindMountModeRW:
		mode = "rw"
	default:
		return specs.Mount{}, fmt.Errorf("unknown mode %d", b.Mode)
	}

	flags, err := c.MountFlags(b.SrcPath)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("source %s: %w", b.SrcPath, err)
	}
	return specs.Mount{
		Destination: dst,
		Type:        "bind",
		Source:      path.Clean(b.SrcPath),
		Options:     bindOptions(flags, mode),
	}, nil
}

// bindOptions adds what the source's file system forbids: in a user namespace
// those flags are locked, and a mount that would lift one is refused. So a
// source that is read-only stays so, whatever the mode asked for.
//
// The mount is not recursive: what is mounted below the source, perhaps
// writable, is not part of what the client named.
func bindOptions(flags []string, wanted ...string) []string {
	options := []string{"bind"}
	if slices.Contains(flags, "ro") {
		wanted = slices.DeleteFunc(slices.Clone(wanted), func(o string) bool { return o == "rw" })
	}
	for _, o := range slices.Concat(wanted, flags) {
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	return options
}

// lockable are the flags of statfs(2) and the mount options that keep them.
var lockable = []struct {
	flag   int64
	option string
}{
	{unix.ST_RDONLY, "ro"},
	{unix.ST_NODEV, "nodev"},
	{unix.ST_NOEXEC, "noexec"},
	{unix.ST_NOSUID, "nosuid"},
	{unix.ST_NOATIME, "noatime"},
	{unix.ST_NODIRATIME, "nodiratime"},
	{unix.ST_RELATIME, "relatime"},
}

// MountFlags tells how the file system at source is mounted, as options for a
// bind mount of it. The error says if source is not there.
func MountFlags(source string) ([]string, error) {
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(source, &fs)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
	var options []string
	for _, l := range lockable {
		if fs.Flags&l.flag != 0 {
			options = append(options, l.option)
		}
	}
	return options, nil
}
