package gardener

import (
	"io"
	"os"
	"os/exec"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener/spec"
)

// The types that pass between components are defined in gardener/spec, so
// that no component imports gardener.
type (
	ActualContainerMetrics = spec.ActualContainerMetrics
	StatsContainerMetrics  = spec.StatsContainerMetrics
	RootfsSpec             = spec.RootfsSpec
)

// A Containerizer makes sandboxes and runs processes in them.
type Containerizer interface {
	// Create makes the container and starts its init.
	Create(log lager.Logger, desiredContainerSpec spec.DesiredContainerSpec) error

	// Handles of all containers of which anything is left.
	Handles() ([]string, error)

	StreamIn(log lager.Logger, handle string, streamInSpec garden.StreamInSpec) error
	StreamOut(log lager.Logger, handle string, streamOutSpec garden.StreamOutSpec) (io.ReadCloser, error)

	Run(log lager.Logger, handle string, processSpec garden.ProcessSpec, io garden.ProcessIO) (garden.Process, error)
	Attach(log lager.Logger, handle string, processGUID string, io garden.ProcessIO) (garden.Process, error)

	// Stop ends all processes but init; the container then counts as stopped.
	Stop(log lager.Logger, handle string, kill bool) error

	// Destroy ends everything that runs in the container. It keeps the
	// records; what is gone already is not an error.
	Destroy(log lager.Logger, handle string) error

	// RemoveBundle forgets the container. What is gone already is not an error.
	RemoveBundle(log lager.Logger, handle string) error

	Info(log lager.Logger, handle string) (spec.ActualContainerSpec, error)

	// Metrics of a container, or of a process with an own image by its id.
	Metrics(log lager.Logger, handle string) (ActualContainerMetrics, error)

	// WatchRuntimeEvents begins to watch and returns.
	WatchRuntimeEvents(log lager.Logger) error

	// Shutdown ends the watching; containers go on.
	Shutdown() error
}

// A PeaLister is a Containerizer that knows processes with an own image
// (peas). Their volumes carry their ids and are spared by the sweep at start.
type PeaLister interface {
	PeaHandles() ([]string, error)
}

// A Networker connects containers.
type Networker interface {
	// SetupBindMounts writes the network's files (hosts, resolv.conf) and
	// answers how they are to be mounted.
	SetupBindMounts(log lager.Logger, handle string, privileged bool, rootfsPath string) ([]garden.BindMount, error)

	// Network connects the network namespace of pid.
	Network(log lager.Logger, spec garden.ContainerSpec, pid int) error

	// Capacity is the number of containers that the network has room for.
	Capacity() uint64

	// Destroy takes everything back. What is gone already is not an error.
	Destroy(log lager.Logger, handle string) error

	NetIn(log lager.Logger, handle string, hostPort, containerPort uint32) (uint32, uint32, error)
	BulkNetOut(log lager.Logger, handle string, rules []garden.NetOutRule) error
	NetOut(log lager.Logger, handle string, rule garden.NetOutRule) error

	// Restore takes up the container's network after a restart.
	Restore(log lager.Logger, handle string) error
}

// A NetworkPreparer is a Networker that can begin before there is a
// container: PrepareNetwork runs beside Volumizer.Create and has returned
// when SetupBindMounts is called. Networker.Destroy undoes it.
type NetworkPreparer interface {
	PrepareNetwork(log lager.Logger, spec garden.ContainerSpec) error
}

// A NetworkMeter is a Networker that counts what containers send and
// receive. It answers nil if it has no figures.
type NetworkMeter interface {
	NetworkMetrics(log lager.Logger, handle string) (*garden.ContainerNetworkStat, error)
}

// A HandleLister is a component that knows of which containers it holds
// anything, so that the sweep at start finds what a killed create left.
type HandleLister interface {
	Handles() ([]string, error)
}

// A Volumizer makes root file systems.
type Volumizer interface {
	// Create makes the container's root file system and answers what the
	// image says: root, mounts, environment.
	Create(log lager.Logger, spec garden.ContainerSpec) (specs.Spec, error)

	VolumeDestroyMetricsGC
}

// A VolumeCreator makes a root file system from a rootfs spec.
type VolumeCreator interface {
	Create(log lager.Logger, handle string, spec RootfsSpec) (specs.Spec, error)
}

// VolumeDestroyMetricsGC is what can be done with a root file system that
// exists.
type VolumeDestroyMetricsGC interface {
	// Destroy removes it. What is gone already is not an error.
	Destroy(log lager.Logger, handle string) error

	// Metrics says how much disk it uses; namespaced is false for
	// privileged containers.
	Metrics(log lager.Logger, handle string, namespaced bool) (garden.ContainerDiskStat, error)

	// GC frees what no container uses.
	GC(log lager.Logger) error

	// Capacity in bytes for all containers together.
	Capacity(log lager.Logger) (uint64, error)
}

// A PropertyManager keeps the properties of containers.
type PropertyManager interface {
	// All answers a copy.
	All(handle string) (props garden.Properties, err error)
	Set(handle string, name string, value string)

	// Remove a property; one that does not exist is not an error.
	Remove(handle string, name string) error
	Get(handle string, name string) (string, bool)

	// MatchesAll is true if every given pair is among the properties; a
	// missing property compares as the empty string.
	MatchesAll(handle string, props garden.Properties) bool

	// DestroyKeySpace forgets all properties of the handle.
	DestroyKeySpace(string) error
}

// A PropertySaver is a PropertyManager that can tell whether it saved.
type PropertySaver interface {
	// SetAll merges props into the handle's properties in one write. It
	// makes the record if there is none, also for no props at all.
	SetAll(handle string, props garden.Properties) error
}

// A Restorer takes up containers after a restart and answers the handles of
// those that it could not take up; they will be destroyed.
type Restorer interface {
	Restore(logger lager.Logger, handles []string) []string
}

// A PeaCleaner removes the debris of processes with an own image.
type PeaCleaner interface {
	CleanAll(logger lager.Logger) error
	Clean(logger lager.Logger, handle string) error
}

// A SysInfoProvider knows the host.
type SysInfoProvider interface {
	TotalMemory() (uint64, error)
	TotalDisk() (uint64, error)
	CPUCores() (int, error)
}

// A UidGenerator generates unique ids.
type UidGenerator interface {
	Generate() string
}

// UidGeneratorFunc is a UidGenerator made of a function.
type UidGeneratorFunc func() string

// Generate calls fn.
func (fn UidGeneratorFunc) Generate() string { return fn() }

// A Sleeper lets time pass.
type Sleeper func(time.Duration)

// A CommandFactory makes the command that creates folders in a container's
// root file system. It is part of the published API; nothing here uses it.
type CommandFactory func(ctrPID, uid, gid int, mode os.FileMode, recreate bool, paths ...string) *exec.Cmd
