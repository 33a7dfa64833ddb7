package verger_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"code.cloudfoundry.org/garden"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger"
	"github.com/verger-garden/verger/internal/testhost"
)

var _ = Describe("a backend under strain", Label("root"), func() {
	var (
		config  verger.Config
		backend *verger.Backend
		dir     string
		before  testhost.Host
	)
	const tag = "vs"

	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", "iptables", "musl-gcc", "busybox", "crun")
		before = testhost.Take("garden-" + tag)
		var err error
		dir, err = os.MkdirTemp("", "verger")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		Expect(os.Chmod(dir, 0o755)).To(Succeed()) // the containers' root passes through
		init, err := testhost.BuildInit(dir)
		Expect(err).NotTo(HaveOccurred())
		rootfs := filepath.Join(dir, "rootfs")
		Expect(os.Mkdir(rootfs, 0o755)).To(Succeed())
		Expect(testhost.Busybox(rootfs, 0)).To(Succeed())
		config = verger.Config{
			StateDir: filepath.Join(dir, "state"), StoreDir: filepath.Join(dir, "store"), Tag: tag,
			Runtime: testhost.Runtimes()["crun"], InitBin: init, DefaultRootfs: rootfs,
		}
	})
	JustBeforeEach(func() {
		var err error
		backend, err = verger.New(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(backend.Start()).To(Succeed())
		DeferCleanup(func() {
			Expect(backend.Stop()).To(Succeed())
			Eventually(func() []string { return testhost.Diff(before, testhost.Take("garden-"+tag)) }).Should(BeEmpty())
		})
	})

	left := func() []string {
		var all []string
		for _, where := range []string{"state/depot", "state/properties", "state/runtime", "store/volumes"} {
			entries, err := os.ReadDir(filepath.Join(dir, where))
			Expect(err).NotTo(HaveOccurred())
			for _, e := range entries {
				all = append(all, where+"/"+e.Name())
			}
		}
		return all
	}

	cycle := func(handle string) {
		GinkgoHelper()
		c, err := backend.Create(garden.ContainerSpec{Handle: handle})
		Expect(err).NotTo(HaveOccurred())
		p, err := c.Run(garden.ProcessSpec{Path: "/bin/echo", Args: []string{handle}}, garden.ProcessIO{Stdout: io.Discard})
		Expect(err).NotTo(HaveOccurred())
		Expect(p.Wait()).To(BeZero())
		Expect(backend.Destroy(handle)).To(Succeed())
	}

	It("lets one of 64 creates of one handle win, 100 times, and harms no winner", func() {
		for round := range 100 {
			var won atomic.Int32
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					defer GinkgoRecover()
					_, err := backend.Create(garden.ContainerSpec{Handle: "one", Properties: garden.Properties{"round": fmt.Sprint(round)}})
					if err == nil {
						won.Add(1)
						return
					}
					Expect(err).To(MatchError("Handle 'one' already in use"))
				})
			}
			wg.Wait()
			Expect(won.Load()).To(BeEquivalentTo(1))
			c, err := backend.Lookup("one")
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Property("round")).To(Equal(fmt.Sprint(round)))
			info, err := c.Info()
			Expect(err).NotTo(HaveOccurred())
			Expect(info.State).To(Equal("active"))
			var out strings.Builder
			p, err := c.Run(garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", "grep -c one /etc/hosts; ip -o -4 addr | grep -c " + info.ContainerIP}}, garden.ProcessIO{Stdout: &out})
			Expect(err).NotTo(HaveOccurred())
			Expect(p.Wait()).To(BeZero())
			Expect(out.String()).To(Equal("1\n1\n"))
			Expect(backend.Destroy("one")).To(Succeed())
		}
		Expect(left()).To(BeEmpty())
	})

	It("is after 300 containers as it was before", func() {
		for i := range 20 { // until pools and caches are filled
			cycle(fmt.Sprint("warm-", i))
		}
		measure := func() (goroutines, descriptors int, heap uint64) {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fds, err := os.ReadDir("/proc/self/fd")
			Expect(err).NotTo(HaveOccurred())
			return runtime.NumGoroutine(), len(fds), m.HeapAlloc
		}
		goroutines, descriptors, heap := measure()
		var wg sync.WaitGroup
		for worker := range 3 {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := range 100 {
					cycle(fmt.Sprint("c-", worker, "-", i))
				}
			})
		}
		wg.Wait()
		Eventually(func() int { n, _, _ := measure(); return n }).Should(BeNumerically("<=", goroutines))
		Eventually(func() int { _, n, _ := measure(); return n }).Should(BeNumerically("<=", descriptors))
		Eventually(func() uint64 { _, _, n := measure(); return n }).Should(BeNumerically("<", heap+2<<20))
		Expect(left()).To(BeEmpty())
	})

	Describe("what cannot be created", func() {
		tell := func(spec garden.ContainerSpec, want ...string) {
			GinkgoHelper()
			_, err := backend.Create(spec)
			Expect(err).To(HaveOccurred())
			for _, each := range want {
				Expect(err.Error()).To(ContainSubstring(each))
			}
			Expect(strings.Count(err.Error(), "\n")).To(BeZero())
			Expect(left()).To(BeEmpty())
			Expect(backend.Containers(garden.Properties{"garden.state": "all"})).To(BeEmpty())
		}

		It("is told in one line, and leaves nothing", func() {
			notTar := filepath.Join(dir, "not.tar")
			Expect(os.WriteFile(notTar, []byte("hello"), 0o644)).To(Succeed())
			tell(garden.ContainerSpec{Handle: "../x"}, `invalid handle "../x"`)
			tell(garden.ContainerSpec{Handle: strings.Repeat("x", 256)}, "invalid handle")
			tell(garden.ContainerSpec{Image: garden.ImageRef{URI: "/no/such/rootfs"}}, "/no/such/rootfs")
			tell(garden.ContainerSpec{Image: garden.ImageRef{URI: "raw:///no/such/rootfs"}}, "/no/such/rootfs")
			tell(garden.ContainerSpec{Image: garden.ImageRef{URI: "ftp://x/y"}}, "ftp")
			tell(garden.ContainerSpec{Image: garden.ImageRef{URI: notTar}}, notTar, "not a tar")
			tell(garden.ContainerSpec{Image: garden.ImageRef{URI: "/a"}, RootFSPath: "/b"}, "Cannot provide both Image.URI and RootFSPath")
			tell(garden.ContainerSpec{BindMounts: []garden.BindMount{{SrcPath: "/no/such/source", DstPath: "/x"}}}, "/no/such/source")
			tell(garden.ContainerSpec{BindMounts: []garden.BindMount{{SrcPath: "/tmp", DstPath: "/proc/x"}}}, "/proc/x")
			tell(garden.ContainerSpec{Properties: garden.Properties{"garden.state": "x"}}, "garden.")
			cycle("still-works")
		})

		It("does not disturb the container whose handle was asked for again", func() {
			c, err := backend.Create(garden.ContainerSpec{Handle: "mine"})
			Expect(err).NotTo(HaveOccurred())
			_, err = backend.Create(garden.ContainerSpec{Handle: "mine"})
			Expect(err).To(MatchError("Handle 'mine' already in use"))
			p, err := c.Run(garden.ProcessSpec{Path: "true"}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
			Expect(p.Wait()).To(BeZero())
			Expect(backend.Destroy("mine")).To(Succeed())
			Expect(left()).To(BeEmpty())
		})

		When("the pool of subnets has room for two", func() {
			BeforeEach(func() { config.NetworkPool = netip.MustParsePrefix("10.249.0.0/29") })

			It("says so, with the flag, and has room again after a destroy", func() {
				for _, h := range []string{"a", "b"} {
					_, err := backend.Create(garden.ContainerSpec{Handle: h})
					Expect(err).NotTo(HaveOccurred())
				}
				_, err := backend.Create(garden.ContainerSpec{Handle: "c"})
				Expect(err).To(MatchError(And(ContainSubstring("insufficient subnets remaining in the pool"),
					ContainSubstring("2 of 2"), ContainSubstring("10.249.0.0/29"), ContainSubstring("--network-pool"))))
				Expect(backend.Destroy("a")).To(Succeed())
				cycle("c")
				Expect(backend.Destroy("b")).To(Succeed())
				Expect(left()).To(BeEmpty())
			})
		})

		When("init dies at its start", func() {
			BeforeEach(func() {
				config.InitBin = filepath.Join(dir, "dies")
				data, err := os.ReadFile("/bin/busybox") // whose name is no applet
				Expect(err).NotTo(HaveOccurred())
				Expect(os.WriteFile(config.InitBin, data, 0o755)).To(Succeed())
			})
			It("says so", func() {
				tell(garden.ContainerSpec{Handle: "x"}, "init")
				tell(garden.ContainerSpec{Handle: "x", Privileged: true}, "init")
			})
		})
	})

	It("answers for a container that it does not know", func() {
		unknown := garden.ContainerNotFoundError{Handle: "nosuch"}
		c, err := backend.Create(garden.ContainerSpec{Handle: "nosuch"})
		Expect(err).NotTo(HaveOccurred())
		Expect(backend.Destroy("nosuch")).To(Succeed())
		_, infoErr := c.Info()
		_, propsErr := c.Properties()
		_, propErr := c.Property("x")
		_, runErr := c.Run(garden.ProcessSpec{Path: "true"}, garden.ProcessIO{})
		_, attachErr := c.Attach("p", garden.ProcessIO{})
		_, metricsErr := c.Metrics()
		_, lookupErr := backend.Lookup("nosuch")
		for i, err := range []error{
			infoErr, propsErr, propErr, runErr, attachErr, metricsErr, lookupErr,
			c.Stop(false), c.SetProperty("a", "b"), c.RemoveProperty("a"), c.SetGraceTime(1), backend.Destroy("nosuch"),
		} {
			Expect(errors.Is(err, unknown)).To(BeTrue(), "call %d: %v", i, err)
		}
	})
})
