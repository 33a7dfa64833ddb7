// Package bundle decides what a container is allowed and made of: it turns
// what is asked for into the OCI spec that the runtime reads.
//
// It decides and does nothing: the same Config and the same request give the
// same spec. The rules stand in one table, one concern each, and the policy
// (capabilities, seccomp filter, masks, devices, mounts) stands beside them,
// so whoever embeds us is safe by default: a container is unprivileged unless
// it is asked to be otherwise.
package bundle

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/handle"
)

// Version of the OCI runtime spec that bundles claim: the lowest that says
// all we need. crun 1.8 refuses 1.3.0.
const Version = "1.0.2"

// Config holds the facts of the host and the policy of the server. Every zero
// value is safe.
type Config struct {
	// InitPath is the gdn-init binary on the host, bind-mounted read-only at
	// InitInside. Required.
	InitPath string

	// UIDMappings and GIDMappings of the user namespace that unprivileged
	// containers get. Required for those.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// CgroupParent is the server's own cgroup, in which all containers lie,
	// privileged ones too. Empty: "/garden".
	CgroupParent string

	// BoundingSet lists the capabilities that the server itself may pass on
	// (see HostCapabilities); what a container is given is cut down to it.
	// Nil: all.
	BoundingSet []string

	// Seccomp is the filter of unprivileged containers (see DefaultSeccomp).
	// It is shared by all bundles and must not be changed. Nil: none.
	Seccomp *specs.LinuxSeccomp

	// CgroupV2 is true on a host with the unified cgroup hierarchy.
	CgroupV2 bool

	// AppArmorProfile of unprivileged containers. Empty: none.
	AppArmorProfile string

	// NoNewPrivileges forbids unprivileged containers to gain privileges by
	// set-user-id programs and file capabilities.
	NoNewPrivileges bool

	// DefaultRlimits of the container's init. Nil: the server's own.
	DefaultRlimits []specs.POSIXRlimit

	// Sysctls set in each new network namespace, e.g. the host's net.ipv4.tcp_*.
	Sysctls map[string]string

	// CPUQuotaPerShare in microseconds per 100 ms. 0: no quota.
	CPUQuotaPerShare uint64

	// DisableSwapLimit leaves swap unlimited where memory is limited, for
	// hosts that do not account for it.
	DisableSwapLimit bool

	// BlockIOWeight of each container. 0: the host's default.
	BlockIOWeight uint16

	// DeviceRules are allowed to privileged containers besides the defaults.
	DeviceRules []specs.LinuxDeviceCgroup

	// MountFlags tells the flags of the file system at a bind mount's source,
	// as mount options. Nil: MountFlags, which asks the kernel.
	MountFlags func(source string) ([]string, error)
}

// rules run in order; each writes one concern into the OCI spec.
var rules = []struct {
	name  string
	apply func(Config, spec.DesiredContainerSpec, *specs.Spec) error
}{
	{"root", rootFS},
	{"namespaces", namespaces},
	{"cgroup", cgroup},
	{"process", process},
	{"mounts", mounts},
	{"environment", environment},
	{"capabilities", capabilities},
	{"hostname", hostname},
	{"limits", limits},
	{"devices", devices},
	{"sysctls", sysctls},
	{"confinement", confinement},
}

// Build returns the OCI spec of the container that d asks for. It shares no
// memory with d; the filter it shares with c.
func Build(c Config, d spec.DesiredContainerSpec) (specs.Spec, error) {
	if err := handle.Validate(d.Handle); err != nil {
		return specs.Spec{}, err
	}
	if c.MountFlags == nil {
		c.MountFlags = MountFlags
	}
	s := specs.Spec{
		Version: Version,
		Process: &specs.Process{},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
	}
	for _, rule := range rules {
		if err := rule.apply(c, d, &s); err != nil {
			return specs.Spec{}, fmt.Errorf("%s: %w", rule.name, err)
		}
	}
	return s, nil
}
