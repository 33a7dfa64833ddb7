package gardener_test

import (
	"errors"
	"strings"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
	"github.com/verger-garden/verger/gardener/spec"
)

var _ = Describe("creating a container", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
	)

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
	})

	It("makes it whole, visible and found", func() {
		c, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Handle()).To(Equal("h"))
		Expect(host.Whole("h")).To(BeTrue())
		Expect(listed(g, nil)).To(Equal([]string{"h"}))
		Expect(g.Lookup("h")).To(Equal(c))
		Expect(host.Violations()).To(BeEmpty())
	})

	It("generates a handle if none is given", func() {
		c, err := g.Create(garden.ContainerSpec{})
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Handle()).To(Equal("generated-1"))
		Expect(host.Whole("generated-1")).To(BeTrue())
	})

	It("hands the containerizer what client, image and network say, the network's mounts last", func() {
		clients := make([]garden.BindMount, 1, 8) // room that an append would write into
		clients[0] = garden.BindMount{SrcPath: "/src", DstPath: "/etc"}
		asked := garden.ContainerSpec{
			Handle:     "h",
			Privileged: true,
			BindMounts: clients,
			Env:        []string{"A=B"},
			Limits:     garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: 1}, CPU: garden.CPULimits{Weight: 2}, Pid: garden.PidLimits{Max: 3}},
		}
		_, err := g.Create(asked)
		Expect(err).NotTo(HaveOccurred())
		desired := server.Containerizer.Desired("h")
		Expect(desired.BaseConfig.Root.Path).To(Equal("/volumes/h"))
		desired.BaseConfig.Root = nil
		Expect(desired).To(Equal(spec.DesiredContainerSpec{
			Handle:     "h",
			Privileged: true,
			BindMounts: []garden.BindMount{clients[0], {SrcPath: "/network/h", DstPath: "/etc/hosts"}},
			Env:        []string{"A=B"},
			Limits:     asked.Limits,
		}))
		Expect(clients[:2][1]).To(Equal(garden.BindMount{}))
	})

	It("records the intent before it makes anything, and the state after everything", func() {
		_, err := g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"a": "1"}, GraceTime: time.Minute})
		Expect(err).NotTo(HaveOccurred())
		steps := server.Steps()
		Expect(steps[:2]).To(Equal([]string{"containerizer.handles", "properties.save"}))
		Expect(steps[len(steps)-1]).To(Equal("properties.save"))
		Expect(host.Records.All("h")).To(SatisfyAll(
			HaveKeyWithValue("a", "1"),
			HaveKeyWithValue("garden.grace-time", "60000000000"),
			HaveKeyWithValue("garden.state", "created"),
		))
	})

	It("prepares the network while the volume is made", func() {
		unblock := server.Block("volumizer.create")
		DeferCleanup(unblock)
		done := make(chan error)
		go func() {
			_, err := g.Create(garden.ContainerSpec{Handle: "h"})
			done <- err
		}()
		Eventually(host.Left).Should(ContainElement("network h"))
		Expect(host.Left()).NotTo(ContainElement("volume h"))
		unblock()
		Eventually(done).Should(Receive(BeNil()))
	})

	It("works with a property manager that cannot tell whether it saved", func() {
		g.PropertyManager = struct{ gardener.PropertyManager }{server.Properties}
		_, err := g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"a": "1"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(host.Records.All("h")).To(HaveKeyWithValue("a", "1"))
		Expect(listed(g, nil)).To(Equal([]string{"h"}))
	})

	It("works with a networker that prepares nothing", func() {
		g.Networker = plainNetworker{server.Networker}
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(server.Steps()).To(ContainElement("networker.network"))
	})

	DescribeTable("refuses before it touches anything",
		func(asked garden.ContainerSpec, text string) {
			g.AllowPrivilgedContainers = false
			_, err := g.Create(asked)
			Expect(err).To(MatchError(ContainSubstring(text)))
			Expect(server.Steps()).NotTo(ContainElement("properties.save"))
			expectClean(host, g)
		},
		Entry("a path", garden.ContainerSpec{Handle: "../h"}, "invalid handle"),
		Entry("a shell's dream", garden.ContainerSpec{Handle: "$(reboot)"}, "invalid handle"),
		Entry("a handle too long", garden.ContainerSpec{Handle: strings.Repeat("h", 256)}, "invalid handle"),
		Entry("privileged containers, if so configured", garden.ContainerSpec{Handle: "h", Privileged: true}, "privileged container creation is disabled"),
		Entry("garden's own properties", garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"garden.state": "x"}}, `"garden."`),
		Entry("the network's own properties", garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"kawasaki.subnet": "x"}}, `"kawasaki."`),
		Entry("the runtime's own properties", garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"rundmc.state": "x"}}, `"rundmc."`),
	)

	It("refuses a handle in use and leaves its container alone", func() {
		_, err := g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"a": "1"}})
		Expect(err).NotTo(HaveOccurred())
		before := host.Left()
		_, err = g.Create(garden.ContainerSpec{Handle: "h", Properties: garden.Properties{"a": "2"}})
		Expect(err).To(MatchError("Handle 'h' already in use"))
		Expect(host.Whole("h")).To(BeTrue())
		Expect(host.Left()).To(Equal(before))
		Expect(host.Records.All("h")).To(HaveKeyWithValue("a", "1"))
	})

	It("refuses more than the maximum, and says a handle in use rather than that", func() {
		g.MaxContainers = 1
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		_, err = g.Create(garden.ContainerSpec{Handle: "h2"})
		Expect(err).To(MatchError("max containers reached"))
		_, err = g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).To(MatchError("Handle 'h' already in use"))
		Expect(g.Destroy("h")).To(Succeed())
		_, err = g.Create(garden.ContainerSpec{Handle: "h2"})
		Expect(err).NotTo(HaveOccurred())
	})

	It("knows the containers of an earlier server, started or not", func() {
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		g, _ = boot(host)
		g.MaxContainers = 1
		_, err = g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).To(MatchError("Handle 'h' already in use"))
		_, err = g.Create(garden.ContainerSpec{Handle: "h2"})
		Expect(err).To(MatchError("max containers reached"))
	})

	It("fails if init ended at once", func() {
		g.Containerizer = stillborn{server.Containerizer}
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).To(MatchError(HavePrefix("container init PID was 0")))
		Expect(server.Steps()).NotTo(ContainElement("networker.network"))
		expectClean(host, g)
	})

	It("leaves nothing when a component panics", func() {
		g.Containerizer = panicking{server.Containerizer}
		Expect(func() { _, _ = g.Create(garden.ContainerSpec{Handle: "h"}) }).To(PanicWith("create"))
		expectClean(host, g)
		g.Containerizer = server.Containerizer
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
	})

	// One create and its undoing: every step of both.
	making := []string{"volumizer.create", "networker.prepare", "networker.mounts", "containerizer.create", "containerizer.info", "networker.network"}
	unmaking := []string{"containerizer.destroy", "networker.destroy", "volumizer.destroy", "containerizer.remove-bundle", "properties.forget"}

	It("has no other steps than those tested below", func() {
		_, err := g.Create(garden.ContainerSpec{Handle: "h"})
		Expect(err).NotTo(HaveOccurred())
		Expect(g.Destroy("h")).To(Succeed())
		for _, step := range server.Steps() {
			Expect(append(append([]string{"containerizer.handles", "properties.save"}, making...), unmaking...)).To(ContainElement(step))
		}
	})

	for _, fault := range []gardenertest.Fault{gardenertest.FailBefore, gardenertest.FailAfter} {
		when := map[gardenertest.Fault]string{gardenertest.FailBefore: "before", gardenertest.FailAfter: "after"}[fault]

		for _, step := range making {
			It("leaves nothing when "+step+" fails "+when+" it acts", func() {
				server.Inject(gardenertest.At(step, 0, fault))
				_, err := g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).To(MatchError(gardenertest.ErrInjected))
				Expect(err).To(MatchError(ContainSubstring(step)))
				expectClean(host, g)
				_, err = g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).NotTo(HaveOccurred())
				Expect(host.Whole("h")).To(BeTrue())
			})
		}

		for nth := range 2 {
			It("leaves nothing when a record cannot be saved, "+when+" acting", func() {
				server.Inject(gardenertest.At("properties.save", nth, fault))
				_, err := g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).To(MatchError(gardenertest.ErrInjected))
				expectClean(host, g)
			})
		}

		for _, undo := range unmaking {
			It("keeps what it cannot undo, listed and destroyable, when "+undo+" fails "+when+" it acts", func() {
				g.MaxContainers = 1
				server.Inject(func(step string) gardenertest.Fault {
					if step == "networker.network" || step == undo {
						return fault
					}
					return gardenertest.None
				})
				_, err := g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).To(MatchError(ContainSubstring("networker.network")))
				Expect(err).To(MatchError(ContainSubstring(undo)))
				for _, other := range unmaking[:3] {
					Expect(server.Steps()).To(ContainElement(other), "every step is tried")
				}
				Expect(listed(g, nil)).To(BeEmpty())
				Expect(listed(g, all)).To(Equal([]string{"h"}))
				_, err = g.Create(garden.ContainerSpec{Handle: "h"})
				Expect(err).To(MatchError("Handle 'h' already in use"))
				_, err = g.Create(garden.ContainerSpec{Handle: "h2"})
				Expect(err).To(MatchError("max containers reached"))

				Expect(g.Destroy("h")).To(MatchError(gardenertest.ErrInjected))
				server.Inject(nil)
				Expect(g.Destroy("h")).To(Succeed())
				expectClean(host, g)
			})
		}
	}
})

// plainNetworker hides all but the published methods.
type plainNetworker struct{ gardener.Networker }

// SetupBindMounts makes the network that nobody prepared.
func (p plainNetworker) SetupBindMounts(log lager.Logger, handle string, privileged bool, rootfs string) ([]garden.BindMount, error) {
	preparer, ok := p.Networker.(gardener.NetworkPreparer)
	if !ok {
		return nil, errors.New("no preparer")
	}
	if err := preparer.PrepareNetwork(log, garden.ContainerSpec{Handle: handle}); err != nil {
		return nil, err
	}
	return p.Networker.SetupBindMounts(log, handle, privileged, rootfs)
}

// A stillborn container's init has ended when it is looked at.
type stillborn struct{ gardener.Containerizer }

func (stillborn) Info(lager.Logger, string) (spec.ActualContainerSpec, error) {
	return spec.ActualContainerSpec{}, nil
}

type panicking struct{ gardener.Containerizer }

func (panicking) Create(lager.Logger, spec.DesiredContainerSpec) error { panic("create") }
