package gardener_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

var _ = Describe("many callers at once", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
	})

	It("lets one of 64 creates of a handle win, unharmed, in each of 100 rounds", func() {
		for round := range 100 {
			unblock := func() {}
			if round%2 == 0 { // every loser meets the winner at work
				unblock = server.Block("containerizer.create")
			}
			var racers sync.WaitGroup
			var winner atomic.Int64
			var wins, losses atomic.Int32
			start := make(chan struct{})
			for i := range 64 {
				racers.Go(func() {
					defer GinkgoRecover()
					<-start
					_, err := g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"racer": strconv.Itoa(i)}})
					if err == nil {
						wins.Add(1)
						winner.Store(int64(i))
					} else {
						Expect(err).To(MatchError("Handle 'h' already in use"))
						if losses.Add(1) == 63 {
							unblock()
						}
					}
				})
			}
			close(start)
			racers.Wait()
			Expect(wins.Load()).To(BeEquivalentTo(1))
			Expect(host.Whole("h")).To(BeTrue())
			Expect(host.Records.All("h")).To(HaveKeyWithValue("racer", strconv.FormatInt(winner.Load(), 10)))
			Expect(g.Destroy("h")).To(Succeed())
		}
		expectClean(host, g)
	})

	It("counts creates in flight, and neither overshoots nor undershoots the maximum", func() {
		g.MaxContainers = 10
		unblock := server.Block("containerizer.create")
		DeferCleanup(unblock)
		var racers sync.WaitGroup
		var wins, refused atomic.Int32
		for i := range 64 {
			racers.Go(func() {
				defer GinkgoRecover()
				_, err := g.Create(garden.ContainerSpec{Handle: fmt.Sprintf("h%d", i)})
				if err == nil {
					wins.Add(1)
				} else {
					Expect(err).To(MatchError("max containers reached"))
					refused.Add(1)
				}
			})
		}
		Eventually(refused.Load).Should(BeEquivalentTo(54))
		unblock()
		racers.Wait()
		Expect(wins.Load()).To(BeEquivalentTo(10))
		Expect(host.Peak()).To(Equal(10))
	})

	When("a create and a destroy take for ever", func() {
		BeforeEach(func() {
			for _, handle := range []string{"idle", "dying"} {
				_, err := g.Create(garden.ContainerSpec{Handle: handle, Properties: garden.Properties{"a": "1"}})
				Expect(err).NotTo(HaveOccurred())
			}
			var pending sync.WaitGroup
			unblockDestroy := server.Block("volumizer.destroy")
			unblockCreate := server.Block("volumizer.create")
			DeferCleanup(func() {
				unblockCreate()
				unblockDestroy()
				pending.Wait()
				Expect(host.Violations()).To(BeEmpty())
			})
			pending.Go(func() { _, _ = g.Create(garden.ContainerSpec{Handle: "slow"}) }) // seen by its network
			pending.Go(func() { _ = g.Destroy("dying") })                                // seen by its network
			Eventually(host.Left).Should(SatisfyAll(ContainElement("network slow"), Not(ContainElement("network dying"))))
		})

		It("answers everybody else, and does not show what is being created", func(ctx SpecContext) {
			Expect(g.Ping()).To(Succeed())
			Expect(listed(g, nil)).To(Equal([]string{"dying", "idle"}))
			Expect(listed(g, all)).To(Equal([]string{"dying", "idle"}))
			_, err := g.Lookup("slow")
			Expect(err).To(Equal(notFound("slow")))
			_, err = g.Lookup("dying")
			Expect(err).NotTo(HaveOccurred())

			idle, err := g.Lookup("idle")
			Expect(err).NotTo(HaveOccurred())
			info, err := idle.Info()
			Expect(err).NotTo(HaveOccurred())
			Expect(info.State).To(Equal("active"))
			Expect(idle.SetProperty("b", "2")).To(Succeed())
			infos, err := g.BulkInfo([]string{"idle", "slow"})
			Expect(err).NotTo(HaveOccurred())
			Expect(infos["slow"].Err.Err).To(Equal(notFound("slow")))
			_, err = g.Capacity()
			Expect(err).NotTo(HaveOccurred())

			_, err = g.Create(garden.ContainerSpec{Handle: "slow"})
			Expect(err).To(MatchError("Handle 'slow' already in use"))
			_, err = g.Create(garden.ContainerSpec{Handle: "dying"})
			Expect(err).To(MatchError("Handle 'dying' already in use"))
		}, NodeTimeout(testTimeout))
	})

	It("shows nothing of a container that runs but is not connected yet", func() {
		unblock := server.Block("networker.network")
		DeferCleanup(unblock)
		created := make(chan error, 1)
		go func() {
			_, err := g.Create(garden.ContainerSpec{Handle: "h"})
			created <- err
		}()
		Eventually(server.Steps).Should(ContainElement("networker.network"))
		Expect(listed(g, all)).To(BeEmpty())
		infos, err := g.BulkInfo([]string{"h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(infos["h"].Err.Err).To(Equal(notFound("h")))
		metrics, err := g.BulkMetrics([]string{"h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(metrics["h"].Err).NotTo(BeNil())
		Expect(metrics["h"].Err.Err).To(Equal(notFound("h")))
		unblock()
		Eventually(created).Should(Receive(BeNil()))
	})

	It("does not revive the properties of a container that is destroyed meanwhile", func() {
		for range 300 {
			c, err := g.Create(garden.ContainerSpec{Handle: "h"})
			Expect(err).NotTo(HaveOccurred())
			var both sync.WaitGroup
			both.Go(func() {
				defer GinkgoRecover()
				for i := range 20 {
					if err := c.SetProperty("a", strconv.Itoa(i)); err != nil {
						Expect(err).To(Equal(notFound("h")))
					}
					if err := c.SetGraceTime(1); err != nil {
						Expect(err).To(Equal(notFound("h")))
					}
				}
			})
			both.Go(func() {
				defer GinkgoRecover()
				Expect(g.Destroy("h")).To(Succeed())
			})
			both.Wait()
			Expect(host.Left()).To(BeEmpty())
		}
	})
})
