// Package verger makes a Garden backend: it runs Linux containers on this
// host for whoever calls the garden.Backend that New returns. It is the door
// for programs that embed Verger, and the one place that knows all its parts.
package verger

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"code.cloudfoundry.org/garden"
	"github.com/google/uuid"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/kawasaki"
	"github.com/verger-garden/verger/properties"
	"github.com/verger-garden/verger/rundmc"
	"github.com/verger-garden/verger/rundmc/bundle"
	"github.com/verger-garden/verger/rundmc/oci"
	"github.com/verger-garden/verger/sysinfo"
	"github.com/verger-garden/verger/volplugin"
)

// A Backend is a garden.Backend on one state directory and one store. It is
// started once and stopped once.
type Backend struct {
	garden.Backend
	config Config
	lock   *os.File       // of the state directory
	tag    *os.File       // of the tag
	undo   []func() error // what stops the parts that have been started
	stop   func() error
}

// New checks the configuration and touches nothing; Start acts.
func New(c Config) (*Backend, error) {
	c = c.withDefaults()
	for _, path := range []*string{&c.StateDir, &c.StoreDir, &c.Depot, &c.PropertiesPath, &c.Runtime, &c.InitBin} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = absolute
	}
	b := &Backend{config: c}
	b.stop = sync.OnceValue(b.stopAll)
	return b, b.assemble()
}

// assemble makes the parts and puts them together.
func (b *Backend) assemble() error {
	c := b.config
	uids, gids, err := c.idMappings()
	if err != nil {
		return err
	}
	rootUID, rootGID := int(uids[0].HostID), int(gids[0].HostID)

	props := properties.NewManager(c.PropertiesPath)
	volumes, err := volplugin.New(volplugin.Config{
		Dir:           c.StoreDir,
		DefaultRootfs: c.DefaultRootfs,
		UIDMappings:   uids,
		GIDMappings:   gids,
		Log:           c.Log,
	})
	if err != nil {
		return err
	}
	network, err := kawasaki.New(kawasaki.Config{
		Dir:                   filepath.Join(c.StateDir, "network"),
		Tag:                   c.Tag,
		Pool:                  c.NetworkPool,
		Properties:            props,
		Iptables:              c.Iptables,
		IptablesRestore:       c.IptablesRestore,
		AllowHostAccess:       c.AllowHostAccess,
		DenyNetworks:          c.DenyNetworks,
		DNSServers:            c.DNSServers,
		AdditionalDNSServers:  c.AdditionalDNSServers,
		AdditionalHostEntries: c.AdditionalHostEntries,
		ExternalIP:            c.ExternalIP,
		MTU:                   c.MTU,
		ContainerRootUID:      rootUID,
		ContainerRootGID:      rootGID,
		Log:                   c.Log,
	})
	if err != nil {
		return err
	}
	policy, err := c.policy()
	if err != nil {
		return err
	}
	policy.UIDMappings, policy.GIDMappings = uids, gids
	containers, err := rundmc.New(rundmc.Config{
		Depot:                    c.Depot,
		Runtime:                  oci.Runtime{Path: c.Runtime, Root: filepath.Join(c.StateDir, "runtime"), ExtraArgs: c.RuntimeExtraArgs},
		Bundle:                   policy,
		ReplayBuffer:             c.ReplayBuffer,
		CleanupProcessDirsOnWait: c.CleanupProcessDirsOnWait,
		Log:                      c.Log,
	})
	if err != nil {
		return err
	}

	restorer := gardener.NewRestorer(network)
	if c.DestroyContainersOnStartup {
		restorer = &gardener.NoopRestorer{}
	}
	b.Backend = gardener.New(
		gardener.UidGeneratorFunc(uuid.NewString),
		gardener.NewBulkStarter([]gardener.Starter{
			b.part(func() error { return props.Load(c.Log) }, nil),
			b.part(volumes.Start, volumes.Close),
			b.part(network.Start, func() error { return stopNetwork(network) }),
			b.part(containers.Start, func() error { return b.Backend.Stop() }), // gardener shuts them down
		}),
		sysinfo.NewProvider(c.Depot),
		network,
		gardener.NewVolumeProvider(volumes, volumes, nil, rootUID, rootGID),
		containers,
		props,
		restorer,
		rundmc.PeaCleaner{},
		c.Log,
		c.MaxContainers,
		!c.DisablePrivilegedContainers,
	)
	return nil
}

// policy is what containers may do.
func (c Config) policy() (bundle.Config, error) {
	bounding, err := bundle.HostCapabilities()
	if err != nil {
		return bundle.Config{}, err
	}
	filter, err := bundle.DefaultSeccomp()
	if err != nil {
		return bundle.Config{}, err
	}
	parent := "/garden"
	if c.Tag != "" {
		parent += "-" + c.Tag
	}
	return bundle.Config{
		InitPath:     c.InitBin,
		CgroupParent: parent,
		CgroupV2:     cgroups.Unified(),
		BoundingSet:  bounding,
		Seccomp:      filter,
	}, nil
}

// Lock makes sure that this is the only server on its state directory and
// with its tag, until Stop or the end of this process. Start does it too; it
// is for callers with something to do in between.
func (b *Backend) Lock() (err error) {
	if b.lock == nil {
		if b.lock, err = lockDir(b.config.StateDir); err != nil {
			return err
		}
	}
	if b.tag == nil {
		b.tag, err = lockTag(b.config.Tag)
	}
	return err
}

// Start takes over the containers of the server before this one. After an
// error, Stop undoes what has been started.
func (b *Backend) Start() error {
	if err := b.Lock(); err != nil {
		return err
	}
	return b.Backend.Start()
}

// Stop ends what Start began, as far as it came. Containers and their
// processes go on; if there are none, nothing of this server stays on the
// host but its directories.
func (b *Backend) Stop() error { return b.stop() }

func (b *Backend) stopAll() error {
	var problems []error
	for _, undo := range slices.Backward(b.undo) {
		problems = append(problems, undo())
	}
	if b.tag != nil {
		problems = append(problems, unlockTag(b.tag))
	}
	if b.lock != nil {
		problems = append(problems, b.lock.Close())
	}
	return errors.Join(problems...)
}

// part is a start-up task of gardener's; Stop calls stop only if start succeeded.
func (b *Backend) part(start, stop func() error) gardener.Starter {
	return starter(func() error {
		if err := start(); err != nil {
			return err
		}
		if stop != nil {
			b.undo = append(b.undo, stop)
		}
		return nil
	})
}

type starter func() error

func (s starter) Start() error { return s() }

// stopNetwork leaves no rule behind that no container needs.
func stopNetwork(network *kawasaki.Networker) error {
	if err := network.Stop(); err != nil {
		return err
	}
	handles, err := network.Handles()
	if err != nil || len(handles) > 0 {
		return err
	}
	return network.Uninstall()
}
