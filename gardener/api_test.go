package gardener_test

import (
	"io"
	"net/url"
	"os"
	"os/exec"
	"time"

	"code.cloudfoundry.org/commandrunner"
	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/spec"
)

// The published API: this file compiles if every identifier is there with
// exactly its signature.

const (
	_ string        = gardener.BridgeIPKey
	_ int           = gardener.CleanupRetryLimit
	_ time.Duration = gardener.CleanupRetrySleep
	_ string        = gardener.ContainerIPKey
	_ string        = gardener.ExternalIPKey
	_ string        = gardener.GraceTimeKey
	_ string        = gardener.MappedPortsKey
	_ string        = gardener.RawRootFSScheme
	_ string        = gardener.VolumizerSession
)

var _ error = gardener.ErrGraphDisabled

var (
	_ func(
		gardener.UidGenerator, gardener.BulkStarter, gardener.SysInfoProvider, gardener.Networker, gardener.Volumizer,
		gardener.Containerizer, gardener.PropertyManager, gardener.Restorer, gardener.PeaCleaner, lager.Logger, uint64, bool,
	) *gardener.Gardener = gardener.New
	_ func(gardener.Networker) gardener.Restorer                                                                                    = gardener.NewRestorer
	_ func(gardener.VolumeCreator, gardener.VolumeDestroyMetricsGC, commandrunner.CommandRunner, int, int) *gardener.VolumeProvider = gardener.NewVolumeProvider

	_ gardener.BulkStarter = gardener.NewBulkStarter([]gardener.Starter(nil))
)

var (
	_ func(*gardener.Gardener, []string) (map[string]garden.ContainerInfoEntry, error)    = (*gardener.Gardener).BulkInfo
	_ func(*gardener.Gardener, []string) (map[string]garden.ContainerMetricsEntry, error) = (*gardener.Gardener).BulkMetrics
	_ func(*gardener.Gardener) (garden.Capacity, error)                                   = (*gardener.Gardener).Capacity
	_ func(*gardener.Gardener, lager.Logger) error                                        = (*gardener.Gardener).Cleanup
	_ func(*gardener.Gardener, garden.Properties) ([]garden.Container, error)             = (*gardener.Gardener).Containers
	_ func(*gardener.Gardener, garden.ContainerSpec) (garden.Container, error)            = (*gardener.Gardener).Create
	_ func(*gardener.Gardener, string) error                                              = (*gardener.Gardener).Destroy
	_ func(*gardener.Gardener, garden.Container) time.Duration                            = (*gardener.Gardener).GraceTime
	_ func(*gardener.Gardener, string) (garden.Container, error)                          = (*gardener.Gardener).Lookup
	_ func(*gardener.Gardener) error                                                      = (*gardener.Gardener).Ping
	_ func(*gardener.Gardener) error                                                      = (*gardener.Gardener).Start
	_ func(*gardener.Gardener) error                                                      = (*gardener.Gardener).Stop

	_ func(*gardener.NoopRestorer, lager.Logger, []string) []string                               = (*gardener.NoopRestorer).Restore
	_ func(gardener.NoopVolumizer, lager.Logger) (uint64, error)                                  = gardener.NoopVolumizer.Capacity
	_ func(gardener.NoopVolumizer, lager.Logger, string, gardener.RootfsSpec) (specs.Spec, error) = gardener.NoopVolumizer.Create
	_ func(gardener.NoopVolumizer, lager.Logger, string) error                                    = gardener.NoopVolumizer.Destroy
	_ func(gardener.NoopVolumizer, lager.Logger) error                                            = gardener.NoopVolumizer.GC
	_ func(gardener.NoopVolumizer, lager.Logger, string, bool) (garden.ContainerDiskStat, error)  = gardener.NoopVolumizer.Metrics
	_ func(*gardener.VolumeProvider, lager.Logger, garden.ContainerSpec) (specs.Spec, error)      = (*gardener.VolumeProvider).Create
	_ func(gardener.UidGeneratorFunc) string                                                      = gardener.UidGeneratorFunc.Generate
	_ gardener.CommandFactory                                                                     = func(ctrPID, uid, gid int, mode os.FileMode, recreate bool, paths ...string) *exec.Cmd { return nil }
	_ gardener.Sleeper                                                                            = func(time.Duration) {}
)

var _ = gardener.Gardener{
	SysInfoProvider:          gardener.SysInfoProvider(nil),
	Containerizer:            gardener.Containerizer(nil),
	UidGenerator:             gardener.UidGenerator(nil),
	BulkStarter:              gardener.BulkStarter(nil),
	Networker:                gardener.Networker(nil),
	Volumizer:                gardener.Volumizer(nil),
	Logger:                   lager.Logger(nil),
	PropertyManager:          gardener.PropertyManager(nil),
	Sleep:                    gardener.Sleeper(nil),
	MaxContainers:            uint64(0),
	Restorer:                 gardener.Restorer(nil),
	PeaCleaner:               gardener.PeaCleaner(nil),
	AllowPrivilgedContainers: false,
}

