// Package sysinfo knows facts of the host: memory, disk, processors, and the
// ids that its kernel lets this process use. Each call asks the kernel anew.
package sysinfo

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A Provider tells the sizes of the host.
type Provider struct {
	depotPath string
}

// NewProvider returns a Provider whose disk is the file system of depotPath.
func NewProvider(depotPath string) *Provider {
	return &Provider{depotPath: depotPath}
}

// TotalMemory of the host in bytes, whatever this process's cgroup allows it.
func (*Provider) TotalMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

// TotalDisk is the size in bytes of the depot's file system, used parts
// included.
func (p *Provider) TotalDisk() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(p.depotPath, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", p.depotPath, err)
	}
	return fs.Blocks * uint64(fs.Frsize), nil
}

// CPUCores of the host that are online, whatever this process's affinity.
func (*Provider) CPUCores() (int, error) {
	const path = "/sys/devices/system/cpu/online"
	list, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := countCPUs(string(list))
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return n, nil
}
