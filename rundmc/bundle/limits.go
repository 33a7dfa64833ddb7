package bundle

import (
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
)

// limits leaves out what is not limited. Disk is the Volumizer's matter.
func limits(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	r := s.Linux.Resources
	if bytes := d.Limits.Memory.LimitInBytes; bytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: new(clamp(bytes))}
		if !c.DisableSwapLimit {
			r.Memory.Swap = new(clamp(bytes)) // memory and swap together: no swap
		}
	}
	if d.Limits.Pid.Max > 0 {
		r.Pids = &specs.LinuxPids{Limit: new(clamp(d.Limits.Pid.Max))}
	}
	if c.BlockIOWeight > 0 {
		r.BlockIO = &specs.LinuxBlockIO{Weight: new(c.BlockIOWeight)}
	}
	cpu(c, d, r)
	return nil
}

const (
	quotaPeriod  = 100_000 // microseconds
	minimumQuota = 1_000   // the kernel's
)

// cpu takes shares as cgroup v1 knows them; on v2 it states the weight itself,
// since runtimes do not agree on the conversion.
func cpu(c Config, d spec.DesiredContainerSpec, r *specs.LinuxResources) {
	shares := d.Limits.CPU.Weight
	if shares == 0 {
		//lint:ignore SA1019 older clients still send it
		shares = d.Limits.CPU.LimitInShares
	}
	if shares == 0 {
		return
	}
	var quota int64
	if c.CPUQuotaPerShare > 0 {
		quota = max(minimumQuota, product(shares, c.CPUQuotaPerShare))
	}

	if c.CgroupV2 {
		r.Unified = map[string]string{"cpu.weight": strconv.FormatUint(weight(shares), 10)}
		if quota > 0 {
			r.Unified["cpu.max"] = strconv.FormatInt(quota, 10) + " " + strconv.Itoa(quotaPeriod)
		}
		return
	}
	r.CPU = &specs.LinuxCPU{Shares: new(shares)}
	if quota > 0 {
		r.CPU.Quota, r.CPU.Period = new(quota), new(uint64(quotaPeriod))
	}
}

// weight converts cgroup v1 shares (2 to 262144, default 1024) to a v2 weight
// (1 to 10000, default 100): a curve through both ends and both defaults, the
// one that today's runtimes use.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34.0)))
}

func clamp(n uint64) int64 {
	return int64(min(n, math.MaxInt64))
}

func product(a, b uint64) int64 {
	if a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return int64(a * b)
}
