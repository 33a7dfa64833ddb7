package bundle_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/verger-garden/verger/gardener/spec"
	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/bundle"
	"golang.org/x/sys/unix"
)

// A sandbox is what the kernel made of a bundle.
type sandbox struct {
	pid   int
	probe map[string]string // what testdata/init.c found out
}

func (s sandbox) read(name string) string {
	GinkgoHelper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.pid, name))
	Expect(err).NotTo(HaveOccurred())
	return string(raw)
}

func (s sandbox) status(field string) string {
	GinkgoHelper()
	for line := range strings.Lines(s.read("status")) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	Fail("no " + field + " in status")
	return ""
}

// mountOptions of the mount at path, nil if nothing is mounted there.
func (s sandbox) mountOptions(path string) []string {
	GinkgoHelper()
	for line := range strings.Lines(s.read("mountinfo")) {
		if f := strings.Fields(line); f[4] == path {
			return strings.Split(f[5], ",")
		}
	}
	return nil
}

func runtimeAt(name string) string {
	GinkgoHelper()
	if built, err := filepath.Abs("../../bin/" + name); err == nil {
		if _, err := os.Stat(built); err == nil {
			return built
		}
	}
	testhost.Need(GinkgoT(), name)
	found, err := exec.LookPath(name)
	Expect(err).NotTo(HaveOccurred())
	return found
}

