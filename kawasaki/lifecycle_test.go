package kawasaki_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/kawasaki"
	"github.com/verger-garden/verger/kawasaki/subnets"
)

var _ = Describe("New", func() {
	DescribeTable("refuses",
		func(change func(*kawasaki.Config), complaint string) {
			c := kawasaki.Config{Dir: "/nowhere"}
			change(&c)
			_, err := kawasaki.New(c)
			Expect(err).To(MatchError(ContainSubstring(complaint)))
		},
		Entry("no folder", func(c *kawasaki.Config) { c.Dir = "" }, "no folder for leases"),
		Entry("a long tag", func(c *kawasaki.Config) { c.Tag = "abc" }, "tag abc: use at most two letters or digits"),
		Entry("a tiny pool", func(c *kawasaki.Config) { c.Pool = netip.MustParsePrefix("10.0.0.0/31") }, "must be an IPv4 prefix of /30 or larger"),
		Entry("a negative MTU", func(c *kawasaki.Config) { c.MTU = -1 }, "mtu -1"),
	)

	It("touches nothing", func() {
		dir := filepath.Join(GinkgoT().TempDir(), "network")
		n, err := kawasaki.New(kawasaki.Config{Dir: dir, Iptables: "/no/such"})
		Expect(err).NotTo(HaveOccurred())
		Expect(dir).NotTo(BeADirectory())
		Expect(n.Capacity()).To(Equal(uint64(256)))
		Expect(n.Handles()).To(BeEmpty())
		Expect(n.Stop()).To(Succeed())
	})
})

