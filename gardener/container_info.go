package gardener

import (
	"encoding/json"
	"fmt"

	"code.cloudfoundry.org/garden"

	"github.com/verger-garden/verger/gardener/spec"
)

// Info tells what the containerizer and the properties say of the container.
func (c *container) Info() (garden.ContainerInfo, error) {
	ho, log, err := c.begin("info")
	if err != nil {
		return garden.ContainerInfo{}, err
	}
	actual, err := c.gardener.Containerizer.Info(log, c.handle)
	if err != nil {
		return garden.ContainerInfo{}, err
	}
	var props garden.Properties
	err = ho.use(func() (err error) {
		props, err = c.gardener.PropertyManager.All(c.handle)
		return err
	})
	if err != nil {
		return garden.ContainerInfo{}, err
	}
	return info(actual, props)
}

func info(actual spec.ActualContainerSpec, props garden.Properties) (garden.ContainerInfo, error) {
	var ports []garden.PortMapping
	if recorded := props[MappedPortsKey]; recorded != "" {
		if err := json.Unmarshal([]byte(recorded), &ports); err != nil {
			return garden.ContainerInfo{}, fmt.Errorf("parse property %s: %w", MappedPortsKey, err)
		}
	}
	state := "active"
	if actual.Stopped {
		state = "stopped"
	}
	return garden.ContainerInfo{
		State:         state,
		Events:        actual.Events,
		HostIP:        props[BridgeIPKey],
		ContainerIP:   props[ContainerIPKey],
		ContainerIPv6: props[ContainerIPv6Key],
		ExternalIP:    props[ExternalIPKey],
		ContainerPath: actual.BundlePath,
		ProcessIDs:    actual.ProcessIDs,
		Properties:    props,
		MappedPorts:   ports,
	}, nil
}

func (c *container) CurrentCPULimits() (garden.CPULimits, error) {
	inForce, err := c.limitsInForce()
	return inForce.CPU, err
}

func (c *container) CurrentMemoryLimits() (garden.MemoryLimits, error) {
	inForce, err := c.limitsInForce()
	return inForce.Memory, err
}

func (c *container) limitsInForce() (garden.Limits, error) {
	_, log, err := c.begin("current-limits")
	if err != nil {
		return garden.Limits{}, err
	}
	actual, err := c.gardener.Containerizer.Info(log, c.handle)
	return actual.Limits, err
}

func (c *container) CurrentDiskLimits() (garden.DiskLimits, error) {
	asked, err := c.limitsAsked()
	return asked.Disk, err
}

func (c *container) CurrentBandwidthLimits() (garden.BandwidthLimits, error) {
	asked, err := c.limitsAsked()
	return asked.Bandwidth, err
}

// limitsAsked answers the record that create made.
func (c *container) limitsAsked() (asked limits, err error) {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return limits{}, err
	}
	err = ho.use(func() error {
		recorded, ok := c.gardener.PropertyManager.Get(c.handle, LimitsKey)
		if !ok {
			return nil
		}
		if err := json.Unmarshal([]byte(recorded), &asked); err != nil {
			return fmt.Errorf("parse property %s: %w", LimitsKey, err)
		}
		return nil
	})
	return asked, err
}
