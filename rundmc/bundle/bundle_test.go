//lint:file-ignore SA1019 the deprecated LimitInShares is still honoured

package bundle_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/bundle"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestBundle(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "rundmc/bundle")
}

var guardianIDs = []specs.LinuxIDMapping{
	{ContainerID: 0, HostID: 4294967294, Size: 1},
	{ContainerID: 1, HostID: 1, Size: 4294967293},
}

// config is that of a host where nothing is special, and no kernel is asked.
func config() bundle.Config {
	return bundle.Config{
		InitPath:    "/usr/lib/gdn-init",
		UIDMappings: guardianIDs,
		GIDMappings: guardianIDs,
		MountFlags: func(source string) ([]string, error) {
			switch {
			case strings.HasPrefix(source, "/missing"):
				return nil, os.ErrNotExist
			case strings.HasPrefix(source, "/ro"):
				return []string{"ro", "nodev", "nosuid", "relatime"}, nil
			case strings.HasPrefix(source, "/noexec"):
				return []string{"noexec"}, nil
			}
			return []string{"relatime"}, nil
		},
	}
}

func desired() spec.DesiredContainerSpec {
	return spec.DesiredContainerSpec{
		Handle:     "some-handle",
		BaseConfig: specs.Spec{Root: &specs.Root{Path: "/images/some-handle/rootfs"}},
	}
}