var (
	_ = gardener.ActualContainerMetrics{CPUEntitlement: uint64(0), StatsContainerMetrics: gardener.StatsContainerMetrics{}}
	_ = gardener.StatsContainerMetrics{
		CPU:    garden.ContainerCPUStat{},
		Memory: garden.ContainerMemoryStat{},
		Pid:    garden.ContainerPidStat{},
		Age:    time.Duration(0),
	}
	_ = gardener.RootfsSpec{
		RootFS:     (*url.URL)(nil),
		Username:   "",
		Password:   "",
		Namespaced: false,
		QuotaSize:  int64(0),
		QuotaScope: garden.DiskLimitScope(0),
	}
	_ = gardener.VolumeProvider{
		VolumeCreator:          gardener.VolumeCreator(nil),
		VolumeDestroyMetricsGC: gardener.VolumeDestroyMetricsGC(nil),
		ContainerRootUID:       int(0),
		ContainerRootGID:       int(0),
	}
)

// same is satisfied only if both interfaces have the same methods.
func same[A, B any](func(A) B, func(B) A) struct{} { return struct{}{} }

var (
	_ = same(
		func(a gardener.Containerizer) containerizer { return a },
		func(b containerizer) gardener.Containerizer { return b })
	_ = same(
		func(a gardener.Networker) networker { return a },
		func(b networker) gardener.Networker { return b })
	_ = same(
		func(a gardener.Volumizer) volumizer { return a },
		func(b volumizer) gardener.Volumizer { return b })
	_ = same(
		func(a gardener.VolumeCreator) volumeCreator { return a },
		func(b volumeCreator) gardener.VolumeCreator { return b })
	_ = same(
		func(a gardener.PropertyManager) propertyManager { return a },
		func(b propertyManager) gardener.PropertyManager { return b })
	_ = same(
		func(a gardener.PeaCleaner) peaCleaner { return a },
		func(b peaCleaner) gardener.PeaCleaner { return b })
	_ = same(
		func(a gardener.Restorer) interface {
			Restore(lager.Logger, []string) []string
		} {
			return a
		},
		func(b interface {
			Restore(lager.Logger, []string) []string
		}) gardener.Restorer {
			return b
		})
	_ = same(
		func(a gardener.SysInfoProvider) sysInfoProvider { return a },
		func(b sysInfoProvider) gardener.SysInfoProvider { return b })
	_ = same(
		func(a gardener.UidGenerator) interface{ Generate() string } { return a },
		func(b interface{ Generate() string }) gardener.UidGenerator { return b })
	_ = same(
		func(a gardener.Starter) interface{ Start() error } { return a },
		func(b interface{ Start() error }) gardener.Starter { return b })
	_ = same(
		func(a gardener.BulkStarter) interface{ StartAll() error } { return a },
		func(b interface{ StartAll() error }) gardener.BulkStarter { return b })
)

type containerizer interface {
	Create(lager.Logger, spec.DesiredContainerSpec) error
	Handles() ([]string, error)
	StreamIn(lager.Logger, string, garden.StreamInSpec) error
	StreamOut(lager.Logger, string, garden.StreamOutSpec) (io.ReadCloser, error)
	Run(lager.Logger, string, garden.ProcessSpec, garden.ProcessIO) (garden.Process, error)
	Attach(lager.Logger, string, string, garden.ProcessIO) (garden.Process, error)
	Stop(lager.Logger, string, bool) error
	Destroy(lager.Logger, string) error
	RemoveBundle(lager.Logger, string) error
	Info(lager.Logger, string) (spec.ActualContainerSpec, error)
	Metrics(lager.Logger, string) (gardener.ActualContainerMetrics, error)
	WatchRuntimeEvents(lager.Logger) error
	Shutdown() error
}

type networker interface {
	SetupBindMounts(lager.Logger, string, bool, string) ([]garden.BindMount, error)
	Network(lager.Logger, garden.ContainerSpec, int) error
	Capacity() uint64
	Destroy(lager.Logger, string) error
	NetIn(lager.Logger, string, uint32, uint32) (uint32, uint32, error)
	BulkNetOut(lager.Logger, string, []garden.NetOutRule) error
	NetOut(lager.Logger, string, garden.NetOutRule) error
	Restore(lager.Logger, string) error
}

type volumizer interface {
	Create(lager.Logger, garden.ContainerSpec) (specs.Spec, error)
	Destroy(lager.Logger, string) error
	Metrics(lager.Logger, string, bool) (garden.ContainerDiskStat, error)
	GC(lager.Logger) error
	Capacity(lager.Logger) (uint64, error)
}

type volumeCreator interface {
	Create(lager.Logger, string, gardener.RootfsSpec) (specs.Spec, error)
}

type propertyManager interface {
	All(string) (garden.Properties, error)
	Set(string, string, string)
	Remove(string, string) error
	Get(string, string) (string, bool)
	MatchesAll(string, garden.Properties) bool
	DestroyKeySpace(string) error
}

type peaCleaner interface {
	CleanAll(lager.Logger) error
	Clean(lager.Logger, string) error
}

type sysInfoProvider interface {
	TotalMemory() (uint64, error)
	TotalDisk() (uint64, error)
	CPUCores() (int, error)
}
