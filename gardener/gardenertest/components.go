package gardenertest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/spec"
)

var (
	_ gardener.Containerizer   = (*Containerizer)(nil)
	_ gardener.PeaLister       = (*Containerizer)(nil)
	_ gardener.PeaCleaner      = (*Containerizer)(nil)
	_ gardener.Networker       = (*Networker)(nil)
	_ gardener.NetworkPreparer = (*Networker)(nil)
	_ gardener.NetworkMeter    = (*Networker)(nil)
	_ gardener.HandleLister    = (*Networker)(nil)
	_ gardener.Volumizer       = (*Volumizer)(nil)
	_ gardener.HandleLister    = (*Volumizer)(nil)
	_ gardener.PropertyManager = (*Properties)(nil)
	_ gardener.PropertySaver   = (*Properties)(nil)
	_ gardener.HandleLister    = (*Properties)(nil)
)

// A Containerizer has sandboxes whose processes are names only.
type Containerizer struct{ server *Server }

// Create needs the volume, and a handle that has no sandbox.
func (c *Containerizer) Create(_ lager.Logger, desired spec.DesiredContainerSpec) error {
	return c.server.step("containerizer.create", func() error {
		h := c.server.host
		if h.sandboxes[desired.Handle] != nil {
			return h.violated("sandbox %s made twice", desired.Handle)
		}
		if !h.volumes[desired.Handle] {
			return h.violated("sandbox %s without a volume", desired.Handle)
		}
		h.pids++
		h.sandboxes[desired.Handle] = &sandbox{pid: h.pids, desired: desired}
		return nil
	})
}

// Handles of all bundles.
func (c *Containerizer) Handles() (handles []string, err error) {
	err = c.server.step("containerizer.handles", func() error {
		handles = slices.Sorted(maps.Keys(c.server.host.sandboxes))
		return nil
	})
	return handles, err
}

// PeaHandles of all peas.
func (c *Containerizer) PeaHandles() (ids []string, err error) {
	err = c.server.step("containerizer.pea-handles", func() error {
		ids = slices.Sorted(maps.Keys(c.server.host.peas))
		return nil
	})
	return ids, err
}

// CleanAll finds no debris.
func (c *Containerizer) CleanAll(lager.Logger) error {
	return c.server.step("peas.clean-all", func() error { return nil })
}

// Clean finds no debris.
func (c *Containerizer) Clean(lager.Logger, string) error { return nil }

func (c *Containerizer) in(step, handle string, act func(*sandbox) error) error {
	return c.server.step("containerizer."+step, func() error {
		s := c.server.host.sandboxes[handle]
		if s == nil || s.pid == 0 {
			return notFound(handle)
		}
		return act(s)
	})
}

// StreamIn reads the stream.
func (c *Containerizer) StreamIn(_ lager.Logger, handle string, in garden.StreamInSpec) error {
	return c.in("stream-in", handle, func(*sandbox) error {
		_, err := io.Copy(io.Discard, in.TarStream)
		return err
	})
}

// StreamOut answers the path that was asked for.
func (c *Containerizer) StreamOut(_ lager.Logger, handle string, out garden.StreamOutSpec) (stream io.ReadCloser, err error) {
	err = c.in("stream-out", handle, func(*sandbox) error {
		stream = io.NopCloser(strings.NewReader(out.Path))
		return nil
	})
	return stream, err
}

// Run answers a process whose exit code is the number of its arguments.
func (c *Containerizer) Run(_ lager.Logger, handle string, p garden.ProcessSpec, _ garden.ProcessIO) (process garden.Process, err error) {
	err = c.in("run", handle, func(*sandbox) error {
		process = Process{id: p.ID, code: len(p.Args)}
		return nil
	})
	return process, err
}

// Attach answers a process of any id.
func (c *Containerizer) Attach(_ lager.Logger, handle, id string, _ garden.ProcessIO) (process garden.Process, err error) {
	err = c.in("attach", handle, func(*sandbox) error {
		process = Process{id: id}
		return nil
	})
	return process, err
}

// Stop marks the sandbox.
func (c *Containerizer) Stop(_ lager.Logger, handle string, _ bool) error {
	return c.in("stop", handle, func(s *sandbox) error {
		s.stopped = true
		return nil
	})
}

// Destroy ends the sandbox and keeps its bundle.
func (c *Containerizer) Destroy(_ lager.Logger, handle string) error {
	return c.server.step("containerizer.destroy", func() error {
		if s := c.server.host.sandboxes[handle]; s != nil {
			s.pid = 0
		}
		return nil
	})
}