var _ = Describe("a bundle", func() {
	DescribeTable("is as the golden file has it",
		func(name string, change func(*bundle.Config, *spec.DesiredContainerSpec)) {
			c, d := config(), desired()
			change(&c, &d)
			s, err := bundle.Build(c, d)
			Expect(err).NotTo(HaveOccurred())

			got, err := json.MarshalIndent(s, "", "  ")
			Expect(err).NotTo(HaveOccurred())
			got = append(got, '\n')
			golden := filepath.Join("testdata", name+".json")
			if *update {
				Expect(os.WriteFile(golden, got, 0o644)).To(Succeed())
			}
			want, err := os.ReadFile(golden)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(got)).To(Equal(string(want)), "run with -update and look at the difference")
		},
		Entry("by default: unprivileged", "unprivileged", func(*bundle.Config, *spec.DesiredContainerSpec) {}),
		Entry("privileged", "privileged", func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Privileged = true }),
		Entry("with everything asked for", "everything", func(c *bundle.Config, d *spec.DesiredContainerSpec) {
			c.CgroupParent = "/garden-tag/good"
			c.BoundingSet = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}
			c.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
			c.AppArmorProfile = "garden-default"
			c.NoNewPrivileges = true
			c.DefaultRlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 16384, Hard: 16384}}
			c.Sysctls = map[string]string{"net.ipv4.tcp_retries1": "3"}
			c.CPUQuotaPerShare = 10
			c.BlockIOWeight = 400
			d.CgroupPath = "elsewhere"
			d.Hostname = "a-host"
			d.BaseConfig.Process = &specs.Process{Env: []string{"PATH=/image", "A=1"}, Args: []string{"/never"}}
			d.BaseConfig.Mounts = []specs.Mount{{Destination: "/vol", Source: "/store/vol", Type: "bind", Options: []string{"bind"}}}
			d.BaseConfig.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/never"}}}
			d.Env = []string{"A=2", "EMPTY="}
			d.BindMounts = []garden.BindMount{
				{SrcPath: "/src/a", DstPath: "/dst/a"},
				{SrcPath: "/src/b/", DstPath: "/dst/../dst/b", Mode: garden.BindMountModeRW},
				{SrcPath: "/ro/c", DstPath: "/dst/c", Mode: garden.BindMountModeRW},
				{SrcPath: "/src/shm", DstPath: "/dev/shm", Mode: garden.BindMountModeRW},
			}
			d.Limits = garden.Limits{
				CPU:    garden.CPULimits{Weight: 128, LimitInShares: 7},
				Memory: garden.MemoryLimits{LimitInBytes: 64 << 20},
				Pid:    garden.PidLimits{Max: 100},
			}
		}),
		Entry("with limits, on cgroup v2", "limits-v2", func(c *bundle.Config, d *spec.DesiredContainerSpec) {
			c.CgroupV2 = true
			c.CPUQuotaPerShare = 10
			c.DisableSwapLimit = true
			d.Limits.CPU.LimitInShares = 128
			d.Limits.Memory.LimitInBytes = 64 << 20
		}),
		Entry("privileged, with the operator's devices", "devices", func(c *bundle.Config, d *spec.DesiredContainerSpec) {
			major, minor, any := int64(10), int64(200), int64(-1)
			c.DeviceRules = []specs.LinuxDeviceCgroup{
				{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "r"},
				{Allow: true, Type: "b", Major: &any, Access: "rwm"},
			}
			d.Privileged = true
		}),
		Entry("joined to another's namespaces", "joined", func(c *bundle.Config, d *spec.DesiredContainerSpec) {
			c.Sysctls = map[string]string{"net.ipv4.tcp_retries1": "3"}
			c.NoNewPrivileges = true
			d.CgroupPath = "sandbox/pea"
			d.Namespaces = map[string]string{
				"network": "/proc/7/ns/net", "pid": "/proc/7/ns/pid", "ipc": "/proc/7/ns/ipc",
				"uts": "/proc/7/ns/uts", "user": "/proc/7/ns/user",
			}
		}),
	)

	DescribeTable("is refused with a reason:",
		func(message string, change func(*bundle.Config, *spec.DesiredContainerSpec)) {
			c, d := config(), desired()
			change(&c, &d)
			_, err := bundle.Build(c, d)
			Expect(err).To(MatchError(message))
		},
		Entry("a handle that climbs", `invalid handle "../x": use 1 to 255 letters, digits, '.', '_' or '-', not starting with '.'`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Handle = "../x" }),
		Entry("no root", "root: no root file system is given",
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.BaseConfig.Root = nil }),
		Entry("no init", "process: no init program is given",
			func(c *bundle.Config, _ *spec.DesiredContainerSpec) { c.InitPath = "" }),
		Entry("an init that is not there", "mounts: init program /missing: file does not exist",
			func(c *bundle.Config, _ *spec.DesiredContainerSpec) { c.InitPath = "/missing" }),
		Entry("an init that cannot be executed", "mounts: init program /noexec/init lies on a file system mounted noexec",
			func(c *bundle.Config, _ *spec.DesiredContainerSpec) { c.InitPath = "/noexec/init" }),
		Entry("no id maps", "namespaces: a user namespace needs uid and gid mappings",
			func(c *bundle.Config, _ *spec.DesiredContainerSpec) { c.GIDMappings = nil }),
		Entry("a mount namespace of another's", `namespaces: a "mount" namespace cannot be joined`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) {
				d.Namespaces = map[string]string{"mount": "/proc/7/ns/mnt"}
			}),
		Entry("a namespace that does not exist", `namespaces: a "nonsense" namespace cannot be joined`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) {
				d.Namespaces = map[string]string{"nonsense": "/proc/7/ns/mnt"}
			}),
		Entry("privileged in a user namespace", "namespaces: a privileged container has no user namespace to join",
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) {
				d.Privileged, d.Namespaces = true, map[string]string{"user": "/proc/7/ns/user"}
			}),
		Entry("a cgroup that climbs", `cgroup: "../others" is not a path below the server's own cgroup`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.CgroupPath = "../others" }),
		Entry("the server's own cgroup", `cgroup: "x/.." is not a path below the server's own cgroup`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.CgroupPath = "x/.." }),
		Entry("a relative parent", `cgroup: parent "garden" is not absolute`,
			func(c *bundle.Config, _ *spec.DesiredContainerSpec) { c.CgroupParent = "garden" }),
		Entry("an environment entry without =, not shown", "environment: an entry has no '='",
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Env = []string{"SECRET"} }),
		Entry("an environment entry without a name", "environment: an entry has no name",
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Env = []string{"=x"} }),
		Entry("an environment entry that would be cut short", "environment: an entry holds a NUL byte",
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Env = []string{"A=x\x00B=y"} }),
		Entry("a host name that is a path", `hostname: "a/b" is not a host name`,
			func(_ *bundle.Config, d *spec.DesiredContainerSpec) { d.Hostname = "a/b" }),
	)

	DescribeTable("refuses bind mounts",
		func(b garden.BindMount, message string) {
			c, d := config(), desired()
			d.BindMounts = []garden.BindMount{b}
			_, err := bundle.Build(c, d)
			Expect(err).To(MatchError(message))
		},
		Entry("of what is not there", garden.BindMount{SrcPath: "/missing", DstPath: "/x"}, `mounts: bind mount "/x": source /missing: file does not exist`),
		Entry("of a relative path", garden.BindMount{SrcPath: "src", DstPath: "/x"}, `mounts: bind mount "/x": the source "src" is not an absolute path`),
		Entry("at a relative path", garden.BindMount{SrcPath: "/src", DstPath: "x"}, `mounts: bind mount "x": the destination is not an absolute path`),
		Entry("at the root", garden.BindMount{SrcPath: "/src", DstPath: "/x/.."}, `mounts: bind mount "/x/..": nothing may be mounted at /`),
		Entry("at /dev", garden.BindMount{SrcPath: "/src", DstPath: "/dev/"}, `mounts: bind mount "/dev/": nothing may be mounted at /dev`),
		Entry("at /proc", garden.BindMount{SrcPath: "/src", DstPath: "/proc"}, `mounts: bind mount "/proc": nothing may be mounted at or below /proc`),
		Entry("below /proc", garden.BindMount{SrcPath: "/src", DstPath: "/x/../proc/self"}, `mounts: bind mount "/x/../proc/self": nothing may be mounted at or below /proc`),
		Entry("below /sys", garden.BindMount{SrcPath: "/src", DstPath: "//sys/fs"}, `mounts: bind mount "//sys/fs": nothing may be mounted at or below /sys`),
		Entry("over the init program", garden.BindMount{SrcPath: "/src", DstPath: "/dev/.gdn-init"}, `mounts: bind mount "/dev/.gdn-init": nothing may be mounted at or below /dev/.gdn-init`),
		Entry("with a path that would be cut short", garden.BindMount{SrcPath: "/src", DstPath: "/x\x00y"}, `mounts: bind mount "/x\x00y": the path holds a NUL byte`),
		Entry("of an unknown mode", garden.BindMount{SrcPath: "/src", DstPath: "/x", Mode: 7}, `mounts: bind mount "/x": unknown mode 7`),
	)

	It("lets bind mounts stand beside the places it keeps", func() {
		c, d := config(), desired()
		d.BindMounts = []garden.BindMount{{SrcPath: "/src", DstPath: "/process"}, {SrcPath: "/src", DstPath: "/system"}}
		_, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
	})

	It("is named by the last 49 characters of the handle", func() {
		c, d := config(), desired()
		d.Handle = "x" + strings.Repeat("y", 48) + "z"
		Expect(bundle.Build(c, d)).To(HaveField("Hostname", strings.Repeat("y", 48)+"z"))
	})

	It("asks the kernel about mounts if nobody else answers", func() {
		c, d := config(), desired()
		c.MountFlags = nil
		c.InitPath = "/proc/no/such/init"
		_, err := bundle.Build(c, d)
		Expect(err).To(MatchError("mounts: init program /proc/no/such/init: no such file or directory"))
	})

	It("shares no memory with what it was made from", func() {
		c, d := config(), desired()
		d.BaseConfig.Process = &specs.Process{Env: make([]string, 1, 10)}
		d.BaseConfig.Process.Env[0] = "A=1"
		d.BaseConfig.Mounts = []specs.Mount{{Destination: "/v", Options: []string{"bind"}}}
		d.Env = []string{"B=1"}
		d.Privileged = true
		first, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		before, err := json.Marshal(first)
		Expect(err).NotTo(HaveOccurred())

		second, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		for i := range second.Mounts {
			second.Mounts[i].Options[0] = "changed"
		}
		second.Process.Env[1] = "B=2"
		second.Process.Capabilities.Bounding[0] = "changed"
		*second.Linux.Resources.Devices[3].Major = 99
		*second.Linux.Devices[0].FileMode = 0

		Expect(json.Marshal(first)).To(MatchJSON(before))
		Expect(d.BaseConfig.Mounts[0].Options).To(Equal([]string{"bind"}))
		third, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		Expect(json.Marshal(third)).To(MatchJSON(before))
	})
})

