package gardener

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/handle"
)

// Create creates a container by combining the results of the networker, the
// volumizer and the containerizer. If any of them fails, nothing is left; if
// even that cannot be had, the error says so and the handle stays taken,
// listed under garden.state "all", until Destroy succeeds.
func (g *Gardener) Create(containerSpec garden.ContainerSpec) (ctr garden.Container, err error) {
	started := time.Now()
	if containerSpec.Handle == "" {
		containerSpec.Handle = g.UidGenerator.Generate()
	}
	if err := handle.Validate(containerSpec.Handle); err != nil {
		return nil, err
	}
	log := g.Logger.Session("create", lager.Data{"handle": containerSpec.Handle})
	defer func() {
		took := lager.Data{"took": time.Since(started).String()}
		if err != nil {
			log.Error("create-failed", err, took)
		} else {
			log.Info("created", took)
		}
	}()

	if err := g.admit(containerSpec); err != nil {
		return nil, err
	}
	ho, err := g.claim(containerSpec.Handle)
	if err != nil {
		return nil, err // somebody else's handle: nothing of ours to destroy
	}
	done := false // also after a panic there is something to destroy
	defer func() {
		if done {
			g.handles.release(ho)
		} else if undo := g.destroy(log, ho); undo != nil {
			err = errors.Join(err, fmt.Errorf("undo create: %w", undo))
		}
	}()
	if err := g.build(log, containerSpec); err != nil {
		return nil, err
	}
	done = true
	return &container{gardener: g, handle: containerSpec.Handle}, nil
}

// admit refuses what no host could create.
func (g *Gardener) admit(containerSpec garden.ContainerSpec) error {
	if containerSpec.Privileged && !g.AllowPrivilgedContainers {
		return errors.New("privileged container creation is disabled")
	}
	for name := range containerSpec.Properties {
		if err := writable(name); err != nil {
			return err
		}
	}
	return nil
}

func (g *Gardener) claim(handle string) (*holder, error) {
	if err := g.learn(); err != nil {
		return nil, err
	}
	return g.handles.claim(handle, g.MaxContainers)
}

// build makes the container, step by step. It undoes nothing.
func (g *Gardener) build(log lager.Logger, containerSpec garden.ContainerSpec) error {
	intent, err := intend(containerSpec)
	if err != nil {
		return err
	}
	if err := g.save(containerSpec.Handle, intent); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	base, err := g.prepare(log, containerSpec)
	if err != nil {
		return err
	}
	networkMounts, err := g.Networker.SetupBindMounts(log, containerSpec.Handle, containerSpec.Privileged, rootPath(base))
	if err != nil {
		return fmt.Errorf("set up network files: %w", err)
	}
	if err := g.Containerizer.Create(log, desired(containerSpec, base, networkMounts)); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	actual, err := g.Containerizer.Info(log, containerSpec.Handle)
	if err != nil {
		return fmt.Errorf("inspect container: %w", err)
	}
	if actual.Pid == 0 {
		return errors.New("container init PID was 0: init ended at once")
	}
	if err := g.Networker.Network(log, containerSpec, actual.Pid); err != nil {
		return fmt.Errorf("connect container: %w", err)
	}
	if err := g.save(containerSpec.Handle, garden.Properties{StateKey: StateCreated}); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	return nil
}

// limits asked for that no component can be asked about later.
type limits struct {
	Bandwidth garden.BandwidthLimits `json:"bandwidth"`
	Disk      garden.DiskLimits      `json:"disk"`
}

// intend says what is recorded before anything is made.
func intend(containerSpec garden.ContainerSpec) (garden.Properties, error) {
	props := garden.Properties{}
	maps.Copy(props, containerSpec.Properties)
	if containerSpec.GraceTime != 0 {
		props[GraceTimeKey] = graceTime(containerSpec.GraceTime)
	}
	asked := limits{Bandwidth: containerSpec.Limits.Bandwidth, Disk: containerSpec.Limits.Disk}
	if asked != (limits{}) {
		record, err := json.Marshal(asked)
		if err != nil {
			return nil, fmt.Errorf("encode limits: %w", err)
		}
		props[LimitsKey] = string(record)
	}
	return props, nil
}

func graceTime(d time.Duration) string { return strconv.FormatInt(int64(d), 10) }

// prepare makes the volume and, side by side, whatever of the network does
// not need it.
func (g *Gardener) prepare(log lager.Logger, containerSpec garden.ContainerSpec) (specs.Spec, error) {
	var side sync.WaitGroup
	var networkErr error
	if networker, ok := g.Networker.(NetworkPreparer); ok {
		side.Go(func() { networkErr = networker.PrepareNetwork(log, containerSpec) })
	}
	base, volumeErr := g.Volumizer.Create(log, containerSpec)
	side.Wait()
	return base, errors.Join(wrap("create volume", volumeErr), wrap("prepare network", networkErr))
}

func wrap(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", step, err)
}

func rootPath(base specs.Spec) string {
	if base.Root == nil {
		return ""
	}
	return base.Root.Path
}

// desired says what the containerizer is asked for. The network's mounts
// come last, so that no mount of the client hides them.
func desired(containerSpec garden.ContainerSpec, base specs.Spec, networkMounts []garden.BindMount) spec.DesiredContainerSpec {
	return spec.DesiredContainerSpec{
		Handle:     containerSpec.Handle,
		BaseConfig: base,
		Privileged: containerSpec.Privileged,
		BindMounts: slices.Concat(containerSpec.BindMounts, networkMounts),
		Env:        containerSpec.Env,
		Limits:     containerSpec.Limits,
	}
}

// save writes properties, and answers whether they are saved if the manager
// can tell.
func (g *Gardener) save(handle string, props garden.Properties) error {
	if saver, ok := g.PropertyManager.(PropertySaver); ok {
		return saver.SetAll(handle, props)
	}
	for name, value := range props {
		g.PropertyManager.Set(handle, name, value)
	}
	return nil
}
