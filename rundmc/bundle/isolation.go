package bundle

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
)

// kinds are the namespaces of a container, in the order they are listed. The
// cgroup namespace (Linux 4.6) hides where on the host the container stands.
var kinds = []specs.LinuxNamespaceType{
	specs.NetworkNamespace,
	specs.PIDNamespace,
	specs.UTSNamespace,
	specs.IPCNamespace,
	specs.MountNamespace,
	specs.CgroupNamespace,
	specs.UserNamespace, // unprivileged only
}

// namespaces are new unless the request names one to join. The mount
// namespace is always new: a container's root file system is its own.
func namespaces(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	for kind := range d.Namespaces {
		if kind == string(specs.MountNamespace) || !slices.Contains(kinds, specs.LinuxNamespaceType(kind)) {
			return fmt.Errorf("a %q namespace cannot be joined", kind)
		}
	}
	for _, kind := range kinds {
		joined := d.Namespaces[string(kind)]
		if kind == specs.UserNamespace && d.Privileged {
			if joined != "" {
				return errors.New("a privileged container has no user namespace to join")
			}
			continue
		}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: joined})
		if kind != specs.UserNamespace || joined != "" {
			continue // a namespace that is joined has its maps
		}
		if len(c.UIDMappings) == 0 || len(c.GIDMappings) == 0 {
			return errors.New("a user namespace needs uid and gid mappings")
		}
		s.Linux.UIDMappings = slices.Clone(c.UIDMappings)
		s.Linux.GIDMappings = slices.Clone(c.GIDMappings)
	}
	return nil
}

func isNew(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
}

// cgroup keeps every container, privileged or not, below the server's own:
// limits, statistics and killing all rest on it.
func cgroup(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	parent, below := c.CgroupParent, d.CgroupPath
	if parent == "" {
		parent = "/garden"
	}
	if below == "" {
		below = d.Handle
	}
	if !path.IsAbs(parent) {
		return fmt.Errorf("parent %q is not absolute", parent)
	}
	if below = path.Clean(below); !filepath.IsLocal(below) || below == "." {
		return fmt.Errorf("%q is not a path below the server's own cgroup", d.CgroupPath)
	}
	s.Linux.CgroupsPath = path.Join(parent, below)
	return nil
}

// masked paths read as empty in unprivileged containers.
var masked = []string{
	"/proc/kcore",
	"/proc/latency_stats",
	"/proc/sched_debug",
	"/proc/scsi",
	"/proc/timer_list",
	"/proc/timer_stats",
	"/proc/keys",
	"/sys/firmware",
}

// confinement is what keeps unprivileged processes from the kernel's dark
// corners.
func confinement(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	if d.Privileged {
		return nil
	}
	s.Linux.MaskedPaths = slices.Clone(masked)
	s.Linux.Seccomp = c.Seccomp
	s.Process.ApparmorProfile = c.AppArmorProfile
	s.Process.NoNewPrivileges = c.NoNewPrivileges
	return nil
}

// sysctls of the network are set in a new namespace only; one that is joined
// has its own already.
func sysctls(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	if !isNew(s, specs.NetworkNamespace) {
		return nil
	}
	set := maps.Clone(c.Sysctls)
	if c.NoNewPrivileges && !d.Privileged {
		// ping cannot gain CAP_NET_RAW from its file any more.
		if set == nil {
			set = map[string]string{}
		}
		set["net.ipv4.ping_group_range"] = "1 65535"
	}
	s.Linux.Sysctl = set
	return nil
}