// RemoveBundle forgets the sandbox.
func (c *Containerizer) RemoveBundle(_ lager.Logger, handle string) error {
	return c.server.step("containerizer.remove-bundle", func() error {
		h := c.server.host
		if s := h.sandboxes[handle]; s != nil && s.pid != 0 {
			return h.violated("bundle of %s removed while it runs", handle)
		}
		delete(h.sandboxes, handle)
		return nil
	})
}

// Info tells what was asked for.
func (c *Containerizer) Info(_ lager.Logger, handle string) (actual spec.ActualContainerSpec, err error) {
	err = c.server.step("containerizer.info", func() error {
		s := c.server.host.sandboxes[handle]
		if s == nil {
			return notFound(handle)
		}
		actual = spec.ActualContainerSpec{
			Pid:        s.pid,
			BundlePath: "/depot/" + handle,
			Stopped:    s.stopped || s.pid == 0,
			Events:     []string{"Out of memory"},
			ProcessIDs: []string{"p"},
			Limits:     s.desired.Limits,
			Privileged: s.desired.Privileged,
		}
		return nil
	})
	return actual, err
}

// Metrics are known of sandboxes and peas.
func (c *Containerizer) Metrics(_ lager.Logger, handle string) (metrics spec.ActualContainerMetrics, err error) {
	err = c.server.step("containerizer.metrics", func() error {
		h := c.server.host
		if h.sandboxes[handle] == nil && !h.peas[handle] {
			return notFound(handle)
		}
		metrics.CPUEntitlement = 7
		metrics.CPU.Usage = 8
		metrics.Memory.Rss = 9
		metrics.Pid.Max = 10
		metrics.Age = 11
		return nil
	})
	return metrics, err
}

// WatchRuntimeEvents has nothing to watch.
func (c *Containerizer) WatchRuntimeEvents(lager.Logger) error {
	return c.server.step("containerizer.watch", func() error { return nil })
}

// Shutdown has nothing to end.
func (c *Containerizer) Shutdown() error {
	return c.server.step("containerizer.shutdown", func() error { return nil })
}

// Desired answers what the sandbox was created from.
func (c *Containerizer) Desired(handle string) spec.DesiredContainerSpec {
	h := c.server.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sandboxes[handle]; s != nil {
		return s.desired
	}
	return spec.DesiredContainerSpec{}
}

// A Process has ended.
type Process struct {
	id   string
	code int
}

func (p Process) ID() string                   { return p.id }
func (p Process) Wait() (int, error)           { return p.code, nil }
func (p Process) SetTTY(garden.TTYSpec) error  { return nil }
func (p Process) Signal(s garden.Signal) error { return nil }

// A Networker has one network per container. It is there from PrepareNetwork
// on.
type Networker struct{ server *Server }

// PrepareNetwork makes the network.
func (n *Networker) PrepareNetwork(_ lager.Logger, c garden.ContainerSpec) error {
	return n.server.step("networker.prepare", func() error {
		h := n.server.host
		if h.networks[c.Handle] {
			return h.violated("network %s made twice", c.Handle)
		}
		h.networks[c.Handle] = true
		return nil
	})
}

// SetupBindMounts needs the network and the rootfs.
func (n *Networker) SetupBindMounts(_ lager.Logger, handle string, _ bool, rootfs string) (mounts []garden.BindMount, err error) {
	err = n.server.step("networker.mounts", func() error {
		h := n.server.host
		if !h.networks[handle] || rootfs != "/volumes/"+handle {
			return h.violated("network files of %s for %q before network and volume", handle, rootfs)
		}
		mounts = []garden.BindMount{{SrcPath: "/network/" + handle, DstPath: "/etc/hosts"}}
		return nil
	})
	return mounts, err
}

// Network needs the sandbox.
func (n *Networker) Network(_ lager.Logger, c garden.ContainerSpec, pid int) error {
	return n.server.step("networker.network", func() error {
		h := n.server.host
		if s := h.sandboxes[c.Handle]; s == nil || s.pid != pid || !h.networks[c.Handle] {
			return h.violated("network of %s connected to pid %d", c.Handle, pid)
		}
		return h.Records.SetAll(c.Handle, garden.Properties{
			gardener.ContainerIPKey: "10.0.0.2",
			gardener.BridgeIPKey:    "10.0.0.1",
			gardener.ExternalIPKey:  "192.0.2.1",
			gardener.MappedPortsKey: `[{"HostPort":60000,"ContainerPort":8080}]`,
		})
	})
}

// Capacity of the network.
func (n *Networker) Capacity() uint64 { return 256 }

// Destroy removes the network.
func (n *Networker) Destroy(_ lager.Logger, handle string) error {
	return n.server.step("networker.destroy", func() error {
		delete(n.server.host.networks, handle)
		return nil
	})
}