var _ = Describe("limits", func() {
	build := func(change func(*bundle.Config, *garden.Limits)) *specs.LinuxResources {
		GinkgoHelper()
		c, d := config(), desired()
		change(&c, &d.Limits)
		s, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		return s.Linux.Resources
	}

	It("are absent if nothing is limited", func() {
		r := build(func(*bundle.Config, *garden.Limits) {})
		r.Devices = nil // no limit of this kind
		Expect(r).To(Equal(&specs.LinuxResources{}))
	})

	It("are capped at what the kernel's numbers hold", func() {
		r := build(func(c *bundle.Config, l *garden.Limits) {
			c.CPUQuotaPerShare = 1 << 62
			l.Memory.LimitInBytes, l.Pid.Max, l.CPU.Weight = 1<<63, 1<<63, 4
		})
		Expect(*r.Memory.Limit).To(BeEquivalentTo(int64(1<<63 - 1)))
		Expect(*r.Pids.Limit).To(BeEquivalentTo(int64(1<<63 - 1)))
		Expect(*r.CPU.Quota).To(BeEquivalentTo(int64(1<<63 - 1)))
	})

	It("give no less CPU than the kernel's least quota", func() {
		r := build(func(c *bundle.Config, l *garden.Limits) { c.CPUQuotaPerShare, l.CPU.Weight = 10, 2 })
		Expect(*r.CPU.Quota).To(BeEquivalentTo(1000))
	})

	DescribeTable("convert shares to the weights of cgroup v2",
		func(shares uint64, weight string) {
			r := build(func(c *bundle.Config, l *garden.Limits) { c.CgroupV2, l.CPU.Weight = true, shares })
			Expect(r.Unified).To(Equal(map[string]string{"cpu.weight": weight}))
		},
		Entry(nil, uint64(1), "1"),
		Entry(nil, uint64(2), "1"),
		Entry(nil, uint64(100), "17"),
		Entry(nil, uint64(123), "20"),
		Entry(nil, uint64(1024), "100"),
		Entry(nil, uint64(262144), "10000"),
		Entry(nil, uint64(1<<63), "10000"),
	)
})

