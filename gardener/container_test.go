package gardener_test

import (
	"io"
	"strings"
	"time"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

// calls are all that can be asked of a container. Each has the step of a
// component that it leads to, if any.
var calls = []struct {
	name string
	step string
	call func(garden.Container) error
}{
	{"Run", "containerizer.run", func(c garden.Container) error {
		_, err := c.Run(garden.ProcessSpec{}, garden.ProcessIO{})
		return err
	}},
	{"Attach", "containerizer.attach", func(c garden.Container) error {
		_, err := c.Attach("p", garden.ProcessIO{})
		return err
	}},
	{"Stop", "containerizer.stop", func(c garden.Container) error { return c.Stop(false) }},
	{"StreamIn", "containerizer.stream-in", func(c garden.Container) error {
		return c.StreamIn(garden.StreamInSpec{TarStream: strings.NewReader("")})
	}},
	{"StreamOut", "containerizer.stream-out", func(c garden.Container) error {
		_, err := c.StreamOut(garden.StreamOutSpec{})
		return err
	}},
	{"NetIn", "networker.net-in", func(c garden.Container) error {
		_, _, err := c.NetIn(1, 2)
		return err
	}},
	{"NetOut", "networker.net-out", func(c garden.Container) error { return c.NetOut(garden.NetOutRule{}) }},
	{"BulkNetOut", "networker.bulk-net-out", func(c garden.Container) error { return c.BulkNetOut(nil) }},
	{"Info", "containerizer.info", func(c garden.Container) error {
		_, err := c.Info()
		return err
	}},
	{"Metrics", "containerizer.metrics", func(c garden.Container) error {
		_, err := c.Metrics()
		return err
	}},
	{"Metrics of the disk", "volumizer.metrics", func(c garden.Container) error {
		_, err := c.Metrics()
		return err
	}},
	{"Metrics of the network", "networker.metrics", func(c garden.Container) error {
		_, err := c.Metrics()
		return err
	}},
	{"CurrentCPULimits", "containerizer.info", func(c garden.Container) error {
		_, err := c.CurrentCPULimits()
		return err
	}},
	{"CurrentMemoryLimits", "containerizer.info", func(c garden.Container) error {
		_, err := c.CurrentMemoryLimits()
		return err
	}},
	{"CurrentDiskLimits", "", func(c garden.Container) error {
		_, err := c.CurrentDiskLimits()
		return err
	}},
	{"CurrentBandwidthLimits", "", func(c garden.Container) error {
		_, err := c.CurrentBandwidthLimits()
		return err
	}},
	{"Properties", "", func(c garden.Container) error {
		_, err := c.Properties()
		return err
	}},
	{"Property", "", func(c garden.Container) error {
		_, err := c.Property("a")
		return err
	}},
	{"SetProperty", "properties.save", func(c garden.Container) error { return c.SetProperty("a", "2") }},
	{"RemoveProperty", "properties.remove", func(c garden.Container) error { return c.RemoveProperty("a") }},
	{"SetGraceTime", "properties.save", func(c garden.Container) error { return c.SetGraceTime(1) }},
}

var _ = Describe("a container", func() {
	var (
		host   *gardenertest.Host
		server *gardenertest.Server
		g      *gardener.Gardener
		c      garden.Container
	)

	asked := garden.ContainerSpec{
		Handle:     "h",
		Properties: garden.Properties{"a": "1"},
		Limits: garden.Limits{
			CPU:       garden.CPULimits{Weight: 1},
			Memory:    garden.MemoryLimits{LimitInBytes: 2},
			Disk:      garden.DiskLimits{ByteHard: 3, Scope: garden.DiskLimitScopeExclusive},
			Bandwidth: garden.BandwidthLimits{RateInBytesPerSecond: 4},
		},
	}

	BeforeEach(func() {
		host = newHost()
		g, server = boot(host)
		var err error
		c, err = g.Create(asked)
		Expect(err).NotTo(HaveOccurred())
	})

	for _, call := range calls {
		It("answers "+call.name+", passes its errors on, and once destroyed is not found", func() {
			Expect(call.call(c)).To(Succeed())
			if call.step != "" {
				server.Inject(gardenertest.At(call.step, 0, gardenertest.FailBefore))
				Expect(call.call(c)).To(MatchError(gardenertest.ErrInjected))
				server.Inject(nil)
			}
			Expect(g.Destroy("h")).To(Succeed())
			before := len(server.Steps())
			Expect(call.call(c)).To(Equal(notFound("h")))
			Expect(server.Steps()).To(HaveLen(before), "no component is asked")
			expectClean(host, g)
		})
	}

	It("is not found by Lookup once destroyed", func() {
		Expect(g.Destroy("h")).To(Succeed())
		_, err := g.Lookup("h")
		Expect(err).To(Equal(notFound("h")))
	})

	It("hands on what it is given", func() {
		process, err := c.Run(garden.ProcessSpec{ID: "p", Args: []string{"a", "b"}}, garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(process.ID()).To(Equal("p"))
		Expect(process.Wait()).To(Equal(2))
		process, err = c.Attach("q", garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(process.ID()).To(Equal("q"))
		stream, err := c.StreamOut(garden.StreamOutSpec{Path: "/path"})
		Expect(err).NotTo(HaveOccurred())
		Expect(io.ReadAll(stream)).To(BeEquivalentTo("/path"))
		hostPort, containerPort, err := c.NetIn(1, 2)
		Expect([]any{hostPort, containerPort, err}).To(Equal([]any{uint32(1), uint32(2), nil}))
	})

	It("informs", func() {
		Expect(c.Info()).To(Equal(garden.ContainerInfo{
			State:         "active",
			Events:        []string{"Out of memory"},
			HostIP:        "10.0.0.1",
			ContainerIP:   "10.0.0.2",
			ExternalIP:    "192.0.2.1",
			ContainerPath: "/depot/h",
			ProcessIDs:    []string{"p"},
			Properties: garden.Properties{
				"a":                           "1",
				"garden.state":                "created",
				"garden.limits":               `{"bandwidth":{"rate":4},"disk":{"byte_hard":3,"scope":1}}`,
				"garden.network.host-ip":      "10.0.0.1",
				"garden.network.container-ip": "10.0.0.2",
				"garden.network.external-ip":  "192.0.2.1",
				"garden.network.mapped-ports": `[{"HostPort":60000,"ContainerPort":8080}]`,
			},
			MappedPorts: []garden.PortMapping{{HostPort: 60000, ContainerPort: 8080}},
		}))
	})

	It("informs of its stop, and of its IPv6 address", func() {
		Expect(host.Records.SetAll("h", garden.Properties{"garden.network.container-ipv6": "fd00::2"})).To(Succeed())
		Expect(c.Stop(true)).To(Succeed())
		info, err := c.Info()
		Expect(err).NotTo(HaveOccurred())
		Expect(info.State).To(Equal("stopped"))
		Expect(info.ContainerIPv6).To(Equal("fd00::2"))
	})

	It("names the record that does not parse", func() {
		Expect(host.Records.SetAll("h", garden.Properties{"garden.network.mapped-ports": "{", "garden.limits": "{", "garden.grace-time": "1h"})).To(Succeed())
		_, err := c.Info()
		Expect(err).To(MatchError(ContainSubstring("parse property garden.network.mapped-ports")))
		_, err = c.CurrentDiskLimits()
		Expect(err).To(MatchError(ContainSubstring("parse property garden.limits")))
		Expect(g.GraceTime(c)).To(BeZero())
	})

	It("tells its limits, after a restart too", func() {
		g, _ = restart(host)
		c, err := g.Lookup("h")
		Expect(err).NotTo(HaveOccurred())
		Expect(c.CurrentCPULimits()).To(Equal(asked.Limits.CPU))
		Expect(c.CurrentMemoryLimits()).To(Equal(asked.Limits.Memory))
		Expect(c.CurrentDiskLimits()).To(Equal(asked.Limits.Disk))
		Expect(c.CurrentBandwidthLimits()).To(Equal(asked.Limits.Bandwidth))
	})

	It("has zero limits, and no record of them, if none were asked for", func() {
		free, err := g.Create(garden.ContainerSpec{Handle: "free"})
		Expect(err).NotTo(HaveOccurred())
		Expect(free.CurrentDiskLimits()).To(BeZero())
		Expect(free.CurrentBandwidthLimits()).To(BeZero())
		Expect(free.Properties()).NotTo(HaveKey("garden.limits"))
	})

	Describe("its properties", func() {
		It("are set, read and removed", func() {
			Expect(c.SetProperty("b", "2")).To(Succeed())
			Expect(c.Property("b")).To(Equal("2"))
			Expect(c.RemoveProperty("b")).To(Succeed())
			_, err := c.Property("b")
			Expect(err).To(MatchError("property does not exist: b"))
			Expect(c.RemoveProperty("b")).To(Succeed())
		})

		It("are copies", func() {
			props, err := c.Properties()
			Expect(err).NotTo(HaveOccurred())
			props["a"] = "changed"
			Expect(c.Property("a")).To(Equal("1"))
		})

		DescribeTable("are the server's own, below",
			func(prefix string) {
				Expect(c.SetProperty(prefix+"state", "x")).To(MatchError(ContainSubstring(`"` + prefix + `"`)))
				Expect(c.RemoveProperty(prefix + "state")).To(MatchError(ContainSubstring(`"` + prefix + `"`)))
				Expect(listed(g, nil)).To(Equal([]string{"h"}))
			},
			Entry(nil, "garden."), Entry(nil, "kawasaki."), Entry(nil, "rundmc."),
		)

		It("may look like the server's own", func() {
			Expect(c.SetProperty("garden", "1")).To(Succeed())
			Expect(c.SetProperty("network.garden.x", "1")).To(Succeed())
		})
	})

	Describe("its grace time", func() {
		It("is for ever unless asked for", func() { Expect(g.GraceTime(c)).To(BeZero()) })

		It("can be set and survives a restart", func() {
			Expect(c.SetGraceTime(time.Minute)).To(Succeed())
			g, _ = restart(host)
			Expect(g.GraceTime(c)).To(Equal(time.Minute))
		})
	})

	Describe("its metrics", func() {
		want := garden.Metrics{
			MemoryStat:     garden.ContainerMemoryStat{Rss: 9},
			CPUStat:        garden.ContainerCPUStat{Usage: 8},
			DiskStat:       garden.ContainerDiskStat{TotalBytesUsed: 12, TotalInodesUsed: 1},
			PidStat:        garden.ContainerPidStat{Max: 10},
			Age:            11,
			CPUEntitlement: 7,
			NetworkStat:    &garden.ContainerNetworkStat{RxBytes: 1, TxBytes: 2},
		}

		It("come from all components", func() { Expect(c.Metrics()).To(Equal(want)) })

		It("tell the volumizer of privileged containers", func() {
			privileged, err := g.Create(garden.ContainerSpec{Handle: "p", Privileged: true})
			Expect(err).NotTo(HaveOccurred())
			metrics, err := privileged.Metrics()
			Expect(err).NotTo(HaveOccurred())
			Expect(metrics.DiskStat.TotalInodesUsed).To(BeZero())
		})

		It("lack the network's where nobody counts, or nobody wants them", func() {
			Expect(c.SetProperty("network.healthcheck", "true")).To(Succeed())
			metrics, err := c.Metrics()
			Expect(err).NotTo(HaveOccurred())
			Expect(metrics.NetworkStat).To(BeNil())
			Expect(c.RemoveProperty("network.healthcheck")).To(Succeed())
			g.Networker = plainNetworker{server.Networker}
			metrics, err = c.Metrics()
			Expect(err).NotTo(HaveOccurred())
			Expect(metrics.NetworkStat).To(BeNil())
		})
	})
})
