package gardener

import (
	"fmt"

	"code.cloudfoundry.org/garden"
)

// Capacity of the host. Schedulable disk is what the volumizer says, or all
// of the disk if it cannot tell.
func (g *Gardener) Capacity() (garden.Capacity, error) {
	log := g.Logger.Session("capacity")
	memory, err := g.SysInfoProvider.TotalMemory()
	if err != nil {
		return garden.Capacity{}, fmt.Errorf("total memory: %w", err)
	}
	disk, err := g.SysInfoProvider.TotalDisk()
	if err != nil {
		return garden.Capacity{}, fmt.Errorf("total disk: %w", err)
	}
	schedulable, err := g.Volumizer.Capacity(log)
	if err != nil {
		log.Error("volume-capacity-unknown", err)
		schedulable = disk
	}
	containers := g.Networker.Capacity()
	if g.MaxContainers > 0 {
		containers = min(containers, g.MaxContainers)
	}
	return garden.Capacity{
		MemoryInBytes:          memory,
		DiskInBytes:            disk,
		SchedulableDiskInBytes: schedulable,
		MaxContainers:          containers,
	}, nil
}
