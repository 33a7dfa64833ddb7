package bundle

import (
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
)

// anyNumber stands for every major or minor number. In a bundle it is left
// out: crun does not know -1.
const anyNumber = -1

// allowed are the devices that containers may use. Making a node is harmless:
// without a rule for it, it cannot be opened.
var allowed = []specs.LinuxDeviceCgroup{
	device("c", anyNumber, anyNumber, "m"),
	device("b", anyNumber, anyNumber, "m"),
	device("c", 1, 3, "rwm"),           // null
	device("c", 1, 8, "rwm"),           // random
	device("c", 1, 7, "rwm"),           // full
	device("c", 5, 0, "rwm"),           // tty
	device("c", 1, 5, "rwm"),           // zero
	device("c", 1, 9, "rwm"),           // urandom
	device("c", 5, 2, "rwm"),           // ptmx
	device("c", 136, anyNumber, "rwm"), // pts
	device("c", 10, 200, "rwm"),        // net/tun
}

var fuse = device("c", 10, 229, "rwm")

// devices states the whole list for every container, since runtimes differ in
// what they take silence for: crun 1.8 leaves everything open. Privileged
// containers get fuse besides, and what the operator adds.
func devices(c Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	var own, extra []specs.LinuxDeviceCgroup
	if d.Privileged {
		own, extra = c.DeviceRules, []specs.LinuxDeviceCgroup{fuse}
		s.Linux.Devices = []specs.LinuxDevice{{
			Path: "/dev/fuse", Type: fuse.Type, Major: *fuse.Major, Minor: *fuse.Minor, FileMode: new(os.FileMode(0o666)),
		}}
	}
	rules := append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, own...)
	for _, rule := range slices.Concat(allowed, extra) {
		if !slices.ContainsFunc(own, func(o specs.LinuxDeviceCgroup) bool { return sameDevice(o, rule) }) {
			rules = append(rules, rule)
		}
	}
	for _, rule := range rules {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, normal(rule))
	}
	return nil
}

func device(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return normal(specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
}

func sameDevice(a, b specs.LinuxDeviceCgroup) bool {
	return a.Type == b.Type && number(a.Major) == number(b.Major) && number(a.Minor) == number(b.Minor)
}

func number(n *int64) int64 {
	if n == nil {
		return anyNumber
	}
	return *n
}

// normal returns a copy of rule that names only definite numbers.
func normal(rule specs.LinuxDeviceCgroup) specs.LinuxDeviceCgroup {
	for _, n := range []**int64{&rule.Major, &rule.Minor} {
		switch number(*n) {
		case anyNumber:
			*n = nil
		default:
			*n = new(**n)
		}
	}
	return rule
}