var _ = Describe("a bundle on the real kernel", Label("root"), func() {
	var (
		parent = fmt.Sprintf("/gdntest-bundle-%d", os.Getpid())
		base   string
		c      bundle.Config
		d      spec.DesiredContainerSpec
	)

	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", "musl-gcc")
		before := testhost.Take("gdntest-bundle-" + strconv.Itoa(os.Getpid()))
		DeferCleanup(func() {
			Expect(testhost.Diff(before, testhost.Take("gdntest-bundle-"+strconv.Itoa(os.Getpid())))).To(BeEmpty())
		})

		var err error
		base, err = os.MkdirTemp("", "gdntest-bundle-")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, base)
		// The container's root is nobody on the host: it must be able to pass.
		Expect(os.Chmod(base, 0o711)).To(Succeed())

		// What is bound from elsewhere need not be reachable to it.
		private := filepath.Join(base, "private")
		for _, dir := range []string{private, private + "/ro", private + "/rw", base + "/rootfs"} {
			Expect(os.Mkdir(dir, 0o700)).To(Succeed())
		}
		init := filepath.Join(private, "init")
		compile := exec.Command("musl-gcc", "-static", "-no-pie", "-Os", "-o", init, "testdata/init.c")
		Expect(compile.CombinedOutput()).To(BeEmpty())

		bounding, err := bundle.HostCapabilities()
		Expect(err).NotTo(HaveOccurred())
		filter, err := bundle.DefaultSeccomp()
		Expect(err).NotTo(HaveOccurred())
		_, err = os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		c = bundle.Config{
			InitPath:         init,
			UIDMappings:      guardianIDs,
			GIDMappings:      guardianIDs,
			CgroupParent:     parent,
			BoundingSet:      bounding,
			Seccomp:          filter,
			DisableSwapLimit: err != nil,
			Sysctls:          map[string]string{"net.ipv4.tcp_retries1": "5"},
		}
		d = desired()
		d.BaseConfig.Root.Path = base + "/rootfs"
		d.BindMounts = []garden.BindMount{
			{SrcPath: private + "/ro", DstPath: "/bound-ro"},
			{SrcPath: private + "/rw", DstPath: "/bound-rw", Mode: garden.BindMountModeRW},
		}
		d.Limits = garden.Limits{
			CPU:    garden.CPULimits{Weight: 512},
			Memory: garden.MemoryLimits{LimitInBytes: 64 << 20},
			Pid:    garden.PidLimits{Max: 50},
		}
	})

	// start runs the bundle as the server does, and undoes all of it at the end.
	start := func(runtime string) sandbox {
		GinkgoHelper()
		if !d.Privileged {
			for _, dir := range []string{base + "/rootfs", base + "/private/ro", base + "/private/rw"} {
				Expect(os.Chown(dir, 4294967294, 4294967294)).To(Succeed())
			}
		}
		s, err := bundle.Build(c, d)
		Expect(err).NotTo(HaveOccurred())
		raw, err := json.Marshal(s)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(base+"/config.json", raw, 0o600)).To(Succeed())

		id := "bundle-" + strconv.Itoa(os.Getpid())
		call := func(args ...string) error {
			said, err := os.Create(base + "/said")
			if err != nil {
				return err
			}
			defer said.Close()
			cmd := exec.Command(runtime, append([]string{"--root", base + "/state"}, args...)...)
			// Never /dev/null: crun gives its stdio to the container's root.
			cmd.Stdin, cmd.Stdout, cmd.Stderr = said, said, said
			if err := cmd.Run(); err != nil {
				words, _ := os.ReadFile(base + "/said") // only to be shown
				return fmt.Errorf("%w: %s", err, words)
			}
			return nil
		}
		DeferCleanup(removeCgroups, parent)
		Expect(call("run", "--detach", "--no-new-keyring", "--bundle", base, "--pid-file", base+"/pid", id)).To(Succeed())
		raw, err = os.ReadFile(base + "/pid")
		Expect(err).NotTo(HaveOccurred())
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // ended already: delete will do
			Eventually(func() error { return call("delete", id) }, 10*time.Second, 10*time.Millisecond).Should(Succeed())
		})

		box := sandbox{pid: pid, probe: map[string]string{}}
		Eventually(func() ([]byte, error) { return os.ReadFile(base + "/rootfs/probe") }, 10*time.Second, 5*time.Millisecond).ShouldNot(BeEmpty())
		raw, err = os.ReadFile(base + "/rootfs/probe")
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(string(raw)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			box.probe[name] = value
		}
		return box
	}

	for _, name := range []string{"runc", "crun"} {
		Describe("by "+name, func() {
			var runtime string

			BeforeEach(func() {
				runtime = runtimeAt(name)
			})

			It("confines an unprivileged container", func() {
				box := start(runtime)

				By("having its own user namespace and the usual capabilities")
				Expect(strings.Fields(box.read("uid_map"))).To(Equal([]string{"0", "4294967294", "1", "1", "1", "4294967293"}))
				Expect(strings.Fields(box.read("gid_map"))).To(Equal([]string{"0", "4294967294", "1", "1", "1", "4294967293"}))
				Expect(box.status("CapBnd")).To(Equal("00000000a80425fb"))
				Expect(box.status("CapEff")).To(Equal("00000000a80425fb"))
				Expect(box.status("CapPrm")).To(Equal("00000000a80425fb"))
				Expect(box.status("CapInh")).To(Equal("0000000000000000"))
				Expect(box.status("CapAmb")).To(Equal("0000000000000000"))
				Expect(box.status("Groups")).To(BeEmpty())
				Expect(box.status("NoNewPrivs")).To(Equal("0"))
				expectNamespaces(box, "net", "pid", "uts", "ipc", "mnt", "cgroup", "user")

				By("filtering its system calls")
				Expect(box.status("Seccomp")).To(Equal("2"))
				for call, errno := range map[string]syscall.Errno{
					"socket-unix": 0, "socket-inet": 0, "socket-inet6": 0, "socket-netlink": 0,
					"socket-packet": unix.EPERM, "socket-alg": unix.EPERM, "socket-vsock": unix.EPERM,
					"clone": 0, "clone-newuser": unix.EPERM, "clone-newns": unix.EPERM, "clone3": unix.ENOSYS,
					"unshare": unix.EPERM, "setns": unix.EPERM, "mount": unix.EPERM, "fsopen": unix.EPERM,
					"bpf": unix.EPERM, "keyctl": unix.EPERM, "io_uring_setup": unix.EPERM,
					"prlimit64": 0, "pidfd_open": 0, "pidfd_send_signal": 0, "close_range": 0, "faccessat2": 0, "statx": 0,
					"rseq": unix.EINVAL, "dumpable": 0, "chroot": 0,
				} {
					Expect(box.probe).To(HaveKeyWithValue(call, strconv.Itoa(int(errno))))
				}

				By("letting nobody in by another door")
				for _, call := range []string{"ia32-getpid", "ia32-socketcall-alg", "ia32-socket-alg", "ia32-unshare", "x32-getpid"} {
					if result, tried := box.probe[call]; tried {
						Expect(result).To(Equal("255"), call+": the caller is killed")
					}
				}

				By("keeping the kernel's files from it")
				Expect(box.probe["open-null"]).To(Equal("0"))
				for _, file := range []string{"read-kcore", "write-sys", "write-init", "open-fuse", "open-mem"} {
					Expect(box.probe[file]).NotTo(Equal("0"), file)
				}
				Expect(box.mountOptions("/sys")).To(ContainElements("ro", "nosuid", "nodev", "noexec"))
				Expect(box.mountOptions("/proc/keys")).NotTo(BeNil(), "masked")
				Expect(box.mountOptions("/sys/fs/cgroup")).NotTo(BeNil())
				Expect(box.mountOptions("/sys/fs/cgroup/memory")).To(Or(BeNil(), ContainElement("ro")))
				expectCommon(box, base)

				By("keeping it in its cgroup")
				expectCgroups(parent)
				usable := []string{
					"b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",
					"c 5:0 rwm", "c 5:2 rwm", "c 10:200 rwm", "c 136:* rwm",
				}
				if name == "crun" {
					usable = append(usable, "c 5:1 rwm") // its own idea: the console, of which no node exists
				}
				Expect(cgroupFile(parent, "devices", "devices.list")).To(Or(BeEmpty(), ConsistOf(usable)))
			})

			It("forbids it to gain privileges if the server says so", func() {
				c.NoNewPrivileges = true
				box := start(runtime)
				Expect(box.status("NoNewPrivs")).To(Equal("1"))
				Expect(strings.Fields(box.read("root/proc/sys/net/ipv4/ping_group_range"))).NotTo(BeEmpty())
			})

			It("gives a privileged container all that the server has", func() {
				d.Privileged = true
				box := start(runtime)

				Expect(strings.Fields(box.read("uid_map"))).To(Equal([]string{"0", "0", "4294967295"}))
				Expect(box.status("CapEff")).To(Equal(box.status("CapBnd")))
				var caps uint64
				_, err := fmt.Sscanf(box.status("CapBnd"), "%x", &caps)
				Expect(err).NotTo(HaveOccurred())
				Expect(caps&(1<<21)).NotTo(BeZero(), "CAP_SYS_ADMIN")
				Expect(caps>>38).To(BeZero(), "newer than 5.8")
				Expect(box.status("CapInh")).To(Equal("0000000000000000"))
				Expect(box.status("Seccomp")).To(Equal("0"))
				expectNamespaces(box, "net", "pid", "uts", "ipc", "mnt", "cgroup")

				Expect(box.probe["unshare"]).To(Equal("0"))
				Expect(box.probe["mount"]).NotTo(Equal(strconv.Itoa(int(unix.EPERM))))
				Expect(box.probe["open-mem"]).To(Equal(strconv.Itoa(int(unix.EPERM))), "made, but not on the list")
				Expect(box.probe["write-init"]).NotTo(Equal("0"))
				Expect(filepath.Join("/proc", strconv.Itoa(box.pid), "root/dev/fuse")).To(BeAnExistingFile())
				Expect(box.mountOptions("/proc/keys")).To(BeNil(), "masked")
				expectCommon(box, base)
				expectCgroups(parent)
				Expect(cgroupFile(parent, "devices", "devices.list")).To(Or(BeEmpty(), ContainElement("c 10:229 rwm")))
			})
		})
	}
})

