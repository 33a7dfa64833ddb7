package gardener_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

const testTimeout = 10 * time.Second

// restart starts a new server on the host and stops it when the spec ends.
func restart(host *gardenertest.Host) (*gardener.Gardener, *gardenertest.Server) {
	GinkgoHelper()
	g, server := boot(host)
	Expect(g.Start()).To(Succeed())
	DeferCleanup(g.Stop)
	return g, server
}

var _ = Describe("starting", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
	})

	It("watches events, runs the starters, then cleans up", func() {
		ran := []string{}
		g.BulkStarter = gardener.NewBulkStarter([]gardener.Starter{
			starter(func() error {
				ran = append(ran, "a")
				Expect(server.Steps()).To(Equal([]string{"containerizer.watch"}))
				return nil
			}),
			starter(func() error { ran = append(ran, "b"); return nil }),
		})
		Expect(g.Start()).To(Succeed())
		Expect(ran).To(Equal([]string{"a", "b"}))
		Expect(server.Steps()[1:3]).To(Equal([]string{"peas.clean-all", "containerizer.handles"}))
		Expect(g.Stop()).To(Succeed())
		Expect(server.Steps()).To(ContainElement("containerizer.shutdown"))
	})

	It("fails with the first starter that fails, before it touches a container", func() {
		g.BulkStarter = gardener.NewBulkStarter([]gardener.Starter{
			starter(func() error { return errors.New("no cgroups") }),
			starter(func() error { Fail("ran on"); return nil }),
		})
		Expect(g.Start()).To(MatchError("no cgroups"))
		Expect(server.Steps()).To(Equal([]string{"containerizer.watch"}))
	})

	It("fails if events cannot be watched, or the containers not be listed", func() {
		server.Inject(gardenertest.At("containerizer.watch", 0, gardenertest.FailBefore))
		Expect(g.Start()).To(MatchError(ContainSubstring("watch runtime events")))
		server.Inject(gardenertest.At("containerizer.handles", 0, gardenertest.FailBefore))
		Expect(g.Start()).To(MatchError(ContainSubstring("list containers")))
	})

	DescribeTable("goes on without",
		func(step string) {
			_, err := g.Create(garden.ContainerSpec{Handle: "h"})
			Expect(err).NotTo(HaveOccurred())
			again, server := boot(host)
			server.Inject(gardenertest.At(step, 0, gardenertest.FailBefore))
			Expect(again.Start()).To(Succeed())
			Expect(host.Whole("h")).To(BeTrue())
		},
		Entry("cleaning peas", "peas.clean-all"),
		Entry("the list of peas", "containerizer.pea-handles"),
		Entry("the list of networks", "networker.handles"),
		Entry("the list of volumes", "volumizer.handles"),
		Entry("the list of records", "properties.handles"),
	)

	When("containers exist", func() {
		BeforeEach(func() {
			for i := range 20 {
				_, err := g.Create(garden.ContainerSpec{
					Handle:     fmt.Sprintf("h%02d", i),
					GraceTime:  time.Hour,
					Properties: garden.Properties{"n": fmt.Sprint(i)},
				})
				Expect(err).NotTo(HaveOccurred())
			}
		})

		It("restores them with their properties and grace time", func() {
			before := host.Left()
			g, server := restart(host)
			Expect(host.Left()).To(Equal(before))
			Expect(listed(g, nil)).To(HaveLen(20))
			Expect(server.Steps()).To(ContainElement("networker.restore"))
			c, err := g.Lookup("h07")
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Property("n")).To(Equal("7"))
			Expect(g.GraceTime(c)).To(Equal(time.Hour))
			_, err = g.Create(garden.ContainerSpec{Handle: "h07"})
			Expect(err).To(MatchError("Handle 'h07' already in use"))
			Expect(g.Destroy("h07")).To(Succeed())
		})

		It("destroys all of them with the NoopRestorer", func() {
			again, _ := boot(host)
			again.Restorer = &gardener.NoopRestorer{}
			Expect(again.Start()).To(Succeed())
			expectClean(host, again)
		})

		It("destroys those whose network cannot be restored", func() {
			again, server := boot(host)
			server.Inject(gardenertest.At("networker.restore", 4, gardenertest.FailBefore))
			Expect(again.Start()).To(Succeed())
			Expect(listed(again, all)).To(HaveLen(19))
			Expect(host.Left()).To(HaveLen(19 * 4))
		})

		It("starts a destroyed container's destruction again, if it had begun", func() {
			server.Inject(gardenertest.At("networker.destroy", 0, gardenertest.FailBefore))
			Expect(g.Destroy("h03")).NotTo(Succeed())
			g, _ := restart(host)
			Expect(listed(g, all)).To(HaveLen(19))
			Expect(host.Left()).NotTo(ContainElement(HaveSuffix("h03")))
		})

		It("spares the volumes of peas, and all unknown volumes if peas cannot be listed", func() {
			host.AddPea("pea")
			restart(host)
			Expect(host.Left()).To(ContainElement("volume pea"))
			again, server := boot(host)
			server.Inject(gardenertest.At("containerizer.pea-handles", 0, gardenertest.FailBefore))
			Expect(again.Start()).To(Succeed())
			Expect(host.Left()).To(ContainElement("volume pea"))
		})
	})

	DescribeTable("destroys what one component alone knows of",
		func(make func(*gardenertest.Server) error) {
			Expect(make(server)).To(Succeed())
			Expect(host.Left()).To(HaveLen(1))
			again, _ := restart(host)
			expectClean(host, again)
		},
		Entry("a network", func(s *gardenertest.Server) error {
			return s.Networker.PrepareNetwork(nil, garden.ContainerSpec{Handle: "h"})
		}),
		Entry("a volume", func(s *gardenertest.Server) error {
			_, err := s.Volumizer.Create(nil, garden.ContainerSpec{Handle: "h"})
			return err
		}),
		Entry("a record", func(s *gardenertest.Server) error {
			return s.Properties.SetAll("h", garden.Properties{"garden.state": "created"})
		}),
	)

	When("a container cannot be destroyed", func() {
		var (
			again   *gardener.Gardener
			broken  atomic.Bool
			slept   chan time.Duration
			wake    chan struct{}
			attempt atomic.Int32
		)

		BeforeEach(func() {
			for _, handle := range []string{"good", "bad"} {
				_, err := g.Create(garden.ContainerSpec{Handle: handle})
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(host.Records.Remove("bad", "garden.state")).To(Succeed())
			again, server = boot(host)
			broken.Store(true)
			attempt.Store(0)
			server.Inject(func(step string) gardenertest.Fault {
				if step != "volumizer.destroy" {
					return gardenertest.None
				}
				attempt.Add(1)
				if broken.Load() {
					return gardenertest.FailBefore
				}
				return gardenertest.None
			})
			slept, wake = make(chan time.Duration, 100), make(chan struct{}, 100)
			again.Sleep = func(d time.Duration) {
				slept <- d
				<-wake
			}
			Expect(again.Start()).To(Succeed())
			DeferCleanup(func() {
				close(wake)
				Expect(again.Stop()).To(Succeed())
			})
		})

		It("starts all the same, keeps it listed, and tries again every three seconds", func() {
			Expect(attempt.Load()).To(BeEquivalentTo(1))
			Expect(listed(again, nil)).To(Equal([]string{"good"}))
			Expect(listed(again, all)).To(Equal([]string{"bad", "good"}))
			Eventually(slept).Should(Receive(Equal(3 * time.Second)))
			wake <- struct{}{}
			Eventually(slept).Should(Receive())
			Expect(attempt.Load()).To(BeEquivalentTo(2))
			broken.Store(false)
			wake <- struct{}{}
			again.WaitForCleanup()
			Expect(listed(again, all)).To(Equal([]string{"good"}))
			Expect(host.Left()).To(HaveLen(4))
		})

		It("gives up after thirty tries; then Destroy can be called", func() {
			for range 29 {
				wake <- struct{}{}
			}
			again.WaitForCleanup()
			Expect(attempt.Load()).To(BeEquivalentTo(30))
			Expect(listed(again, all)).To(Equal([]string{"bad", "good"}))
			broken.Store(false)
			Expect(again.Destroy("bad")).To(Succeed())
			Expect(host.Left()).To(HaveLen(4))
		})

		It("does not touch a new container of the same handle", func() {
			Eventually(slept).Should(Receive())
			broken.Store(false)
			Expect(again.Destroy("bad")).To(Succeed())
			_, err := again.Create(garden.ContainerSpec{Handle: "bad"})
			Expect(err).NotTo(HaveOccurred())
			wake <- struct{}{}
			again.WaitForCleanup()
			Expect(host.Whole("bad")).To(BeTrue())
		})

		It("tries no more once stopped", func() {
			Eventually(slept).Should(Receive())
			stopped := make(chan error, 1)
			go func() { stopped <- again.Stop() }()
			Consistently(stopped, "50ms").ShouldNot(Receive())
			wake <- struct{}{}
			Eventually(stopped).Should(Receive(BeNil()))
			Expect(attempt.Load()).To(BeEquivalentTo(1))
		})
	})

	It("stops at once while it waits to try again", func(ctx SpecContext) {
		_, err := g.Create(garden.ContainerSpec{Handle: "bad"})
		Expect(err).NotTo(HaveOccurred())
		again, server := boot(host)
		again.Restorer = &gardener.NoopRestorer{}
		server.Inject(func(step string) gardenertest.Fault {
			if step == "networker.destroy" {
				return gardenertest.FailBefore
			}
			return gardenertest.None
		})
		Expect(again.Start()).To(Succeed())
		started := time.Now()
		Expect(again.Stop()).To(Succeed())
		Expect(time.Since(started)).To(BeNumerically("<", 2*time.Second))
	})

	// The server is killed at every step of a life, before and after the step
	// acts. After a restart the container is whole or gone, as acknowledged.
	for _, fault := range []gardenertest.Fault{gardenertest.KillBefore, gardenertest.KillAfter} {
		when := map[gardenertest.Fault]string{gardenertest.KillBefore: "before", gardenertest.KillAfter: "after"}[fault]

		It("finishes or undoes a create killed "+when+" any step", func() {
			kills := 0
			for nth := 0; ; nth++ {
				host := newHost()
				g, server := boot(host)
				_, err := g.Create(garden.ContainerSpec{Handle: "other"})
				Expect(err).NotTo(HaveOccurred())
				server.Inject(gardenertest.At("", nth, fault))
				_, err = g.Create(garden.ContainerSpec{Handle: "h"})
				if !server.Dead() {
					Expect(err).NotTo(HaveOccurred())
					break
				}
				kills++
				Expect(err).To(MatchError(gardenertest.ErrKilled))
				again, _ := restart(host)
				Expect(host.Whole("other")).To(BeTrue())
				if host.Whole("h") { // killed after the last step
					Expect(listed(again, nil)).To(Equal([]string{"h", "other"}))
					Expect(again.Destroy("h")).To(Succeed())
				}
				Expect(host.Left()).To(HaveLen(4), "killed at step %d", nth)
				Expect(listed(again, all)).To(Equal([]string{"other"}))
				_, err = again.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).NotTo(HaveOccurred())
				Expect(host.Violations()).To(BeEmpty())
			}
			Expect(kills).To(Equal(8))
		})

		It("finishes a destroy killed "+when+" any step", func() {
			kills := 0
			for nth := 0; ; nth++ {
				host := newHost()
				g, server := boot(host)
				_, err := g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).NotTo(HaveOccurred())
				server.Inject(gardenertest.At("", nth, fault))
				err = g.Destroy("h")
				if !server.Dead() {
					Expect(err).NotTo(HaveOccurred())
					break
				}
				kills++
				again, _ := restart(host)
				if nth == 0 && fault == gardenertest.KillBefore { // nothing told of the destroy
					Expect(host.Whole("h")).To(BeTrue())
					Expect(again.Destroy("h")).To(Succeed())
				}
				expectClean(host, again)
			}
			Expect(kills).To(Equal(6))
		})
	}
})

type starter func() error

func (s starter) Start() error { return s() }

// A forgetful networker knows no container any more.
type forgetful struct{ gardener.Networker }

func (f forgetful) Destroy(log lager.Logger, handle string) error {
	if err := f.Networker.Destroy(log, handle); err != nil {
		return err
	}
	return fmt.Errorf("look for the lease: %w", notFound(handle))
}
