package bundle

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// families are the sockets that containers may open. Others (vsock to a
// hypervisor, the kernel's crypto, raw packets) reach past the network rules
// or into seldom used parts of the kernel.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// DefaultSeccomp returns the filter of unprivileged containers: moby's
// allow-list for their capabilities, with socket families named one by one.
// What is not listed answers EPERM; clone3 answers ENOSYS, which makes libc
// fall back on clone, whose flags a filter can see.
//
// It admits the machine's own system calls only. Programs that enter the
// kernel in another way, 32-bit and x32 ones, are killed: their socketcall
// cannot be filtered by family, and every further architecture costs each
// create 6 ms, in which the runtime compiles the list once more.
func DefaultSeccomp() (*specs.LinuxSeccomp, error) {
	filter, err := seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: unprivileged}},
	})
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if filter == nil || len(filter.Architectures) == 0 {
		return nil, fmt.Errorf("seccomp profile for this architecture: %w", errors.ErrUnsupported)
	}
	filter.Architectures = filter.Architectures[:1] // the native one
	filter.DefaultErrnoRet = nil                    // EPERM is what runtimes take; the field is newer than Version
	filter.Syscalls = slices.DeleteFunc(filter.Syscalls, func(rule specs.LinuxSyscall) bool {
		return slices.Contains(rule.Names, "socket")
	})
	for _, family := range families {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{
			Names:  []string{"socket"},
			Action: specs.ActAllow,
			Args:   []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}},
		})
	}
	return filter, nil
}
