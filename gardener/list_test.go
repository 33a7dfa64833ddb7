package gardener_test

import (
	"errors"
	"fmt"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

var _ = Describe("asking for many containers", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
		for i := range 3 {
			_, err := g.Create(garden.ContainerSpec{
				Handle:     fmt.Sprintf("h%d", i),
				Properties: garden.Properties{"odd": fmt.Sprint(i % 2), "n": fmt.Sprint(i)},
			})
			Expect(err).NotTo(HaveOccurred())
		}
	})

	DescribeTable("lists those that match",
		func(filter garden.Properties, want ...string) {
			Expect(listed(g, filter)).To(HaveExactElements(want))
		},
		Entry("no filter", nil, "h0", "h1", "h2"),
		Entry("one property", garden.Properties{"odd": "0"}, "h0", "h2"),
		Entry("several properties", garden.Properties{"odd": "0", "n": "2"}, "h2"),
		Entry("no container", garden.Properties{"odd": "2"}),
		Entry("a property that none has", garden.Properties{"other": "x"}),
		Entry("such a one as empty", garden.Properties{"other": ""}, "h0", "h1", "h2"),
		Entry("the state", garden.Properties{"garden.state": "created"}, "h0", "h1", "h2"),
		Entry("another state", garden.Properties{"garden.state": "x"}),
		Entry("any state and a property", garden.Properties{"garden.state": "all", "n": "1"}, "h1"),
	)

	It("does not change the filter it is given, nor answers nil", func() {
		filter := garden.Properties{"garden.state": "all", "n": "none"}
		containers, err := g.Containers(filter)
		Expect(err).NotTo(HaveOccurred())
		Expect(containers).NotTo(BeNil())
		Expect(filter).To(Equal(garden.Properties{"garden.state": "all", "n": "none"}))
	})

	It("tells each one's info, or why it cannot", func() {
		server.Inject(gardenertest.At("containerizer.info", 0, gardenertest.FailBefore))
		entries, err := g.BulkInfo([]string{"h0"})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries["h0"].Err.Err).To(MatchError(gardenertest.ErrInjected))
		server.Inject(nil)

		entries, err = g.BulkInfo([]string{"h0", "other", "h1", "h0"})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(3))
		Expect(entries["h0"].Err).To(BeNil())
		Expect(entries["h0"].Info.ContainerPath).To(Equal("/depot/h0"))
		Expect(entries["h1"].Info.Properties).To(HaveKeyWithValue("n", "1"))
		Expect(entries["other"].Err).To(Equal(&garden.Error{Err: garden.ContainerNotFoundError{Handle: "other"}}))
		wire, err := entries["other"].Err.MarshalJSON()
		Expect(err).NotTo(HaveOccurred())
		Expect(wire).To(ContainSubstring(`"Type":"ContainerNotFoundError"`))
	})

	It("tells each one's metrics, peas' included, or why it cannot", func() {
		host.AddPea("pea")
		entries, err := g.BulkMetrics([]string{"h0", "other", "pea"})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries["h0"].Err).To(BeNil())
		Expect(entries["h0"].Metrics.NetworkStat).NotTo(BeNil())
		Expect(entries["pea"].Err).To(BeNil())
		Expect(entries["pea"].Metrics.Age).To(BeEquivalentTo(11))
		Expect(entries["pea"].Metrics.NetworkStat).To(BeNil())
		Expect(entries["other"].Err.Err).To(Equal(notFound("other")))

		server.Inject(gardenertest.At("volumizer.metrics", 0, gardenertest.FailBefore))
		entries, err = g.BulkMetrics([]string{"pea"})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries["pea"].Err.Err).To(MatchError(gardenertest.ErrInjected))
	})

	It("answers an empty map for no handles", func() {
		Expect(g.BulkInfo(nil)).To(Equal(map[string]garden.ContainerInfoEntry{}))
		Expect(g.BulkMetrics([]string{})).To(Equal(map[string]garden.ContainerMetricsEntry{}))
	})

	It("asks for them side by side, but not for all at once", func() {
		handles := []string{}
		for i := range 40 {
			handle := fmt.Sprintf("many%d", i)
			handles = append(handles, handle)
			_, err := g.Create(garden.ContainerSpec{Handle: handle})
			Expect(err).NotTo(HaveOccurred())
		}
		before := len(server.Steps())
		unblock := server.Block("containerizer.info")
		DeferCleanup(unblock)
		done := make(chan map[string]garden.ContainerInfoEntry)
		go func() {
			entries, _ := g.BulkInfo(handles) // never an error
			done <- entries
		}()
		Eventually(func() int { return len(server.Steps()) - before }).Should(Equal(16))
		Consistently(func() int { return len(server.Steps()) - before }, "50ms").Should(Equal(16))
		unblock()
		Eventually(done).Should(Receive(HaveLen(40)))
	})

	It("says if the containers cannot be listed, and asks again next time", func() {
		g, server = boot(host)
		server.Inject(gardenertest.At("containerizer.handles", 0, gardenertest.FailBefore))
		_, err := g.Containers(nil)
		Expect(err).To(MatchError(ContainSubstring("list containers")))
		Expect(listed(g, nil)).To(HaveLen(3))
	})
})

var _ = Describe("the capacity", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
	})

	It("is the host's, the store's and the network's", func() {
		Expect(g.Capacity()).To(Equal(garden.Capacity{
			MemoryInBytes:          100,
			DiskInBytes:            200,
			SchedulableDiskInBytes: 1 << 30,
			MaxContainers:          256,
		}))
	})

	DescribeTable("has room for the smaller of network and maximum",
		func(maximum, want uint64) {
			g.MaxContainers = maximum
			capacity, err := g.Capacity()
			Expect(err).NotTo(HaveOccurred())
			Expect(capacity.MaxContainers).To(Equal(want))
		},
		Entry("no maximum", uint64(0), uint64(256)),
		Entry("a small one", uint64(5), uint64(5)),
		Entry("a big one", uint64(1000), uint64(256)),
	)

	It("counts the whole disk if the store cannot tell", func() {
		server.Inject(gardenertest.At("volumizer.capacity", 0, gardenertest.FailBefore))
		capacity, err := g.Capacity()
		Expect(err).NotTo(HaveOccurred())
		Expect(capacity.SchedulableDiskInBytes).To(BeEquivalentTo(200))
	})

	It("is an error if the host cannot tell", func() {
		g.SysInfoProvider = blind{memory: errors.New("no memory")}
		_, err := g.Capacity()
		Expect(err).To(MatchError(ContainSubstring("no memory")))
		g.SysInfoProvider = blind{disk: errors.New("no disk")}
		_, err = g.Capacity()
		Expect(err).To(MatchError(ContainSubstring("no disk")))
	})
})

type blind struct{ memory, disk error }

func (b blind) TotalMemory() (uint64, error) { return 0, b.memory }
func (b blind) TotalDisk() (uint64, error)   { return 0, b.disk }
func (b blind) CPUCores() (int, error)       { return 0, nil }
