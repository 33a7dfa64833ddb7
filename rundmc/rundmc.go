// Package rundmc is the containerizer: it makes sandboxes with an OCI runtime
// and runs processes in them through gdn-init, their PID 1.
//
// The depot holds one folder per container with all that a restart needs. The
// runtime program is started twice in a container's life, to make and to
// delete it; everything in between is a message to gdn-init. Neither knows
// when the server dies, so a server that comes back finds containers,
// processes, their output and their exit codes.
package rundmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/cgroups"
	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/rundmc/bundle"
	"github.com/verger-garden/verger/rundmc/oci"
)

// DefaultReplayBuffer is how many bytes of each stream wait for a client to
// come back.
const DefaultReplayBuffer = 256 << 10

// Config says where containers live and what they are made of.
type Config struct {
	Depot   string      // required: one folder per container; on a tmpfs
	Runtime oci.Runtime // required: Path and Root

	// Bundle is the policy for sandboxes; InitPath is required.
	Bundle bundle.Config

	// ReplayBuffer is the bytes kept of each stream while no client is
	// attached. 0: DefaultReplayBuffer; negative: none.
	ReplayBuffer int

	// CleanupProcessDirsOnWait forgets a process once its exit code was
	// given out, so that its id can be used again.
	CleanupProcessDirsOnWait bool

	Log lager.Logger // nil: silent
}

// A Containerizer makes, runs and destroys containers. Its methods may be
// called concurrently; calls for one handle do not wait for other handles.
type Containerizer struct {
	config   Config
	log      lager.Logger
	shutdown chan struct{}
	once     sync.Once

	mu         sync.RWMutex
	containers map[string]*container
}

// New checks c and touches nothing.
func New(c Config) (*Containerizer, error) {
	for _, required := range []struct{ name, value string }{
		{"depot", c.Depot}, {"runtime program", c.Runtime.Path}, {"runtime's state folder", c.Runtime.Root},
		{"gdn-init", c.Bundle.InitPath},
	} {
		if !filepath.IsAbs(required.value) {
			return nil, fmt.Errorf("rundmc: path of the %s is %q, not absolute", required.name, required.value)
		}
	}
	if c.ReplayBuffer == 0 {
		c.ReplayBuffer = DefaultReplayBuffer
	}
	c.ReplayBuffer = max(0, c.ReplayBuffer)
	if c.Log == nil {
		c.Log = lager.NewLogger("rundmc")
	}
	return &Containerizer{
		config: c, log: c.Log.Session("rundmc"),
		shutdown: make(chan struct{}), containers: map[string]*container{},
	}, nil
}

// Start checks the runtime, makes the depot and takes up the containers in
// it. A container that cannot be taken up is logged, reported as stopped, and
// can be destroyed.
func (c *Containerizer) Start() error {
	if err := c.config.Runtime.Check(context.Background()); err != nil {
		return err
	}
	if _, err := os.Stat(c.config.Bundle.InitPath); err != nil {
		return fmt.Errorf("gdn-init: %w", err)
	}
	for _, dir := range []string{c.config.Depot, c.config.Runtime.Root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make depot: %w", err)
		}
	}
	return c.restore()
}

// Shutdown lets go of all containers; they and their processes go on. A
// cgroup parent that no container needs is removed.
func (c *Containerizer) Shutdown() error {
	c.once.Do(func() { close(c.shutdown) })
	c.mu.Lock()
	all := c.containers
	c.containers = map[string]*container{}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, each := range all {
		wg.Go(each.close)
	}
	wg.Wait()
	if len(all) == 0 && c.config.Bundle.CgroupParent != "" {
		if err := cgroups.Remove(c.config.Bundle.CgroupParent); err != nil {
			return fmt.Errorf("shutdown: %w", err)
		}
	}
	return nil
}

// get returns the container, or garden.ContainerNotFoundError.
func (c *Containerizer) get(h string) (*container, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if found, ok := c.containers[h]; ok {
		return found, nil
	}
	return nil, garden.ContainerNotFoundError{Handle: h}
}

// Handles lists the containers in the depot, half-made ones too.
func (c *Containerizer) Handles() ([]string, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	handles := make([]string, 0, len(c.containers))
	for h := range c.containers {
		handles = append(handles, h)
	}
	slices.Sort(handles)
	return handles, nil
}

// Info tells what is known of the container, without asking the runtime.
func (c *Containerizer) Info(log lager.Logger, h string) (spec.ActualContainerSpec, error) {
	found, err := c.get(h)
	if err != nil {
		return spec.ActualContainerSpec{}, err
	}
	return found.info(), nil
}

func (c *container) info() spec.ActualContainerSpec {
	c.mu.Lock()
	defer c.mu.Unlock()
	actual := spec.ActualContainerSpec{
		Pid: c.record.Pid, BundlePath: c.dir, Stopped: c.record.Stopped || c.dead,
		Limits: c.record.Limits, Privileged: c.record.Privileged,
	}
	if c.bundle.Root != nil {
		actual.RootFSPath = c.bundle.Root.Path
	}
	if c.dead {
		actual.Pid = 0
	}
	for id, p := range c.processes {
		if !p.hasEnded() {
			actual.ProcessIDs = append(actual.ProcessIDs, id)
		}
	}
	slices.Sort(actual.ProcessIDs)
	return actual
}

// RemoveBundle removes the container's folder and with it the last of the
// container. Unknown handles are done.
func (c *Containerizer) RemoveBundle(log lager.Logger, h string) error {
	if err := handle.Validate(h); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(c.config.Depot, h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove bundle: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.containers, h)
	return nil
}

// WatchRuntimeEvents returns at once: init's end is noticed on its connection.
func (c *Containerizer) WatchRuntimeEvents(log lager.Logger) error { return nil }

// StreamIn is not served yet.
func (c *Containerizer) StreamIn(log lager.Logger, h string, s garden.StreamInSpec) error {
	return errors.New("stream-in: this server does not stream files yet: use a bind mount")
}

// StreamOut is not served yet.
func (c *Containerizer) StreamOut(log lager.Logger, h string, s garden.StreamOutSpec) (io.ReadCloser, error) {
	return nil, errors.New("stream-out: this server does not stream files yet: use a bind mount")
}
