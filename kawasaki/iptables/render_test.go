package iptables

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(name, got string) {
	GinkgoHelper()
	path := filepath.Join("testdata", name)
	if *update {
		Expect(os.WriteFile(path, []byte(got), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	Expect(got).To(Equal(string(want)))
}

func names(tag string) firewall.Names {
	GinkgoHelper()
	n, err := firewall.NewNames(tag)
	Expect(err).NotTo(HaveOccurred())
	return n
}

func container(id, handle, subnet string) firewall.Container {
	s := netip.MustParsePrefix(subnet)
	n, _ := firewall.NewNames("")
	return firewall.Container{ID: id, Handle: handle, Bridge: n.Bridge(s), Subnet: s, Address: s.Addr().Next().Next()}
}

var _ = Describe("the restore input", func() {
	one := container("aaaaaaaaaa", "one", "10.254.0.0/30")
	two := container("bbbbbbbbbb", "-two.2", "10.254.0.4/30")
	policy := firewall.Policy{
		Deny:    []netip.Prefix{netip.MustParsePrefix("192.168.0.7/16"), netip.MustParsePrefix("fd00::/8")},
		HostDNS: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("::1")},
	}

	DescribeTable("is as recorded",
		func(file string, render func() string) { golden(file, render()) },
		Entry("on a fresh host", "whole-fresh.txt", func() string {
			return whole(names(""), policy, []firewall.Container{one, two}, Found{Jumps: make([]bool, 4)})
		}),
		Entry("over the rules of an earlier server", "whole-again.txt", func() string {
			return whole(names(""), policy, []firewall.Container{one}, Found{
				Jumps: []bool{true, true, true, true},
				Chains: map[string][]string{
					"filter": {"w--input", "w--instance-aaaaaaaaaa", "w--instance-zzzzzzzzzz"},
					"nat":    {"w--postrouting", "w--prerouting"},
				},
			})
		}),
		Entry("with host access", "whole-host-access.txt", func() string {
			return whole(names("1"), firewall.Policy{AllowHostAccess: true, HostDNS: policy.HostDNS}, nil, Found{Jumps: make([]bool, 4)})
		}),
		Entry("for IPv6", "whole6.txt", func() string {
			return whole6(names("ab"), Found{Jumps: []bool{true, false}, Chains: map[string][]string{"filter": {"w-ab-input", "w-ab-old"}}})
		}),
		Entry("for a change", "delta.txt", func() string {
			return delta(names(""), firewall.Change{Remove: []firewall.Container{one}, Add: []firewall.Container{two}})
		}),
		Entry("for taking all away", "gone.txt", func() string {
			return gone(jumps4(names("")), Found{
				Jumps:  []bool{true, true, false, true},
				Chains: map[string][]string{"filter": {"w--input", "w--forward"}, "nat": {"w--postrouting"}},
			})
		}),
	)

	It("is empty for no change", func() { Expect(delta(names(""), firewall.Change{})).To(BeEmpty()) })

	DescribeTable("quotes comments",
		func(text, want string) { Expect(quote(text)).To(Equal(want)) },
		Entry(nil, "plain", `"plain"`),
		Entry(nil, `a"b\c`, `"a\"b\\c"`),
		Entry("so that no line breaks", "a\nCOMMIT\x00", `"a?COMMIT?"`),
		Entry("at most 255 bytes", strings.Repeat("x", 300), `"`+strings.Repeat("x", 255)+`"`),
	)
})
