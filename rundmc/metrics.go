package rundmc

import (
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/gardener/spec"
)

// Metrics reads the figures of the container's cgroups.
func (c *Containerizer) Metrics(log lager.Logger, h string) (spec.ActualContainerMetrics, error) {
	found, err := c.get(h)
	if err != nil {
		return spec.ActualContainerMetrics{}, err
	}
	found.mu.Lock()
	paths, created := found.record.Cgroups, found.record.Created
	found.mu.Unlock()
	s, err := paths.Stats()
	if err != nil {
		return spec.ActualContainerMetrics{}, err
	}
	return spec.ActualContainerMetrics{StatsContainerMetrics: spec.StatsContainerMetrics{
		CPU: garden.ContainerCPUStat{
			Usage: uint64(s.Usage), User: uint64(s.User), System: uint64(s.System),
		},
		Memory: memoryStat(s.Memory),
		Pid:    garden.ContainerPidStat{Current: s.Pids, Max: s.PidsMax},
		Age:    time.Since(created),
	}}, nil
}

// memoryStat names the kernel's figures, v1's and v2's, as the API does.
func memoryStat(m map[string]uint64) garden.ContainerMemoryStat {
	s := garden.ContainerMemoryStat{
		ActiveAnon: m["active_anon"], ActiveFile: m["active_file"], Cache: m["cache"],
		HierarchicalMemoryLimit: m["hierarchical_memory_limit"], HierarchicalMemswLimit: m["hierarchical_memsw_limit"],
		InactiveAnon: m["inactive_anon"], InactiveFile: m["inactive_file"], MappedFile: m["mapped_file"],
		Pgfault: m["pgfault"], Pgmajfault: m["pgmajfault"], Pgpgin: m["pgpgin"], Pgpgout: m["pgpgout"], Rss: m["rss"],
		TotalActiveAnon: m["total_active_anon"], TotalActiveFile: m["total_active_file"], TotalCache: m["total_cache"],
		TotalInactiveAnon: m["total_inactive_anon"], TotalInactiveFile: m["total_inactive_file"],
		TotalMappedFile: m["total_mapped_file"], TotalPgfault: m["total_pgfault"], TotalPgmajfault: m["total_pgmajfault"],
		TotalPgpgin: m["total_pgpgin"], TotalPgpgout: m["total_pgpgout"], TotalRss: m["total_rss"],
		TotalUnevictable: m["total_unevictable"], Unevictable: m["unevictable"], Swap: m["swap"], TotalSwap: m["total_swap"],
		Anon: m["anon"], File: m["file"], SwapCached: m["swapcached"],
	}
	used := m["total_rss"] + m["total_cache"] + m["total_swap"] // v1
	inactive := m["total_inactive_file"]
	if _, v1 := m["total_rss"]; !v1 {
		used, inactive = m["anon"]+m["file"]+m["swapcached"], m["inactive_file"]
	}
	s.TotalUsageTowardLimit = used - min(used, inactive)
	return s
}
