package gardener

import (
	"fmt"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

// Metrics of the container: processor, memory and pids from the
// containerizer, disk from the volumizer, traffic from the networker if it
// counts. If one of them fails, so does the call.
func (c *container) Metrics() (garden.Metrics, error) {
	_, log, err := c.begin("metrics")
	if err != nil {
		return garden.Metrics{}, err
	}
	actual, err := c.gardener.Containerizer.Info(log, c.handle)
	if err != nil {
		return garden.Metrics{}, err
	}
	metrics, err := c.gardener.usage(log, c.handle, !actual.Privileged)
	if err != nil {
		return garden.Metrics{}, err
	}
	metrics.NetworkStat, err = c.gardener.traffic(log, c.handle)
	return metrics, err
}

// peaMetrics are those of a process with an own image, which is no container
// of ours but known to containerizer and volumizer by its id.
func (g *Gardener) peaMetrics(id string) (garden.Metrics, error) {
	return g.usage(g.Logger.Session("metrics", lager.Data{"process": id}), id, true)
}

func (g *Gardener) usage(log lager.Logger, id string, namespaced bool) (garden.Metrics, error) {
	actual, err := g.Containerizer.Metrics(log, id)
	if err != nil {
		return garden.Metrics{}, err
	}
	disk, err := g.Volumizer.Metrics(log, id, namespaced)
	if err != nil {
		return garden.Metrics{}, err
	}
	return garden.Metrics{
		MemoryStat:     actual.Memory,
		CPUStat:        actual.CPU,
		PidStat:        actual.Pid,
		DiskStat:       disk,
		Age:            actual.Age,
		CPUEntitlement: actual.CPUEntitlement,
	}, nil
}

func (g *Gardener) traffic(log lager.Logger, handle string) (*garden.ContainerNetworkStat, error) {
	meter, ok := g.Networker.(NetworkMeter)
	if !ok {
		return nil, nil
	}
	if unwanted, _ := g.PropertyManager.Get(handle, HealthcheckKey); unwanted == "true" {
		return nil, nil
	}
	stat, err := meter.NetworkMetrics(log, handle)
	if err != nil {
		return nil, fmt.Errorf("network metrics: %w", err)
	}
	return stat, nil
}
