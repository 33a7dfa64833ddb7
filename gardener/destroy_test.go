package gardener_test

import (
	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

var _ = Describe("destroying a container", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
		_, err := g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"a": "1"}})
		Expect(err).NotTo(HaveOccurred())
	})

	It("leaves nothing and frees the handle", func() {
		Expect(g.Destroy("h")).To(Succeed())
		expectClean(host, g)
		Expect(g.Destroy("h")).To(MatchError(notFound("h")))
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(host.Records.All("h")).NotTo(HaveKey("a"))
	})

	It("does not know an unknown handle, and touches nothing", func() {
		before := len(server.Steps())
		Expect(g.Destroy("other")).To(Equal(notFound("other")))
		Expect(server.Steps()).To(HaveLen(before))
		Expect(host.Whole("h")).To(BeTrue())
	})

	It("ends the container before its network and volume", func() {
		server.Inject(gardenertest.At("containerizer.destroy", 0, gardenertest.None))
		before := len(server.Steps())
		Expect(g.Destroy("h")).To(Succeed())
		steps := server.Steps()[before:]
		Expect(steps[:2]).To(Equal([]string{"properties.save", "containerizer.destroy"}))
		Expect(steps[2:4]).To(ConsistOf("networker.destroy", "volumizer.destroy"))
		Expect(steps[4:]).To(Equal([]string{"containerizer.remove-bundle", "properties.forget"}))
	})

	It("takes what is missing as done", func() {
		g.Networker = forgetful{server.Networker}
		Expect(g.Destroy("h")).To(Succeed())
		Expect(listed(g, all)).To(BeEmpty())
	})

	It("goes on when it cannot be recorded that it began", func() {
		server.Inject(gardenertest.At("properties.save", 0, gardenertest.FailBefore))
		Expect(g.Destroy("h")).To(Succeed())
		expectClean(host, g)
	})

	for _, fault := range []gardenertest.Fault{gardenertest.FailBefore, gardenertest.FailAfter} {
		for _, step := range []string{"containerizer.destroy", "networker.destroy", "volumizer.destroy", "containerizer.remove-bundle", "properties.forget"} {
			It("stays listed when "+step+" fails, and can be repeated", func() {
				server.Inject(gardenertest.At(step, 0, fault))
				before := len(server.Steps())
				Expect(g.Destroy("h")).To(MatchError(ContainSubstring(step)))
				for _, other := range []string{"containerizer.destroy", "networker.destroy", "volumizer.destroy"} {
					Expect(server.Steps()[before:]).To(ContainElement(other), "every step is tried")
				}
				Expect(listed(g, all)).To(Equal([]string{"h"}))
				if step != "properties.forget" || fault == gardenertest.FailBefore {
					Expect(listed(g, nil)).To(Equal([]string{"h"}))
				}
				_, err := g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).To(MatchError("Handle 'h' already in use"))
				Expect(g.Destroy("h")).To(Succeed())
				expectClean(host, g)
			})
		}
	}

	When("another destroy is under way", func() {
		var first, second chan error

		BeforeEach(func() {
			first, second = make(chan error, 1), make(chan error, 1)
		})

		destroyTwice := func() (unblock func()) {
			unblock = server.Block("networker.destroy")
			DeferCleanup(unblock)
			go func() { first <- g.Destroy("h") }()
			Eventually(server.Steps).Should(ContainElement("networker.destroy"))
			go func() { second <- g.Destroy("h") }()
			Consistently(second, "50ms").ShouldNot(Receive())
			return unblock
		}

		It("waits, and finds nothing if that succeeded", func() {
			destroyTwice()()
			Eventually(first).Should(Receive(BeNil()))
			Eventually(second).Should(Receive(Equal(notFound("h"))))
			expectClean(host, g)
		})

		It("waits, and does it if that failed", func() {
			server.Inject(gardenertest.At("networker.destroy", 0, gardenertest.FailBefore))
			destroyTwice()()
			Eventually(first).Should(Receive(MatchError(gardenertest.ErrInjected)))
			Eventually(second).Should(Receive(BeNil()))
			expectClean(host, g)
		})

		It("lets nobody create the handle meanwhile", func() {
			unblock := destroyTwice()
			_, err := g.Create(garden.ContainerSpec{Handle: "h"})
			Expect(err).To(MatchError("Handle 'h' already in use"))
			unblock()
			Eventually(first).Should(Receive(BeNil()))
		})
	})

	It("waits for a create that is under way, and then destroys", func() {
		unblock := server.Block("volumizer.create")
		DeferCleanup(unblock)
		created, destroyed := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := g.Create(garden.ContainerSpec{Handle: "new"})
			created <- err
		}()
		Eventually(host.Left).Should(ContainElement("network new"))
		go func() { destroyed <- g.Destroy("new") }()
		Consistently(destroyed, "50ms").ShouldNot(Receive())
		unblock()
		Eventually(created).Should(Receive(BeNil()))
		Eventually(destroyed).Should(Receive(BeNil()))
		Expect(host.Left()).NotTo(ContainElement(HaveSuffix(" new")))
	})
})