func expectNamespaces(box sandbox, own ...string) {
	GinkgoHelper()
	for _, kind := range []string{"net", "pid", "uts", "ipc", "mnt", "cgroup", "user"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		Expect(err).NotTo(HaveOccurred())
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", box.pid, kind))
		Expect(err).NotTo(HaveOccurred())
		Expect(theirs != ours).To(Equal(slices.Contains(own, kind)), kind)
	}
}

// expectCommon holds for privileged and unprivileged containers alike.
func expectCommon(box sandbox, base string) {
	GinkgoHelper()
	Expect(box.probe["hostname"]).To(Equal("some-handle"))
	Expect(box.mountOptions(bundle.InitInside)).To(ContainElements("ro", "nosuid", "nodev"))
	Expect(box.mountOptions("/dev")).To(ContainElements("nosuid", "noexec"))
	Expect(box.mountOptions("/dev/shm")).To(ContainElements("nosuid", "nodev", "noexec"))
	Expect(box.read("mountinfo")).NotTo(ContainSubstring("shared:"))
	Expect(box.probe["bound-ro"]).To(Equal(strconv.Itoa(int(unix.EROFS))))
	Expect(box.probe["bound-rw"]).To(Equal("0"))
	Expect(base + "/private/rw/new").To(BeAnExistingFile())

	// The root file system holds mount points, and nothing of ours.
	Expect(os.ReadDir(base + "/rootfs/dev")).To(BeEmpty())
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", box.pid))
	Expect(err).NotTo(HaveOccurred())
	Expect(cwd).To(Equal("/"))
}

// cgroupFile returns the lines of a file of the container's cgroup, none if
// there is no such controller here.
func cgroupFile(parent, controller, file string) []string {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, parent, "some-handle", file))
	if os.IsNotExist(err) {
		return nil
	}
	Expect(err).NotTo(HaveOccurred())
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

// expectCgroups looks where the server will look for limits and statistics.
func expectCgroups(parent string) {
	GinkgoHelper()
	Expect(cgroupFile(parent, "memory", "memory.limit_in_bytes")).To(Or(BeEmpty(), ConsistOf("67108864")))
	Expect(cgroupFile(parent, "pids", "pids.max")).To(Or(BeEmpty(), ConsistOf("50")))
	Expect(cgroupFile(parent, "cpu", "cpu.shares")).To(Or(BeEmpty(), ConsistOf("512")))
}

// removeCgroups takes away what runtimes leave: the parent, and plain folders
// of crun's where no controller is mounted.
func removeCgroups(parent string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*" + parent, "/sys/fs/cgroup" + parent} {
		tops, err := filepath.Glob(pattern)
		Expect(err).NotTo(HaveOccurred())
		for _, top := range tops {
			var fs unix.Statfs_t
			Expect(unix.Statfs(top, &fs)).To(Succeed())
			if fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC {
				Expect(os.RemoveAll(top)).To(Succeed())
				continue
			}
			for _, dir := range []string{filepath.Join(top, "some-handle"), top} {
				Eventually(func() error {
					if err := os.Remove(dir); !os.IsNotExist(err) {
						return err
					}
					return nil
				}, 5*time.Second, 10*time.Millisecond).Should(Succeed())
			}
		}
	}
}
