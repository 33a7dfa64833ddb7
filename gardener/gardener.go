// Package gardener is the orchestrator: it makes, lists and destroys
// containers by asking a Containerizer (sandboxes and processes), a Networker
// and a Volumizer (root file systems), and knows nothing of how they work.
//
// It rests on three ideas. A handle is claimed before anything else, so no
// two operations ever work on one container's making or unmaking. What a
// container is meant to be is recorded before anything is made. And there is
// one way down: a failed create, Destroy and the sweep at start run the same
// destroy, which takes missing things as done, tries every step and forgets
// the container only if nothing of it is left.
//
// It promises: a create that fails leaves nothing, or a handle that stays
// listed (with garden.state "all") and can be destroyed; a destroy that fails
// can be repeated; no read waits behind a create or a destroy.
package gardener

import (
	"sync"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

// VolumizerSession is the log session of calls to a volume creator.
const VolumizerSession = "volumizer"

// A destroy that fails at start is tried CleanupRetryLimit times in all,
// CleanupRetrySleep apart.
const (
	CleanupRetryLimit = 30
	CleanupRetrySleep = 3 * time.Second
)

var _ garden.Backend = (*Gardener)(nil)

// Gardener orchestrates other components to implement the Garden API. It is
// not to be copied.
type Gardener struct {
	// SysInfoProvider returns total memory and total disk.
	SysInfoProvider SysInfoProvider

	// Containerizer runs and manages containers.
	Containerizer Containerizer

	// UidGenerator names containers whose creator did not.
	UidGenerator UidGenerator

	// BulkStarter runs start-up tasks, e.g. setting up cgroups.
	BulkStarter BulkStarter

	// Networker gives containers a network.
	Networker Networker

	// Volumizer gives containers a root file system.
	Volumizer Volumizer

	Logger lager.Logger

	// PropertyManager keeps the properties of containers. If it is a
	// PropertySaver too, what cannot be saved is an error to the caller.
	PropertyManager PropertyManager

	// Sleep passes the time between the retries of Cleanup. nil: a timer
	// that Stop ends early.
	Sleep Sleeper

	// MaxContainers that may exist, those being created included. 0: no limit.
	MaxContainers uint64

	// Restorer takes up the containers that a restart found.
	Restorer Restorer

	// PeaCleaner removes the debris of processes with an own image.
	PeaCleaner PeaCleaner

	// AllowPrivilgedContainers: without it a privileged create is refused.
	AllowPrivilgedContainers bool

	handles  handles
	learning sync.Mutex
	learned  atomic.Bool
	retries  retries
}

// New returns a Gardener. It touches nothing; Start acts.
func New(
	uidGenerator UidGenerator,
	bulkStarter BulkStarter,
	sysInfoProvider SysInfoProvider,
	networker Networker,
	volumizer Volumizer,
	containerizer Containerizer,
	propertyManager PropertyManager,
	restorer Restorer,
	peaCleaner PeaCleaner,
	logger lager.Logger,
	maxContainers uint64,
	allowPrivilegedContainers bool,
) *Gardener {
	return &Gardener{
		UidGenerator:             uidGenerator,
		BulkStarter:              bulkStarter,
		SysInfoProvider:          sysInfoProvider,
		Networker:                networker,
		Volumizer:                volumizer,
		Containerizer:            containerizer,
		PropertyManager:          propertyManager,
		Restorer:                 restorer,
		PeaCleaner:               peaCleaner,
		Logger:                   logger,
		MaxContainers:            maxContainers,
		AllowPrivilgedContainers: allowPrivilegedContainers,
	}
}

// Ping says that the server answers.
func (g *Gardener) Ping() error { return nil }
