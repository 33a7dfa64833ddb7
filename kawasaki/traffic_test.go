package kawasaki_test

import (
	"net"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/kawasaki"
)

var _ = DescribeTableSubtree("traffic, filtered by", func(program string) {
	var outside *sandbox

	start := func(change func(*kawasaki.Config)) *house {
		GinkgoHelper()
		return newHouse(func(c *kawasaki.Config) {
			c.Iptables = program
			if change != nil {
				change(c)
			}
		})
	}

	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", program)
		leakFree()
		outside = newOutside()
		// The host's own check of sources must not stand in for ours.
		sysctl("net/ipv4/conf/all/rp_filter", "0")
		sysctl("net/ipv4/conf/default/rp_filter", "0")
		// Rejections come as fast as tests provoke them.
		sysctl("net/ipv4/icmp_ratelimit", "0")
	})

	It("reaches the outside under the host's address", func() {
		serve(outside.do, "192.0.2.2:80")
		Expect(call(start(nil).connect("one").do, "192.0.2.2:80")).To(Equal("192.0.2.1"))
	})

	It("does so whatever the host's policy for forwarding is", func() {
		run(program, "-P", "FORWARD", "DROP")
		DeferCleanup(run, program, "-P", "FORWARD", "ACCEPT")
		serve(outside.do, "192.0.2.2:80")
		h := start(nil)
		one, two := h.connect("one"), h.connect("two")
		serve(two.do, two.address()+":80")
		Expect(call(one.do, "192.0.2.2:80")).To(Equal("192.0.2.1"))
		Expect(call(one.do, two.address()+":80")).NotTo(BeEmpty())
	})

	It("passes between containers", func() {
		h := start(nil)
		one, two := h.connect("one"), h.connect("two")
		serve(two.do, two.address()+":80")
		Expect(call(one.do, two.address()+":80")).NotTo(BeEmpty())
	})

	It("passes from the host to a container, and back", func() {
		one := start(nil).connect("one")
		serve(one.do, one.address()+":80")
		Expect(call(onHost, one.address()+":80")).To(Equal(one.gateway()))
		Expect(ping(one.address())).To(Succeed())
	})

	It("is rejected at every address of the host", func() {
		lo, err := netlink.LinkByName("lo")
		Expect(err).NotTo(HaveOccurred())
		link, err := netlink.ParseAddr("169.254.7.7/32")
		Expect(err).NotTo(HaveOccurred())
		Expect(netlink.AddrAdd(lo, link)).To(Succeed())
		DeferCleanup(netlink.AddrDel, lo, link)
		h := start(nil)
		one, two := h.connect("one"), h.connect("two")
		serve(onHost, "0.0.0.0:8080")
		for _, address := range []string{one.gateway(), two.gateway(), "192.0.2.1", "169.254.7.7"} {
			_, err := call(one.do, address+":8080")
			Expect(err).To(refused(), address)
			Expect(hear(onHost, address+":9")(one.do, one.address())).To(BeEmpty(), address)
		}
		Expect(call(onHost, "192.0.2.1:8080")).To(Equal("192.0.2.1"))
	})

	It("reaches the host if that is allowed, also in containers of an earlier server", func() {
		h := start(nil)
		one := h.connect("one")
		serve(onHost, "0.0.0.0:8080")
		_, err := call(one.do, "192.0.2.1:8080")
		Expect(err).To(refused())

		Expect(h.Stop()).To(Succeed())
		h.config.AllowHostAccess = true
		h.again()
		Expect(call(one.do, one.gateway()+":8080")).To(Equal(one.address()))
		Expect(call(one.do, "192.0.2.1:8080")).To(Equal(one.address()))
	})

	It("reaches the operator's DNS server on the host, and no other service there", func() {
		h := start(func(c *kawasaki.Config) { c.DNSServers = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
		one := h.connect("one")
		serve(onHost, "0.0.0.0:53")
		serve(onHost, "0.0.0.0:54")
		Expect(call(one.do, "192.0.2.1:53")).To(Equal(one.address()))
		Expect(hear(onHost, "192.0.2.1:53")(one.do, one.address())).To(Equal(one.address()))
		_, err := call(one.do, "192.0.2.1:54")
		Expect(err).To(refused())
		_, err = call(one.do, one.gateway()+":53")
		Expect(err).To(refused())
	})

	It("is rejected towards denied networks, also in containers of an earlier server", func() {
		outside.do(func() { up("up1", "192.0.2.66/32") })
		serve(outside.do, "192.0.2.2:80")
		serve(outside.do, "192.0.2.66:80")
		h := start(nil)
		one := h.connect("one")
		Expect(call(one.do, "192.0.2.66:80")).To(Equal("192.0.2.1"))

		Expect(h.Stop()).To(Succeed())
		h.config.DenyNetworks = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}
		h.again()
		two := h.connect("two")
		for _, s := range []*sandbox{one, two} {
			_, err := call(s.do, "192.0.2.66:80")
			Expect(err).To(refused())
			Expect(call(s.do, "192.0.2.2:80")).To(Equal("192.0.2.1"))
		}
	})

	It("is dropped if its source is not the container's own address", func() {
		h := start(func(c *kawasaki.Config) { c.AllowHostAccess = true })
		one, two := h.connect("one"), h.connect("two")
		targets := map[string]func(func(func()), ...string) string{
			"192.0.2.2":   hear(outside.do, "192.0.2.2:9"),
			"192.0.2.1":   hear(onHost, "192.0.2.1:9"),
			two.address(): hear(two.do, two.address()+":9"),
		}
		for target, send := range targets {
			Expect(send(one.do, one.address())).To(Equal(one.address()), target)
		}
		// Two's address comes last: with it, one sends to two no more but to itself.
		for _, source := range []string{strings.TrimSuffix(one.gateway(), "1") + "0", "10.99.0.9", two.address()} {
			one.do(func() { up(one.link(), source+"/32") })
			for target, send := range targets {
				if source != target {
					// What follows passes, so what went before has not.
					Expect(send(one.do, source, one.address())).To(Equal(one.address()), "to "+target+" from "+source)
				}
			}
		}
		// Nothing but the rules has dropped them.
		run(program, "-F", "INPUT")
		run(program, "-F", "FORWARD")
		Expect(targets["192.0.2.2"](one.do, "10.99.0.9", one.address())).To(Equal("10.99.0.9"))
		Expect(targets["192.0.2.1"](one.do, "10.99.0.9", one.address())).To(Equal("10.99.0.9"))
	})

	Describe("over IPv6", func() {
		six := strings.Replace(program, "iptables", "ip6tables", 1)
		enable := func(link string, addresses ...string) {
			GinkgoHelper()
			sysctl("net/ipv6/conf/"+link+"/accept_dad", "0")
			sysctl("net/ipv6/conf/"+link+"/disable_ipv6", "0")
			up(link, addresses...)
		}

		It("does not exist at first", func() {
			one := start(nil).connect("one")
			local := func() []string {
				var out []string
				links, err := netlink.LinkList()
				Expect(err).NotTo(HaveOccurred())
				for _, l := range links {
					if l.Attrs().Name == "lo" || l.Attrs().Name == "up0" {
						continue
					}
					addresses, err := netlink.AddrList(l, netlink.FAMILY_V6)
					Expect(err).NotTo(HaveOccurred())
					for _, a := range addresses {
						out = append(out, a.String())
					}
				}
				return out
			}
			Consistently(local, silence).Should(BeEmpty())
			one.do(func() { Expect(local()).To(BeEmpty()) })
		})

		It("is dropped towards the host, whatever both have switched on", func() {
			one := start(func(c *kawasaki.Config) { c.AllowHostAccess = true }).connect("one")
			enable(one.bridge(), "fe80::1/64", "fd00::1/64")
			one.do(func() { enable(one.link(), "fe80::2/64", "fd00::2/64") })
			serve(onHost, "[::]:8080")
			for _, address := range []string{"[fe80::1%" + one.link() + "]:8080", "[fd00::1]:8080"} {
				_, err := call(one.do, address)
				Expect(err).To(lost(), address)
			}
			run(six, "-F", "INPUT")
			Eventually(call).WithArguments(one.do, "[fe80::1%"+one.link()+"]:8080").Should(HavePrefix("fe80::"))
			Eventually(call).WithArguments(one.do, "[fd00::1]:8080").Should(Equal("fd00::2"))
		})

		It("is dropped towards other containers and the outside", func() {
			h := start(nil)
			one, two := h.connect("one"), h.connect("two")
			sysctl("net/ipv6/conf/all/forwarding", "1")
			for i, s := range []*sandbox{one, two} {
				network := []string{"fd00:1::", "fd00:2::"}[i]
				enable(s.bridge(), network+"1/64")
				s.do(func() {
					enable(s.link(), network+"2/64")
					Expect(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(network + "1")})).To(Succeed())
				})
			}
			serve(two.do, "[fd00:2::2]:80")
			_, err := call(one.do, "[fd00:2::2]:80")
			Expect(err).To(lost())
			run(six, "-F", "FORWARD")
			run(six, "-F", "INPUT") // neighbour discovery
			Eventually(call).WithArguments(one.do, "[fd00:2::2]:80").Should(Equal("fd00:1::2"))
		})
	})

	It("of one server is not touched by another one beside it", func() {
		h := start(nil)
		other := start(func(c *kawasaki.Config) { c.Tag, c.Pool = "br", netip.MustParsePrefix("10.253.0.0/22") })
		one, two := h.connect("one"), other.connect("one")
		serve(outside.do, "192.0.2.2:80")
		other.destroy(two)
		Expect(other.Stop()).To(Succeed())
		Expect(other.Uninstall()).To(Succeed())
		Expect(call(one.do, "192.0.2.2:80")).To(Equal("192.0.2.1"))
		serve(onHost, "0.0.0.0:8080")
		_, err := call(one.do, "192.0.2.1:8080")
		Expect(err).To(refused())
	})
},
	Entry("iptables-nft", "iptables-nft"),
	Entry("iptables-legacy", "iptables-legacy"),
)
