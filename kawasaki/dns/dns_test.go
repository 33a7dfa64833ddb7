package dns_test

import (
	"net/netip"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/kawasaki/dns"
)

func TestDNS(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "dns")
}

var gateway = netip.MustParseAddr("10.254.0.1")

func addrs(all ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var _ = DescribeTable("hosts",
	func(handle string, additional []string, want string) {
		Expect(dns.Hosts(netip.MustParseAddr("10.254.0.2"), handle, additional)).To(Equal(want))
	},
	Entry("names the container", "app", nil, "127.0.0.1 localhost\n10.254.0.2 app\n"),
	Entry("by the last 49 characters of its handle", "x"+strings.Repeat("0123456789", 5), nil,
		"127.0.0.1 localhost\n10.254.0.2 "+strings.Repeat("0123456789", 5)[1:]+"\n"),
	Entry("and adds the operator's lines in order", "app", []string{"1.2.3.4 b", "1.2.3.5 a c"},
		"127.0.0.1 localhost\n10.254.0.2 app\n1.2.3.4 b\n1.2.3.5 a c\n"),
)

var _ = DescribeTable("resolv.conf",
	func(host string, operator dns.Servers, want string) {
		Expect(dns.Resolv(host, gateway, operator)).To(Equal(want))
	},
	Entry("is the host's", "nameserver 8.8.8.8\nnameserver 2001:db8::1\n", dns.Servers{}, "nameserver 8.8.8.8\nnameserver 2001:db8::1\n"),
	Entry("keeps search domains and options", "# made by hand\nsearch a.example b.example\nnameserver 8.8.8.8\noptions  ndots:2\tedns0\n", dns.Servers{},
		"nameserver 8.8.8.8\nsearch a.example b.example\noptions ndots:2 edns0\n"),
	Entry("strips loopback servers among others", "nameserver 127.0.0.53\nnameserver 8.8.8.8\nnameserver ::1\n", dns.Servers{}, "nameserver 8.8.8.8\n"),
	Entry("names the gateway for a lone loopback server", "nameserver 127.0.0.53\nsearch x\n", dns.Servers{}, "nameserver 10.254.0.1\nsearch x\n"),
	Entry("names the gateway once for several", "nameserver 127.0.0.1\nnameserver 127.0.0.2\n", dns.Servers{}, "nameserver 10.254.0.1\n"),
	Entry("prefers the operator's servers", "nameserver 127.0.0.1\nsearch x\n", dns.Servers{Instead: addrs("1.1.1.1", "1.0.0.1")},
		"nameserver 1.1.1.1\nnameserver 1.0.0.1\nsearch x\n"),
	Entry("adds additional ones to the operator's", "nameserver 8.8.8.8\n", dns.Servers{Instead: addrs("1.1.1.1"), Additional: addrs("9.9.9.9")},
		"nameserver 1.1.1.1\nnameserver 9.9.9.9\n"),
	Entry("adds additional ones to the host's", "nameserver 8.8.8.8\n", dns.Servers{Additional: addrs("9.9.9.9")},
		"nameserver 8.8.8.8\nnameserver 9.9.9.9\n"),
	Entry("has no servers if the host has none", "search x\n", dns.Servers{}, "search x\n"),
	Entry("leaves out what no resolver understands", "nameserver\nnameserver eight\nfoo bar\nnameserver 8.8.8.8 # comment\n;nameserver 1.2.3.4", dns.Servers{}, "nameserver 8.8.8.8\n"),
)

func FuzzResolv(f *testing.F) {
	f.Add("nameserver 127.0.0.1\nsearch a\n")
	f.Add("nameserver fe80::1%eth0\r\noptions\x00 a")
	f.Fuzz(func(t *testing.T, host string) {
		once := dns.Resolv(host, gateway, dns.Servers{})
		if strings.Contains(once, "nameserver 127.") || strings.Contains(once, "nameserver ::1\n") {
			t.Errorf("%q became %q: a loopback server", host, once)
		}
		if again := dns.Resolv(once, gateway, dns.Servers{}); again != once {
			t.Errorf("%q became %q, then %q", host, once, again)
		}
		for line := range strings.Lines(once) {
			switch word, _, _ := strings.Cut(line, " "); word {
			case "nameserver", "search", "domain", "options", "sortlist":
			default:
				t.Errorf("%q became %q: a line that means nothing", host, once)
			}
		}
	})
}
