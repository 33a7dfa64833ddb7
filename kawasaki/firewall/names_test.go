package firewall_test

import (
	"net/netip"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

func TestFirewall(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "firewall")
}

var _ = Describe("names", func() {
	subnet := netip.MustParsePrefix("10.254.0.4/30")
	const id = "0123456789"

	DescribeTable("fit into the kernel's limits",
		func(tag, bridge, pattern, host, chain string) {
			n, err := firewall.NewNames(tag)
			Expect(err).NotTo(HaveOccurred())
			Expect(n.Bridge(subnet)).To(Equal(bridge))
			Expect(n.Bridges()).To(Equal(pattern))
			Expect(n.HostLink(id)).To(Equal(host))
			Expect(n.Instance(id)).To(Equal(chain))
			for _, link := range []string{n.Bridge(subnet), n.HostLink(id), n.ContainerLink(id)} {
				Expect(len(link)).To(BeNumerically("<=", 15))
			}
			Expect(len(n.Instance(id) + "-log")).To(BeNumerically("<=", 28))
		},
		Entry("no tag", "", "wbrdg-0afe0004", "wbrdg-+", "w0123456789-0", "w--instance-0123456789"),
		Entry("one character", "1", "w1brdg-0afe0004", "w1brdg-+", "w10123456789-0", "w-1-instance-0123456789"),
		Entry("two characters", "ab", "wabbrdg0afe0004", "wabbrdg+", "wab0123456789-0", "w-ab-instance-0123456789"),
	)

	DescribeTable("refuse tags that could mean something else",
		func(tag string) {
			_, err := firewall.NewNames(tag)
			Expect(err).To(MatchError(ContainSubstring("use at most two letters or digits")))
		},
		Entry(nil, "abc"), Entry(nil, "+"), Entry(nil, "a "), Entry(nil, "-"), Entry(nil, "é"), Entry(nil, "\n"),
	)

	It("of one tag match no link of another tag, nor of the host", func() {
		tags := []string{"", "b", "r", "br", "rd", "bb", "g", "dg", "1", "wb", "g-"[:1]}
		foreign := []string{"wlan0", "wg0", "wlp3s0", "wbr0", "wbrdg0", "eth0", "lo", "docker0"}
		for _, tag := range tags {
			n, _ := firewall.NewNames(tag)
			pattern := strings.TrimSuffix(n.Bridges(), "+")
			links := append([]string{}, foreign...)
			for _, other := range tags {
				if o, _ := firewall.NewNames(other); other != tag {
					links = append(links, o.Bridge(subnet), o.HostLink(id), o.HostLink("brdbrdbrdb"), o.HostLink("rdbrdbrdbr"), o.HostLink("dbrdbrdbrd"))
				}
			}
			for _, link := range links {
				Expect(strings.HasPrefix(link, pattern)).To(BeFalse(), "%q matches %s", tag, link)
				Expect(n.Owns(link)).To(BeFalse(), "%q owns %s", tag, link)
			}
			Expect(strings.HasPrefix(n.HostLink("brdbrdbrdb"), pattern)).To(BeFalse())
			Expect(n.Bridge(subnet)).To(HavePrefix(pattern))
			Expect(n.Owns(n.Bridge(subnet))).To(BeTrue())
			Expect(n.Owns(n.HostLink(id))).To(BeTrue())
		}
	})
})
