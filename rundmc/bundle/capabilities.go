package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
)

// unprivileged is what root has in an unprivileged container, over the
// container's own namespaces only.
var unprivileged = []string{
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FSETID",
	"CAP_FOWNER",
	"CAP_MKNOD",
	"CAP_NET_RAW",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETFCAP",
	"CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE",
	"CAP_SYS_CHROOT",
	"CAP_KILL",
	"CAP_AUDIT_WRITE",
}

// privileged adds the rest of what kernels before 5.8 knew.
var privileged = slices.Concat(unprivileged, []string{
	"CAP_DAC_READ_SEARCH",
	"CAP_LINUX_IMMUTABLE",
	"CAP_NET_BROADCAST",
	"CAP_NET_ADMIN",
	"CAP_IPC_LOCK",
	"CAP_IPC_OWNER",
	"CAP_SYS_MODULE",
	"CAP_SYS_RAWIO",
	"CAP_SYS_PTRACE",
	"CAP_SYS_PACCT",
	"CAP_SYS_ADMIN",
	"CAP_SYS_BOOT",
	"CAP_SYS_NICE",
	"CAP_SYS_RESOURCE",
	"CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG",
	"CAP_LEASE",
	"CAP_AUDIT_CONTROL",
	"CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN",
	"CAP_SYSLOG",
	"CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ",
})

// capabilities of init: all of them in force and bounding, none ambient, and
// none inheritable, which would outlive a change of user (CVE-2022-29162).
func capabilities(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	list := unprivileged
	if d.Privileged {
		list = privileged
	}
	given := func() []string {
		return slices.DeleteFunc(slices.Clone(list), func(name string) bool {
			return c.BoundingSet != nil && !slices.Contains(c.BoundingSet, name)
		})
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:  given(),
		Effective: given(),
		Permitted: given(),
	}
	return nil
}

// ProcessCaps are the capability sets of a process, one bit each as in
// capabilities(7). The effective set is the permitted one, the ambient empty.
type ProcessCaps struct {
	Bounding, Inheritable, Permitted uint64
}

// nonRoot bounds what users other than root can gain by set-user-id programs.
var nonRoot = slices.Concat(unprivileged, []string{"CAP_SYS_ADMIN"})

// ProcessCapabilities tells what a process with the given uid may have in the
// container that was made from s. It is the uid that counts, whatever the
// group: root has what the bundle lists; anybody else has nothing in force,
// and is bounded by the unprivileged list and CAP_SYS_ADMIN.
func ProcessCapabilities(s specs.Spec, uid uint32) ProcessCaps {
	if s.Process == nil || s.Process.Capabilities == nil {
		return ProcessCaps{}
	}
	bundled := mask(s.Process.Capabilities.Bounding)
	if uid == 0 {
		return ProcessCaps{Bounding: bundled, Inheritable: bundled, Permitted: bundled}
	}
	bounding := bundled & mask(nonRoot)
	return ProcessCaps{Bounding: bounding, Inheritable: bounding}
}

// bits maps names to single-bit masks.
var bits = func() map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range capability.ListKnown() {
		m[capName(c)] = 1 << uint(c)
	}
	return m
}()

// mask leaves out names that are unknown: they grant nothing.
func mask(names []string) uint64 {
	var m uint64
	for _, name := range names {
		m |= bits[name]
	}
	return m
}

func capName(c capability.Cap) string {
	return "CAP_" + strings.ToUpper(c.String())
}

// HostCapabilities lists this process's bounding set, for Config.BoundingSet.
func HostCapabilities() ([]string, error) {
	supported, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("list the kernel's capabilities: %w", err)
	}
	names := []string{}
	for _, c := range supported {
		set, err := capability.GetBound(c)
		if err != nil {
			return nil, fmt.Errorf("read the bounding set: %w", err)
		}
		if set {
			names = append(names, capName(c))
		}
	}
	return names, nil
}