var _ = Describe("what a process may", func() {
	const unprivilegedMask, sysAdmin = uint64(0xa80425fb), uint64(1) << 21

	build := func(privileged bool, server []string) specs.Spec {
		GinkgoHelper()
		c, d := config(), desired()
		c.BoundingSet, d.Privileged = server, privileged
		s, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		return s
	}

	It("is the unprivileged list for root of an unprivileged container", func() {
		Expect(bundle.ProcessCapabilities(build(false, nil), 0)).To(Equal(
			bundle.ProcessCaps{Bounding: unprivilegedMask, Inheritable: unprivilegedMask, Permitted: unprivilegedMask}))
	})
	It("is nothing in force for other users", func() {
		Expect(bundle.ProcessCapabilities(build(false, nil), 1000)).To(Equal(
			bundle.ProcessCaps{Bounding: unprivilegedMask, Inheritable: unprivilegedMask}))
	})
	It("is all that kernels before 5.8 knew for root of a privileged container", func() {
		Expect(bundle.ProcessCapabilities(build(true, nil), 0).Permitted).To(Equal(uint64(1)<<38 - 1))
	})
	It("is bounded for other users of a privileged container", func() {
		Expect(bundle.ProcessCapabilities(build(true, nil), 1000)).To(Equal(
			bundle.ProcessCaps{Bounding: unprivilegedMask | sysAdmin, Inheritable: unprivilegedMask | sysAdmin}))
	})
	It("is no more than the server may", func() {
		Expect(bundle.ProcessCapabilities(build(true, []string{"CAP_KILL", "CAP_BPF"}), 0).Bounding).To(Equal(uint64(1 << 5)))
		Expect(bundle.ProcessCapabilities(build(true, []string{}), 0)).To(BeZero())
	})
	It("is nothing without a bundle", func() {
		Expect(bundle.ProcessCapabilities(specs.Spec{}, 0)).To(BeZero())
	})
})

var _ = Describe("the seccomp filter", func() {
	It("is for the native architecture, with socket families named", func() {
		filter, err := bundle.DefaultSeccomp()
		Expect(err).NotTo(HaveOccurred())
		Expect(filter.DefaultAction).To(Equal(specs.ActErrno))
		Expect(filter.Architectures).To(HaveLen(1))
		var families []uint64
		for _, rule := range filter.Syscalls {
			for _, name := range rule.Names {
				if name == "socket" {
					Expect(rule.Args).To(HaveLen(1))
					families = append(families, rule.Args[0].Value)
				}
				Expect(name).NotTo(BeElementOf("mount", "umount2", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "userfaultfd", "perf_event_open"))
			}
		}
		Expect(families).To(ConsistOf(uint64(1), uint64(2), uint64(10), uint64(16)))
	})
	It("is made afresh for each caller", func() {
		one, err := bundle.DefaultSeccomp()
		Expect(err).NotTo(HaveOccurred())
		one.Syscalls[0].Names[0] = "changed"
		Expect(bundle.DefaultSeccomp()).NotTo(HaveField("Syscalls", one.Syscalls))
	})
})

var _ = Describe("mount flags", func() {
	DescribeTable("are those of the file system", Label("root"),
		func(flags uintptr, want ...string) {
			testhost.Need(GinkgoT(), "root")
			dir := GinkgoT().TempDir()
			Expect(unix.Mount("none", dir, "tmpfs", flags, "")).To(Succeed())
			DeferCleanup(unix.Unmount, dir, unix.MNT_DETACH)
			Expect(bundle.MountFlags(dir)).To(Equal(want))
		},
		Entry(nil, uintptr(unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NOATIME), "ro", "nodev", "noexec", "nosuid", "noatime"),
		Entry(nil, uintptr(unix.MS_NODIRATIME|unix.MS_RELATIME), "nodiratime", "relatime"),
	)
	It("say that a source is missing", func() {
		_, err := bundle.MountFlags("/no/such/file")
		Expect(errors.Is(err, os.ErrNotExist)).To(BeTrue())
	})
})
