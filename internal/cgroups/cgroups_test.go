package cgroups

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
)

var _ = Describe("reading what the kernel says", func() {
	DescribeTable("finds where the hierarchies are",
		func(mountinfo string, want map[string]string) {
			got := parseMountpoints(mountinfo)
			for controller, at := range want {
				Expect(got).To(HaveKeyWithValue(controller, at))
			}
			if want == nil {
				Expect(got).To(BeEmpty())
			}
		},
		Entry("v1", "31 23 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"+
			"32 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"+
			"33 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
			map[string]string{"memory": "/sys/fs/cgroup/memory", "cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "name=systemd": "/sys/fs/cgroup/systemd"}),
		Entry("v2", "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n", map[string]string{"": "/sys/fs/cgroup"}),
		Entry("both", "31 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n32 23 0:27 / /sys/fs/cgroup/pids rw - cgroup none rw,pids\n",
			map[string]string{"": "/sys/fs/cgroup/unified", "pids": "/sys/fs/cgroup/pids"}),
		Entry("other file systems, other places, and no lines at all",
			"1 2 0:1 / / rw - ext4 /dev/sda rw\n1 2 0:1 / /mnt/memory rw - cgroup cgroup rw,memory\n\nx\n1 2 - cgroup\n", nil),
	)

	mounts := map[string]string{"memory": "/m", "cpu": "/c", "cpuacct": "/c", "name=systemd": "/s", "": "/u"}
	DescribeTable("finds a process's cgroups",
		func(text string, want Paths) { Expect(parseMembership(text, mounts)).To(Equal(want)) },
		Entry("v1", "4:memory:/a/b\n3:cpu,cpuacct:/a\n1:name=systemd:/\n", Paths{"memory": "/m/a/b", "cpu": "/c/a", "cpuacct": "/c/a", "name=systemd": "/s"}),
		Entry("v2", "0::/a/b\n", Paths{"": "/u/a/b"}),
		Entry("with a colon in its name", "4:memory:/a:b\n", Paths{"memory": "/m/a:b"}),
		Entry("of a hierarchy that is not mounted", "4:rdma:/a\n", Paths{}),
		Entry("nothing", "", Paths{}),
		Entry("no lines of that kind", "memory\n4:memory\n", Paths{}),
	)

	Describe("figures", func() {
		var dir string

		BeforeEach(func() { dir = GinkgoT().TempDir() })

		file := func(name, content string) {
			GinkgoHelper()
			Expect(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)).To(Succeed())
		}

		It("reads v1's", func() {
			file("memory.stat", "cache 10\ntotal_rss 20\nodd\nwords many\n")
			file("cpuacct.usage", "3000\n")
			file("cpuacct.stat", "user 150\nsystem 7\n")
			file("pids.current", "4\n")
			file("pids.max", "max\n")
			Expect(Paths{"memory": dir, "cpuacct": dir, "pids": dir}.Stats()).To(Equal(Stats{
				Usage: 3000, User: 1500 * time.Millisecond, System: 70 * time.Millisecond,
				Memory: map[string]uint64{"cache": 10, "total_rss": 20}, Pids: 4,
			}))
		})

		It("reads v2's", func() {
			file("memory.stat", "anon 10\n")
			file("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
			file("pids.current", "4\n")
			file("pids.max", "99\n")
			Expect(Paths{"": dir}.Stats()).To(Equal(Stats{
				Usage: 5 * time.Microsecond, User: 3 * time.Microsecond, System: 2 * time.Microsecond,
				Memory: map[string]uint64{"anon": 10}, Pids: 4, PidsMax: 99,
			}))
		})

		It("leaves zeros for what the host lacks, or what is gone", func() {
			s, err := Paths{"memory": dir, "cpuacct": dir + "/gone", "pids": dir}.Stats()
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Usage + s.User + s.System).To(BeZero())
			Expect(Paths{}.Stats()).To(Equal(Stats{}))
		})

		It("names a figure that is none", func() {
			file("pids.current", "many\n")
			_, err := Paths{"pids": dir}.Stats()
			Expect(err).To(MatchError(ContainSubstring(`"many"`)))
		})
	})
})

var _ = Describe("a cgroup", Label("root"), Ordered, ContinueOnFailure, func() {
	var (
		name, top string
		made      []string
	)
	prefix := fmt.Sprintf("gdntest-cgroups-%d", os.Getpid())

	BeforeAll(func() {
		testhost.Need(GinkgoT(), "root")
		before := testhost.Take(prefix)
		DeferCleanup(func() {
			Eventually(func() []string { return testhost.Diff(before, testhost.Take(prefix)) }).Should(BeEmpty())
		})
		name = "/" + prefix
		for _, dir := range []string{Root + "/pids", Root + "/memory", Root + "/unified", Root} {
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				made = append(made, filepath.Join(dir, name))
			}
		}
		if len(made) == 0 {
			Skip("not tested here: no cgroup hierarchy")
		}
		top = made[0]
	})
	BeforeEach(func() {
		for _, dir := range made {
			Expect(os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755)).To(Succeed())
		}
		DeferCleanup(func() { Expect(Remove(name)).To(Succeed()) })
	})
	// member starts a process in the cgroup at dir, in one hierarchy.
	member := func(dir string) int {
		GinkgoHelper()
		cmd := exec.Command("sleep", "100")
		Expect(cmd.Start()).To(Succeed())
		DeferCleanup(func() {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()
		})
		pid := cmd.Process.Pid
		Expect(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)).To(Succeed())
		return pid
	}

	It("is found by its name", func() {
		var at []string
		for _, dir := range Named(name) {
			at = append(at, dir)
		}
		Expect(at).To(ConsistOf(made))
		Expect(Named(name + "/a/b")).To(HaveLen(len(made)))
		Expect(Named(name + "-none")).To(BeEmpty())
	})

	It("lists its members and those below it, and holds no others", func() {
		paths := Paths{"": top}
		Expect(paths.Processes()).To(BeEmpty())
		inside, below := member(top), member(filepath.Join(top, "a", "b"))
		Expect(paths.Processes()).To(ConsistOf(inside, below))
		Expect(Paths{"": filepath.Join(top, "a")}.Processes()).To(ConsistOf(below))
		of, err := Of(inside)
		Expect(err).NotTo(HaveOccurred())
		Expect(of).To(ContainElement(top))
		for pid, held := range map[int]bool{inside: true, below: true, os.Getpid(): false, 1 << 30: false} {
			Expect(paths.Holds(pid)).To(Equal(held), "pid %d", pid)
		}
		Expect(Paths{"": filepath.Join(top, "a")}.Holds(inside)).To(BeFalse())
		_, err = Of(1 << 30)
		Expect(err).To(MatchError(os.ErrNotExist))
	})

	It("is not its neighbour, whose name begins alike", func() {
		Expect(os.Mkdir(top+"-2", 0o755)).To(Succeed())
		DeferCleanup(func() { Expect(Remove(name + "-2")).To(Succeed()) })
		pid := member(top + "-2")
		Expect(Paths{"": top}.Holds(pid)).To(BeFalse())
		Expect(Paths{"": top}.Processes()).To(BeEmpty())
		Expect(Remove(name)).To(Succeed())
		Expect(top + "-2").To(BeADirectory())
		DeferCleanup(unix.Kill, pid, unix.SIGKILL)
	})

	DescribeTable("has and holds nobody",
		func(paths func() Paths) {
			Expect(paths().Processes()).To(BeEmpty())
			Expect(paths().Holds(os.Getpid())).To(BeFalse())
		},
		Entry("without a path", func() Paths { return nil }),
		Entry("as the root of a hierarchy, which everybody is in", func() Paths { return Paths{"": filepath.Dir(top)} }),
		Entry("once it is gone", func() Paths { return Paths{"": top + "/gone"} }),
	)

	It("is removed with all below it, again and again", func() {
		Expect(Remove(name)).To(Succeed())
		for _, dir := range made {
			Expect(dir).NotTo(BeADirectory())
		}
		Expect(Remove(name)).To(Succeed())
	})

	It("stays, and says so, while it has members", func() {
		pid := member(filepath.Join(top, "a"))
		err := Remove(name)
		Expect(err).To(MatchError(unix.EBUSY))
		Expect(err).To(MatchError(ContainSubstring("remove cgroup " + top + "/a:")))
		Expect(Paths{"": top}.Processes()).To(ConsistOf(pid))
		Expect(unix.Kill(pid, unix.SIGKILL)).To(Succeed())
		Eventually(func() error { return Remove(name) }).Should(Succeed())
	})

	It("is removed where it is a plain folder with files", func() {
		plain := filepath.Join(Root, "gdntest-none", name)
		if err := os.MkdirAll(plain, 0o755); err != nil {
			Skip("not tested here: " + err.Error())
		}
		DeferCleanup(os.RemoveAll, filepath.Dir(plain))
		Expect(os.WriteFile(filepath.Join(plain, "cgroup.procs"), nil, 0o644)).To(Succeed())
		Expect(Remove(name)).To(Succeed())
		Expect(plain).NotTo(BeADirectory())
	})
})

// Not through Remove: a mistake there would empty the host.
var _ = Describe("what could be every cgroup", func() {
	DescribeTable("is no name",
		func(name string) { Expect(validate(name)).To(MatchError(ContainSubstring(strconv.Quote(name)))) },
		Entry("nothing", ""), Entry("a root", "/"), Entry("a root in other words", "/.//"), Entry("the parent", "/.."), Entry("a way out", "/x/../../pids"),
	)
	DescribeTable("is not mistaken for one",
		func(name string) { Expect(validate(name)).To(Succeed()) },
		Entry("one", "/garden"), Entry("one below", "/garden/a..b"), Entry("without a slash", "garden"),
	)

	It("is the root of a hierarchy, and neither one below nor one that is gone", func() {
		mounts, err := mountpoints()
		Expect(err).NotTo(HaveOccurred())
		for _, at := range mounts {
			Expect(isMount(at)).To(BeTrue(), at)
			Expect(isMount(at+"/gdntest-gone")).To(BeFalse(), at)
		}
		own, err := Of(os.Getpid())
		Expect(err).NotTo(HaveOccurred())
		for controller, at := range own {
			Expect(isMount(at)).To(Equal(at == mounts[controller]), at)
		}
	})
})