func (n *Networker) in(step, handle string) error {
	return n.server.step("networker."+step, func() error {
		if !n.server.host.networks[handle] {
			return errors.New("no network")
		}
		return nil
	})
}

// NetIn maps any port.
func (n *Networker) NetIn(_ lager.Logger, handle string, hostPort, containerPort uint32) (uint32, uint32, error) {
	return hostPort, containerPort, n.in("net-in", handle)
}

// BulkNetOut allows anything.
func (n *Networker) BulkNetOut(_ lager.Logger, handle string, _ []garden.NetOutRule) error {
	return n.in("bulk-net-out", handle)
}

// NetOut allows anything.
func (n *Networker) NetOut(_ lager.Logger, handle string, _ garden.NetOutRule) error {
	return n.in("net-out", handle)
}

// Restore needs the network.
func (n *Networker) Restore(_ lager.Logger, handle string) error { return n.in("restore", handle) }

// NetworkMetrics are the same for all.
func (n *Networker) NetworkMetrics(_ lager.Logger, handle string) (*garden.ContainerNetworkStat, error) {
	return &garden.ContainerNetworkStat{RxBytes: 1, TxBytes: 2}, n.in("metrics", handle)
}

// Handles of all networks.
func (n *Networker) Handles() (handles []string, err error) {
	err = n.server.step("networker.handles", func() error {
		handles = slices.Sorted(maps.Keys(n.server.host.networks))
		return nil
	})
	return handles, err
}

// A Volumizer has one volume per container.
type Volumizer struct{ server *Server }

// Create makes the volume.
func (v *Volumizer) Create(_ lager.Logger, c garden.ContainerSpec) (base specs.Spec, err error) {
	err = v.server.step("volumizer.create", func() error {
		h := v.server.host
		if h.volumes[c.Handle] {
			return h.violated("volume %s made twice", c.Handle)
		}
		h.volumes[c.Handle] = true
		h.peak = max(h.peak, len(h.volumes))
		base.Root = &specs.Root{Path: "/volumes/" + c.Handle}
		return nil
	})
	return base, err
}

// Destroy removes the volume.
func (v *Volumizer) Destroy(_ lager.Logger, handle string) error {
	return v.server.step("volumizer.destroy", func() error {
		delete(v.server.host.volumes, handle)
		return nil
	})
}

// Metrics tell by the number of inodes whether the container is namespaced.
func (v *Volumizer) Metrics(_ lager.Logger, handle string, namespaced bool) (stat garden.ContainerDiskStat, err error) {
	err = v.server.step("volumizer.metrics", func() error {
		if !v.server.host.volumes[handle] {
			return fmt.Errorf("no volume %s", handle)
		}
		stat.TotalBytesUsed = 12
		if namespaced {
			stat.TotalInodesUsed = 1
		}
		return nil
	})
	return stat, err
}

// GC finds nothing.
func (v *Volumizer) GC(lager.Logger) error { return nil }

// Capacity of the store.
func (v *Volumizer) Capacity(lager.Logger) (capacity uint64, err error) {
	err = v.server.step("volumizer.capacity", func() error {
		capacity = 1 << 30
		return nil
	})
	return capacity, err
}

// Handles of all volumes, peas' included.
func (v *Volumizer) Handles() (handles []string, err error) {
	err = v.server.step("volumizer.handles", func() error {
		handles = slices.Sorted(maps.Keys(v.server.host.volumes))
		return nil
	})
	return handles, err
}

// Properties are the Host's records, as this server sees them.
type Properties struct{ server *Server }

func (p *Properties) All(handle string) (garden.Properties, error) {
	return p.server.host.Records.All(handle)
}

func (p *Properties) Get(handle, name string) (string, bool) {
	return p.server.host.Records.Get(handle, name)
}

func (p *Properties) MatchesAll(handle string, props garden.Properties) bool {
	return p.server.host.Records.MatchesAll(handle, props)
}

func (p *Properties) Set(handle, name, value string) {
	_ = p.SetAll(handle, garden.Properties{name: value}) // the interface has no error
}

func (p *Properties) SetAll(handle string, props garden.Properties) error {
	return p.server.step("properties.save", func() error { return p.server.host.Records.SetAll(handle, props) })
}

func (p *Properties) Remove(handle, name string) error {
	return p.server.step("properties.remove", func() error { return p.server.host.Records.Remove(handle, name) })
}

func (p *Properties) DestroyKeySpace(handle string) error {
	return p.server.step("properties.forget", func() error { return p.server.host.Records.DestroyKeySpace(handle) })
}

func (p *Properties) Handles() (handles []string, err error) {
	err = p.server.step("properties.handles", func() error {
		handles, err = p.server.host.Records.Handles()
		return err
	})
	return handles, err
}
