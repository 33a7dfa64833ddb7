// Package spec holds the few types that pass between gardener and its
// components: what a container is asked to be, what it turned out to be, and
// how much it uses. It knows no component, so every component may import it.
package spec

import (
	"net/url"
	"time"

	"code.cloudfoundry.org/garden"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DesiredContainerSpec is what gardener asks of the Containerizer.
type DesiredContainerSpec struct {
	// Handle names the container; gardener has validated it.
	Handle string

	// CgroupPath is the container's cgroup below the server's own. Empty: the handle.
	CgroupPath string

	// Namespaces maps an OCI namespace type to the path of one to join
	// instead of a new one. Empty: all new.
	Namespaces map[string]string

	// Hostname of the container. Empty: the last 49 characters of the handle.
	Hostname string

	// BaseConfig is what the Volumizer answered: root, image environment,
	// mounts of the image.
	BaseConfig specs.Spec

	// Privileged containers have no user namespace, no seccomp filter and
	// all capabilities.
	Privileged bool

	// BindMounts are those of the client and those of the Networker.
	BindMounts []garden.BindMount

	// Env is the container's environment, "KEY=value"; it overrides the image's.
	Env []string

	// Limits are memory, CPU and pids; disk is the Volumizer's matter.
	Limits garden.Limits
}

// ActualContainerSpec is what the Containerizer knows of a container it made.
type ActualContainerSpec struct {
	// Pid of the container's init in the server's pid namespace; 0 once it has ended.
	Pid int

	// BundlePath is the OCI bundle's folder on the host.
	BundlePath string

	// RootFSPath is the root file system's folder on the host.
	RootFSPath string

	// Events that befell the container, e.g. "Out of memory".
	Events []string

	// ProcessIDs of the processes that run in it.
	ProcessIDs []string

	// Stopped is true after Stop and when init has ended.
	Stopped bool

	// Limits in force.
	Limits garden.Limits

	// Privileged as created.
	Privileged bool
}

// ActualContainerMetrics is what the Containerizer measures of a container.
type ActualContainerMetrics struct {
	StatsContainerMetrics

	// CPUEntitlement is the CPU time, in nanoseconds, that the container's
	// shares have earned it over its life.
	CPUEntitlement uint64
}

// StatsContainerMetrics are the figures of the container's cgroup.
type StatsContainerMetrics struct {
	CPU    garden.ContainerCPUStat
	Memory garden.ContainerMemoryStat
	Pid    garden.ContainerPidStat

	// Age is the time since the container was created.
	Age time.Duration
}

// RootfsSpec is what a volume creator is asked for.
type RootfsSpec struct {
	// RootFS names the image: empty or a bare path, raw, oci, docker.
	RootFS *url.URL

	// Username and Password are credentials for a registry; never logged, never stored.
	Username string `json:"-"`
	Password string `json:"-"`

	// Namespaced is true for containers with a user namespace: the files'
	// ids are shifted so that the container's root owns root's files.
	Namespaced bool

	// QuotaSize in bytes; 0: none.
	QuotaSize int64

	// QuotaScope says whether the image counts toward the quota.
	QuotaScope garden.DiskLimitScope
}