var _ = Describe("a networker", func() {
	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", "iptables")
		leakFree()
	})

	settled := func(h *house) {
		GinkgoHelper()
		Eventually(func() []string { return folders(h) }).Should(BeEmpty())
	}

	Describe("Start", func() {
		It("fails if iptables is missing, and works once it is there", func() {
			c := kawasaki.Config{Dir: GinkgoT().TempDir(), Iptables: "/no/such/iptables"}
			n, err := kawasaki.New(c)
			Expect(err).NotTo(HaveOccurred())
			Expect(n.Start()).To(MatchError(ContainSubstring("/no/such/iptables not found")))
			Expect(n.Stop()).To(Succeed())
		})

		It("has the host forward packets", func() {
			sysctl("net/ipv4/ip_forward", "0")
			newHouse(nil)
			Expect(os.ReadFile("/proc/sys/net/ipv4/ip_forward")).To(BeEquivalentTo("1\n"))
		})

		It("sets unreadable leases aside and goes on", func() {
			h := newHouse(nil)
			good, bad, alien := h.connect("good"), h.connect("bad"), h.connect("alien")
			Expect(h.Stop()).To(Succeed())
			Expect(os.WriteFile(h.file("bad", "lease.json"), []byte(`{"handle":"ba`), 0o600)).To(Succeed())
			Expect(os.WriteFile(h.file("alien", "lease.json"), must(os.ReadFile(h.file("good", "lease.json"))), 0o600)).To(Succeed())
			h.again()
			Expect(h.file("bad", "lease.json.bad")).To(BeARegularFile())
			Expect(h.file("alien", "lease.json.bad")).To(BeARegularFile())
			Expect(h.Handles()).To(ConsistOf("good", "bad", "alien"))
			Expect(h.Restore(log, "good")).To(Succeed())
			Expect(h.Restore(log, "bad")).To(MatchError(ContainSubstring("restore network of bad: no lease in ")))
			Expect(ping(good.address())).To(Succeed())
			// Nobody knows what those may do, so they may do nothing.
			for _, s := range []*sandbox{bad, alien} {
				_, err := netlink.LinkByName(s.props["kawasaki.host-interface"])
				Expect(err).To(HaveOccurred())
				Expect(run("iptables-save")).NotTo(ContainSubstring(s.props["kawasaki.iptable-inst"]))
			}
			Expect(h.Destroy(log, "bad")).To(Succeed())
			Expect(h.Destroy(log, "alien")).To(Succeed())
			Expect(h.Handles()).To(ConsistOf("good"))
		})

		It("removes stray links of its own and no others", func() {
			h := newHouse(nil)
			Expect(h.Stop()).To(Succeed())
			foreign := []string{"wlan0", "wbrdg0", "wxbrdg-0afe0000", "wg0"}
			for _, name := range append([]string{"wbrdg-0afe0004"}, foreign...) {
				bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
				Expect(netlink.LinkAdd(bridge)).To(Succeed())
				if name != "wbrdg-0afe0004" {
					DeferCleanup(netlink.LinkDel, bridge)
				}
			}
			h.again()
			_, err := netlink.LinkByName("wbrdg-0afe0004")
			Expect(err).To(HaveOccurred())
			for _, name := range foreign {
				_, err := netlink.LinkByName(name)
				Expect(err).NotTo(HaveOccurred())
			}
		})
	})

	Describe("a container's network", func() {
		It("is told as properties, in one call", func() {
			newOutside()
			h := newHouse(func(c *kawasaki.Config) {
				c.Tag = "t1"
				c.DNSServers = []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.4.4")}
				c.AdditionalHostEntries = []string{"1.2.3.4 a", "1.2.3.5 b"}
			})
			s := h.connect("one")
			id := s.props["kawasaki.iptable-inst"]
			Expect(id).To(MatchRegexp("^[0-9a-z]{10}$"))
			Expect(s.props).To(Equal(garden.Properties{
				"garden.network.container-ip":  "10.254.0.2",
				"garden.network.host-ip":       "10.254.0.1",
				"garden.network.external-ip":   "192.0.2.1",
				"garden.network.interface":     "wt1" + id + "-1",
				"kawasaki.host-interface":      "wt1" + id + "-0",
				"kawasaki.container-interface": "wt1" + id + "-1",
				"kawasaki.bridge-interface":    "wt1brdg0afe0000",
				"kawasaki.subnet":              "10.254.0.0/30",
				"kawasaki.iptable-prefix":      "w-t1-",
				"kawasaki.iptable-inst":        id,
				"kawasaki.mtu":                 "1400",
				"kawasaki.dns-servers":         "8.8.8.8, 8.8.4.4",
				"kawasaki.host-entries":        "1.2.3.4 a, 1.2.3.5 b",
			}))
		})

		It("shows the host's address, or the first there is, or the loopback's", func() {
			external := func(h *house, handle string) string {
				GinkgoHelper()
				return h.connect(handle).props["garden.network.external-ip"]
			}
			h := newHouse(nil)
			Expect(external(h, "one")).To(Equal("127.0.0.1"))
			Expect(h.Stop()).To(Succeed())
			h.again()
			Expect(external(h, "two")).To(Equal("127.0.0.1")) // not the gateway of one
			Expect(h.Stop()).To(Succeed())

			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
			Expect(netlink.LinkAdd(bridge)).To(Succeed())
			DeferCleanup(netlink.LinkDel, bridge)
			up("eth0", "169.254.1.1/16", "198.51.100.7/24")
			h.again()
			Expect(external(h, "three")).To(Equal("198.51.100.7"))
			Expect(h.Stop()).To(Succeed())

			newOutside()
			h.again()
			Expect(external(h, "four")).To(Equal("192.0.2.1"))
			Expect(h.Stop()).To(Succeed())

			h.config.ExternalIP = netip.MustParseAddr("203.0.113.9")
			h.again()
			Expect(external(h, "five")).To(Equal("203.0.113.9"))
		})

		It("is made in spite of links that vanish meanwhile", func() {
			h := newHouse(nil)
			Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: "one"})).To(Succeed())
			Eventually(run).WithArguments("iptables-save").Should(ContainSubstring("--comment one "))
			Expect(netlink.LinkDel(must(netlink.LinkByName("wbrdg-0afe0000")))).To(Succeed())
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, newSandbox(0).pid)).To(Succeed())
			Expect(ping("10.254.0.2")).To(Succeed())
		})

		DescribeTable("has the MTU",
			func(mtu, want int) {
				newOutside() // the default route's link has 1400
				s := newHouse(func(c *kawasaki.Config) { c.MTU = mtu }).connect("one")
				for _, name := range []string{s.bridge(), s.props["kawasaki.host-interface"]} {
					Expect(must(netlink.LinkByName(name)).Attrs().MTU).To(Equal(want))
				}
				s.do(func() { Expect(must(netlink.LinkByName(s.link())).Attrs().MTU).To(Equal(want)) })
			},
			Entry("of the host's default route", 0, 1400),
			Entry("that was asked for", 1450, 1450),
			Entry("of at most 1500", 9000, 1500),
		)

		It("has a bridge that does not snoop, one address, one default route, and a loopback", func() {
			s := newHouse(nil).connect("one")
			Expect(*must(netlink.LinkByName(s.bridge())).(*netlink.Bridge).MulticastSnooping).To(BeFalse())
			s.do(func() {
				link := must(netlink.LinkByName(s.link()))
				addresses := must(netlink.AddrList(link, netlink.FAMILY_V4))
				Expect(addresses).To(HaveLen(1))
				Expect(addresses[0].IPNet.String()).To(Equal("10.254.0.2/30"))
				routes := must(netlink.RouteList(link, netlink.FAMILY_V4))
				Expect(routes).To(HaveLen(2))
				Expect(routes[0].Gw.String()).To(Equal("10.254.0.1"))
				Expect(must(netlink.LinkByName("lo")).Attrs().Flags & net.FlagUp).NotTo(BeZero())
			})
		})

		It("works in a user namespace", func() {
			h := newHouse(nil)
			s := newSandbox(syscall.CLONE_NEWUSER)
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, s.pid)).To(Succeed())
			Expect(ping(h.props.of("one")["garden.network.container-ip"])).To(Succeed())
		})

		It("lets the very first packet through", func() {
			h := newHouse(nil)
			for i := range 20 {
				Expect(ping(h.connect(fmt.Sprint("c", i)).address())).To(Succeed())
			}
		})

		It("is made again if it is there already", func() {
			h := newHouse(nil)
			h.connect("one")
			s := newSandbox(0)
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, s.pid)).To(Succeed())
			Expect(ping("10.254.0.2")).To(Succeed())
		})

		It("is nothing the host's own processes can get", func() {
			h := newHouse(nil)
			before := look().Links
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, os.Getpid())).
				To(MatchError(ContainSubstring("has no network namespace of its own")))
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, 1<<30)).
				To(MatchError(ContainSubstring("open network namespace")))
			Expect(h.Destroy(log, "one")).To(Succeed())
			Expect(h.Stop()).To(Succeed())
			Expect(look().Links).To(Equal(before))
		})

		DescribeTable("cannot be wished for yet",
			func(spec garden.ContainerSpec, complaint string) {
				h := newHouse(nil)
				spec.Handle = "one"
				Expect(h.PrepareNetwork(log, spec)).To(MatchError(complaint))
				Expect(h.Network(log, spec, 1)).To(MatchError(complaint))
				Expect(h.Handles()).To(BeEmpty())
			},
			Entry("by address", garden.ContainerSpec{Network: "10.0.0.0/24"}, `network "10.0.0.0/24": this server gives out addresses by itself and takes no wishes yet`),
			Entry("by port", garden.ContainerSpec{NetIn: []garden.NetIn{{}}}, "net in: this server does not map ports yet"),
			Entry("by rule", garden.ContainerSpec{NetOut: []garden.NetOutRule{{}}}, "net out: this server does not take rules yet"),
		)

		It("takes no ports and rules later either", func() {
			h := newHouse(nil)
			_, _, err := h.NetIn(log, "one", 1, 2)
			Expect(err).To(MatchError("net in: this server does not map ports yet"))
			Expect(h.NetOut(log, "one", garden.NetOutRule{})).To(MatchError("net out: this server does not take rules yet"))
			Expect(h.BulkNetOut(log, "one", []garden.NetOutRule{{}})).To(MatchError("net out: this server does not take rules yet"))
			Expect(h.BulkNetOut(log, "one", nil)).To(Succeed())
		})

		It("fails clearly if the properties cannot be kept", func() {
			h := newHouse(func(c *kawasaki.Config) { c.Properties = brokenProperties{} })
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, newSandbox(0).pid)).
				To(MatchError("record network properties: disk full"))
		})

		It("fails clearly if the firewall does", func() {
			dir := GinkgoT().TempDir()
			broken := filepath.Join(dir, "broken")
			for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
				Expect(os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ntest -e "+broken+" && exit 7\nexec "+name+" \"$@\"\n"), 0o755)).To(Succeed())
			}
			h := newHouse(func(c *kawasaki.Config) { c.IptablesRestore = filepath.Join(dir, "iptables-restore") })
			Expect(os.WriteFile(broken, nil, 0o600)).To(Succeed())
			s := newSandbox(0)
			Expect(h.Network(log, garden.ContainerSpec{Handle: "one"}, s.pid)).To(MatchError(ContainSubstring("exit status 7")))
			Expect(os.Remove(broken)).To(Succeed())
			Expect(h.Destroy(log, "one")).To(Succeed())
			settled(h)
		})
	})

	Describe("DNS files", func() {
		It("belong to the container's root and say what it needs", func() {
			h := newHouse(func(c *kawasaki.Config) {
				c.ContainerRootUID, c.ContainerRootGID = 4000000000, 4000000001
				c.DNSServers = []netip.Addr{netip.MustParseAddr("8.8.8.8")}
				c.AdditionalHostEntries = []string{"1.2.3.4 a"}
			})
			for handle, owner := range map[string][2]uint32{"unprivileged": {4000000000, 4000000001}, "privileged": {0, 0}} {
				mounts, err := h.SetupBindMounts(log, handle, handle == "privileged", "/rootfs")
				Expect(err).NotTo(HaveOccurred())
				Expect(mounts).To(Equal([]garden.BindMount{
					{SrcPath: h.file(handle, "hosts"), DstPath: "/etc/hosts", Mode: garden.BindMountModeRW, Origin: garden.BindMountOriginHost},
					{SrcPath: h.file(handle, "resolv.conf"), DstPath: "/etc/resolv.conf", Mode: garden.BindMountModeRW, Origin: garden.BindMountOriginHost},
				}))
				for _, m := range mounts {
					info := must(os.Stat(m.SrcPath))
					Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o644)))
					Expect([2]uint32{info.Sys().(*syscall.Stat_t).Uid, info.Sys().(*syscall.Stat_t).Gid}).To(Equal(owner))
				}
				Expect(string(must(os.ReadFile(mounts[0].SrcPath)))).To(MatchRegexp("^127.0.0.1 localhost\n10.254.0.[0-9]+ " + handle + "\n1.2.3.4 a\n$"))
				Expect(string(must(os.ReadFile(mounts[1].SrcPath)))).To(HavePrefix("nameserver 8.8.8.8\n"))
			}
		})

		It("are refused for what is no handle", func() {
			h := newHouse(nil)
			for _, bad := range []string{"", ".", "..", "../x", "a/b", ".resting-x", strings.Repeat("x", 256)} {
				_, err := h.SetupBindMounts(log, bad, false, "")
				Expect(err).To(MatchError(ContainSubstring("invalid handle")))
				Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: bad})).To(MatchError(ContainSubstring("invalid handle")))
				Expect(h.Destroy(log, bad)).To(MatchError(ContainSubstring("invalid handle")))
				Expect(h.Restore(log, bad)).To(MatchError(ContainSubstring("invalid handle")))
			}
		})
	})

	Describe("Destroy", func() {
		It("takes unknown handles as done", func() {
			h := newHouse(nil)
			Expect(h.Destroy(log, "nobody")).To(Succeed())
		})

		It("removes leftovers of a handle", func() {
			h := newHouse(nil)
			Expect(os.MkdirAll(h.file("half", "x"), 0o755)).To(Succeed())
			Expect(h.Handles()).To(ConsistOf("half"))
			Expect(h.Destroy(log, "half")).To(Succeed())
			Expect(h.Handles()).To(BeEmpty())
		})

		It("leaves nothing", func() {
			h := newHouse(nil)
			before := look()
			s := h.connect("one")
			h.destroy(s)
			Expect(h.Handles()).To(BeEmpty())
			Expect(h.Destroy(log, "one")).To(Succeed())
			Expect(h.Stop()).To(Succeed())
			Expect(folders(h)).To(BeEmpty())
			Expect(testhost.Diff(before, look())).To(BeEmpty())
		})

		It("cuts off even a container that lives on", func() {
			h := newHouse(nil)
			s := h.connect("one")
			Expect(h.Destroy(log, "one")).To(Succeed())
			settled(h)
			s.do(func() {
				_, err := netlink.LinkByName(s.link())
				Expect(err).To(HaveOccurred())
			})
		})

		It("frees the handle at once", func() {
			h := newHouse(nil)
			for range 5 {
				s := h.connect("same")
				Expect(ping(s.address())).To(Succeed())
				h.destroy(s)
			}
		})

		It("does not disturb the others", func() {
			h := newHouse(nil)
			one, two := h.connect("one"), h.connect("two")
			h.destroy(one)
			Eventually(func() []string { return folders(h) }).Should(ConsistOf("two"))
			Expect(ping(two.address())).To(Succeed())
		})

		It("tries again what it could not take back", func() {
			dir := GinkgoT().TempDir()
			broken := filepath.Join(dir, "broken")
			for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
				Expect(os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ntest -e "+broken+" && exit 7\nexec "+name+" \"$@\"\n"), 0o755)).To(Succeed())
			}
			h := newHouse(func(c *kawasaki.Config) { c.IptablesRestore = filepath.Join(dir, "iptables-restore") })
			s := h.connect("one")
			Expect(os.WriteFile(broken, nil, 0o600)).To(Succeed())
			h.destroy(s)
			Consistently(func() []string { return folders(h) }, 3*silence).Should(HaveLen(1))
			Expect(h.Handles()).To(BeEmpty())
			Expect(os.Remove(broken)).To(Succeed())
			settled(h)
		})

		It("has its work finished by Stop", func() {
			h := newHouse(nil)
			for i := range 5 {
				h.destroy(h.connect(fmt.Sprint("c", i)))
			}
			Expect(h.Stop()).To(Succeed())
			Expect(folders(h)).To(BeEmpty())
			Expect(h.Stop()).To(Succeed())
		})

		It("makes the kernel forget the container's flows", func() {
			h := newHouse(nil)
			s := h.connect("one")
			Expect(ping(s.address())).To(Succeed())
			flows := func() (n int) {
				for _, f := range must(netlink.ConntrackTableList(netlink.ConntrackTable, syscall.AF_INET)) {
					if f.Forward.DstIP.String() == s.address() {
						n++
					}
				}
				return n
			}
			Expect(flows()).NotTo(BeZero())
			h.destroy(s)
			Eventually(flows).Should(BeZero())
		})
	})

	Describe("the pool", func() {
		small := func(c *kawasaki.Config) { c.Pool = netip.MustParsePrefix("10.254.0.0/29") }

		It("says what to do when it is exhausted", func() {
			h := newHouse(small)
			h.connect("one")
			h.connect("two")
			err := h.PrepareNetwork(log, garden.ContainerSpec{Handle: "three"})
			Expect(err).To(MatchError(subnets.ErrExhausted))
			Expect(err).To(MatchError("insufficient subnets remaining in the pool: 2 of 2 /30 subnets of 10.254.0.0/29 in use; enlarge it with --network-pool"))
			Expect(h.Handles()).To(ConsistOf("one", "two"))
			Expect(h.Destroy(log, "three")).To(Succeed())
		})

		It("has creates wait for what rests, which rests a second", func() {
			h := newHouse(small)
			s := h.connect("one")
			h.connect("two")
			h.destroy(s)
			start := time.Now()
			again := h.connect("three")
			Expect(time.Since(start)).To(And(BeNumerically(">=", time.Second), BeNumerically("<", 5*time.Second)))
			Expect(again.address()).To(Equal(s.address()))
			Expect(ping(again.address())).To(Succeed())
		})

		It("gets back what could not be recorded", func() {
			h := newHouse(func(c *kawasaki.Config) { c.Pool = netip.MustParsePrefix("10.254.0.0/30") })
			Expect(os.WriteFile(h.file("one", ""), nil, 0o600)).To(Succeed())
			Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: "one"})).To(MatchError(ContainSubstring("not a directory")))
			h.connect("two")
		})

		It("knows the addresses of an earlier server", func() {
			h := newHouse(small)
			h.connect("one")
			Expect(h.Stop()).To(Succeed())
			h.again()
			Expect(h.connect("two").address()).To(Equal("10.254.0.6"))
			Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: "three"})).To(MatchError(subnets.ErrExhausted))
		})

		It("is refused if the host routes a part of it to somebody else", func() {
			h := newHouse(small)
			s := h.connect("one")
			Expect(h.Stop()).To(Succeed())
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "somebodys0"}}
			Expect(netlink.LinkAdd(bridge)).To(Succeed())
			DeferCleanup(netlink.LinkDel, bridge)
			Expect(netlink.LinkSetUp(bridge)).To(Succeed())
			Expect(netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 254, 0, 5), Mask: net.CIDRMask(30, 32)}})).To(Succeed())
			second, err := kawasaki.New(h.config)
			Expect(err).NotTo(HaveOccurred())
			Expect(second.Start()).To(MatchError("network pool 10.254.0.0/29 overlaps the route to 10.254.0.4/30 by somebodys0: choose another with --network-pool"))
			Expect(second.Stop()).To(Succeed())
			h.config.Pool = netip.MustParsePrefix("10.253.0.0/29")
			h.again() // its own container's route is no obstacle
			Expect(ping(s.address())).To(Succeed())
		})

		It("may be another one after a restart", func() {
			h := newHouse(small)
			s := h.connect("one")
			Expect(h.Stop()).To(Succeed())
			h.config.Pool = netip.MustParsePrefix("10.253.0.0/29")
			h.again()
			Expect(h.Restore(log, "one")).To(Succeed())
			Expect(ping(s.address())).To(Succeed())
			Expect(h.connect("two").address()).To(Equal("10.253.0.2"))
		})
	})

	Describe("the bridge of a container that is gone", func() {
		index := func(name string) int {
			GinkgoHelper()
			return must(netlink.LinkByName(name)).Attrs().Index
		}
		stands := func(name string) bool {
			_, err := netlink.LinkByName(name)
			return err == nil
		}
		single := func(c *kawasaki.Config) {
			c.Pool = netip.MustParsePrefix("10.254.0.0/30")
			c.BridgeIdle = 1500 * time.Millisecond
		}

		It("serves the next one, from the first packet on", func() {
			// So the kernel keeps what it has learnt about the last one.
			sysctl("net/ipv4/conf/default/arp_evict_nocarrier", "0")
			h := newHouse(single)
			one := h.connect("one")
			Expect(ping(one.address())).To(Succeed())
			bridge := index(one.bridge())
			h.destroy(one)
			two := h.connect("two")
			Expect(two.bridge()).To(Equal(one.bridge()))
			Expect(index(two.bridge())).To(Equal(bridge))
			Expect(ping(two.address())).To(Succeed())
		})

		It("stays while that one lives, and goes when nobody has wanted it for a while", func() {
			h := newHouse(single)
			before := look()
			one := h.connect("one")
			bridge := index(one.bridge())
			h.destroy(one)
			two := h.connect("two") // when the bridge has been idle for a second
			Consistently(func() int { return index(two.bridge()) }, time.Second).Should(Equal(bridge))
			Expect(ping(two.address())).To(Succeed())
			h.destroy(two)
			settled(h)
			released := time.Now()
			Expect(stands(two.bridge())).To(BeTrue())
			Eventually(stands).WithArguments(two.bridge()).Should(BeFalse())
			Expect(time.Since(released)).To(BeNumerically(">", time.Second))
			Expect(testhost.Diff(before, look())).To(BeEmpty())
			Expect(ping(h.connect("three").address())).To(Succeed())
		})

		It("goes with Stop at once", func() {
			h := newHouse(nil)
			one, two := h.connect("one"), h.connect("two")
			h.destroy(one)
			Eventually(folders).WithArguments(h).Should(ConsistOf("two"))
			Expect(stands(one.bridge())).To(BeTrue())
			Expect(h.Stop()).To(Succeed())
			Expect(stands(one.bridge())).To(BeFalse())
			Expect(ping(two.address())).To(Succeed())
		})

		It("goes with the start after a crash", func() {
			// What stands for the crashed server is to do nothing any more.
			h := newHouse(func(c *kawasaki.Config) { c.BridgeIdle = time.Hour })
			one := h.connect("one")
			h.destroy(one)
			settled(h)
			Expect(stands(one.bridge())).To(BeTrue())
			h.again()
			Expect(stands(one.bridge())).To(BeFalse())
		})

		It("goes with it if its subnet is not the pool's", func() {
			h := newHouse(single)
			s := h.connect("one")
			Expect(h.Stop()).To(Succeed())
			h.config.Pool = netip.MustParsePrefix("10.253.0.0/30")
			h.again()
			h.destroy(s)
			settled(h)
			Expect(stands(s.bridge())).To(BeFalse())
		})
	})

	Describe("after a crash", func() {
		// crash leaves the old server as it is and starts a new one.
		crash := func(h *house) { h.again() }

		It("goes on with containers that are connected", func() {
			h := newHouse(nil)
			s := h.connect("one")
			before := run("iptables-save", "-t", "filter")
			crash(h)
			Expect(h.Handles()).To(ConsistOf("one"))
			Expect(h.Restore(log, "one")).To(Succeed())
			Expect(stripped(run("iptables-save", "-t", "filter"))).To(Equal(stripped(before)))
			Expect(ping(s.address())).To(Succeed())
			h.destroy(s)
			settled(h)
		})

		It("undoes what was only prepared", func() {
			h := newHouse(nil)
			Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: "one"})).To(Succeed())
			Expect(h.Stop()).To(Succeed()) // waits for the work in the background
			crash(h)
			Expect(h.Handles()).To(ConsistOf("one"))
			Expect(h.Destroy(log, "one")).To(Succeed())
			settled(h)
		})

		It("undoes what was recorded and no more", func() {
			h := newHouse(nil)
			s := h.connect("one")
			h.destroy(s)
			lease := `{"handle":"two","id":"0123456789","subnet":"10.254.0.8/30","gateway":"10.254.0.9","address":"10.254.0.10"}`
			Expect(os.MkdirAll(h.file("two", ""), 0o755)).To(Succeed())
			Expect(os.WriteFile(h.file("two", "lease.json"), []byte(lease), 0o600)).To(Succeed())
			Expect(h.Stop()).To(Succeed())
			crash(h)
			Expect(h.Restore(log, "two")).To(Succeed()) // its process is gone, that is all
			Expect(h.Destroy(log, "two")).To(Succeed())
			settled(h)
		})

		It("finishes what rested", func() {
			h := newHouse(nil)
			s := h.connect("one")
			id := s.props["kawasaki.iptable-inst"]
			s.end()
			// As Destroy leaves it before the worker runs.
			Expect(os.Rename(h.file("one", ""), h.file(".resting-"+id, ""))).To(Succeed())
			Expect(os.MkdirAll(h.file(".resting-torn", ""), 0o755)).To(Succeed())
			crash(h)
			Expect(h.Handles()).To(BeEmpty())
			settled(h)
			Expect(run("iptables-save")).NotTo(ContainSubstring(id))
		})

		It("has creates wait for what rested", func() {
			h := newHouse(func(c *kawasaki.Config) { c.Pool = netip.MustParsePrefix("10.254.0.0/30") })
			s := h.connect("one")
			s.end()
			Expect(os.Rename(h.file("one", ""), h.file(".resting-"+s.props["kawasaki.iptable-inst"], ""))).To(Succeed())
			crash(h)
			Expect(h.connect("two").address()).To(Equal(s.address()))
		})

		It("writes rules that were flushed meanwhile", func() {
			h := newHouse(nil)
			s := h.connect("one")
			crash(h)
			run("iptables", "-F", "w--forward")
			run("iptables", "-F", "INPUT")
			Expect(h.Restore(log, "one")).To(Succeed())
			serve(onHost, "0.0.0.0:8080")
			_, err := call(s.do, s.gateway()+":8080")
			Expect(err).To(refused())
			Expect(run("iptables", "-S", "w--forward")).To(ContainSubstring("--comment one "))
		})

		It("makes a bridge that was removed meanwhile", func() {
			h := newHouse(nil)
			s := h.connect("one")
			crash(h)
			Expect(netlink.LinkDel(must(netlink.LinkByName(s.bridge())))).To(Succeed())
			Expect(ping(s.address())).NotTo(Succeed())
			Expect(h.Restore(log, "one")).To(Succeed())
			Eventually(ping).WithArguments(s.address()).Should(Succeed())
		})

		It("takes a container whose process has ended as restored", func() {
			h := newHouse(nil)
			s := h.connect("one")
			s.end()
			Eventually(func() error {
				_, err := netlink.LinkByName(s.props["kawasaki.host-interface"])
				return err
			}).Should(HaveOccurred())
			crash(h)
			Expect(h.Restore(log, "one")).To(Succeed())
		})
	})

	It("serves many at once and keeps them apart", func() {
		h := newHouse(func(c *kawasaki.Config) { c.Pool = netip.MustParsePrefix("10.254.0.0/25") })
		before := look()
		var mu sync.Mutex
		inUse := map[string]string{}
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				defer GinkgoRecover()
				for round := range 15 {
					handle := fmt.Sprintf("w%d-%d", worker, round)
					Expect(h.PrepareNetwork(log, garden.ContainerSpec{Handle: handle})).To(Succeed())
					_, err := h.SetupBindMounts(log, handle, false, "")
					Expect(err).NotTo(HaveOccurred())
					s := newSandbox(0)
					Expect(h.Network(log, garden.ContainerSpec{Handle: handle}, s.pid)).To(Succeed())
					address := h.props.of(handle)["garden.network.container-ip"]
					mu.Lock()
					Expect(inUse).NotTo(HaveKey(address))
					inUse[address] = handle
					mu.Unlock()
					Expect(ping(address)).To(Succeed())
					s.end()
					mu.Lock()
					delete(inUse, address)
					mu.Unlock()
					Expect(h.Destroy(log, handle)).To(Succeed())
				}
			})
		}
		wg.Wait()
		Expect(h.Stop()).To(Succeed())
		Expect(folders(h)).To(BeEmpty())
		Expect(testhost.Diff(before, look())).To(BeEmpty())
	})
})

func (h *house) file(handle, name string) string { return filepath.Join(h.config.Dir, handle, name) }

// folders lists what is in the networker's folder, resting leases included.
func folders(h *house) []string {
	var out []string
	for _, e := range must(os.ReadDir(h.config.Dir)) {
		out = append(out, e.Name())
	}
	return out
}

func must[T any](v T, err error) T {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
	return v
}

// stripped are the rules of iptables-save, without counters and dates.
func stripped(saved string) []string {
	var out []string
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "-A") {
			out = append(out, line)
		}
	}
	return out
}

type brokenProperties struct{}

func (brokenProperties) SetAll(string, garden.Properties) error { return errors.New("disk full") }
