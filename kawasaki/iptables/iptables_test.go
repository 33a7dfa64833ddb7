package iptables

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/kawasaki/firewall"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestIptables(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "iptables")
}

// nth is the n-th container of a pool.
func nth(n int) firewall.Container {
	s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, byte(n / 64), byte(n % 64 * 4)}), 30)
	return container(fmt.Sprintf("%010d", n), fmt.Sprintf("handle-%d", n), s.String())
}

func run(program string, args ...string) string {
	GinkgoHelper()
	out, err := exec.Command(program, args...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
	return string(out)
}

// instead is a pair of restore programs, for both families, that do something
// of the test's first; $real in it is the real one.
func instead(program, something string) string {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	for _, family := range []string{"iptables", "ip6tables"} {
		real, err := exec.LookPath(strings.Replace(program, "iptables", family, 1) + "-restore")
		Expect(err).NotTo(HaveOccurred())
		text := fmt.Sprintf("#!/bin/sh\nreal=%s\n%s\nexec $real \"$@\"\n", real, something)
		Expect(os.WriteFile(filepath.Join(dir, family+"-restore"), []byte(text), 0o755)).To(Succeed())
	}
	return filepath.Join(dir, "iptables-restore")
}

var _ = Describe("the programs", func() {
	start := func(iptables, restore string) error {
		return New(Config{Names: names("t"), Iptables: iptables, Restore: restore}).Start(nil)
	}

	BeforeEach(func() { testhost.Need(GinkgoT(), "root", "iptables-nft", "iptables-legacy") })

	DescribeTable("are refused",
		func(iptables, restore func() string, complaint string) {
			before := testhost.Take("none")
			Expect(start(iptables(), restore())).To(MatchError(ContainSubstring(complaint)))
			Expect(testhost.Diff(before, testhost.Take("none"))).To(BeEmpty())
		},
		Entry("if missing", name("/no/such/iptables"), name(""), "/no/such/iptables not found: install iptables, or name it with --iptables-bin"),
		Entry("if missing in PATH", name("iptables-nowhere"), name(""), "iptables-nowhere not found"),
		Entry("if the restore is missing", name("iptables"), name("/no/such"), "/no/such not found"),
		Entry("if iptables is something else", name("/bin/true"), name(""), "/bin/true is not iptables"),
		Entry("if iptables fails", name("/bin/false"), name(""), "/bin/false is not iptables: it answers --version with"),
		Entry("if the restore is something else", name("iptables"), name("/bin/true"), "/bin/true is not iptables"),
		Entry("if they are of two kinds", name("iptables-nft"), name("iptables-legacy-restore"), "do not see each other's rules"),
		Entry("if there is none for IPv6", func() string { return wrapper("iptables-nft") }, func() string { return "iptables-nft-restore" }, "not found"),
	)

	It("are found outside of PATH", func() {
		GinkgoT().Setenv("PATH", "/nowhere")
		Expect(find("iptables")).To(HaveSuffix("sbin/iptables"))
	})
})

func name(s string) func() string { return func() string { return s } }

// wrapper is a program under a name that has no counterpart for IPv6.
func wrapper(program string) string {
	path := filepath.Join(GinkgoT().TempDir(), "iptables")
	real, err := exec.LookPath(program)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Symlink(real, path)).To(Succeed())
	return path
}

var _ = DescribeTableSubtree("a firewall of", func(program string) {
	var f *Firewall
	n, _ := firewall.NewNames("")
	save := func() string { return run(program + "-save") }
	count := func(text string) int { return strings.Count(save(), text) }

	BeforeEach(func() {
		testhost.Need(GinkgoT(), "root", program)
		before := testhost.Take("none")
		f = New(Config{Names: n, Iptables: program})
		DeferCleanup(func() {
			f.Stop()
			Expect(New(Config{Names: n, Iptables: program}).Uninstall()).To(Succeed())
			Expect(testhost.Diff(before, testhost.Take("none"))).To(BeEmpty())
		})
	})

	It("refuses to work before its start", func() {
		Expect(f.Apply(firewall.Change{Add: []firewall.Container{nth(1)}})).To(MatchError(ContainSubstring("not been started")))
	})

	It("stands in front of the host's own rules, once", func() {
		run(program, "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
		DeferCleanup(run, program, "-D", "INPUT", "-p", "tcp", "-j", "ACCEPT")
		for range 3 {
			Expect(New(Config{Names: n, Iptables: program}).Start([]firewall.Container{nth(1), nth(2)})).To(Succeed())
		}
		Expect(f.Start([]firewall.Container{nth(1)})).To(Succeed())
		Expect(run(program, "-S", "INPUT")).To(Equal("-P INPUT ACCEPT\n-A INPUT -i wbrdg-+ -j w--input\n-A INPUT -p tcp -j ACCEPT\n"))
		Expect(run(program, "-S", "FORWARD")).To(Equal("-P FORWARD ACCEPT\n-A FORWARD -i wbrdg-+ -j w--forward\n" +
			"-A FORWARD -o wbrdg-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"))
		Expect(count("--comment handle-1 ")).To(Equal(5))
		Expect(count("handle-2")).To(BeZero())
		Expect(count(n.Instance(nth(2).ID))).To(BeZero())
	})

	It("takes back exactly what it added", func() {
		Expect(f.Start(nil)).To(Succeed())
		empty := save()
		all := []firewall.Container{nth(1), nth(2), container("cccccccccc", "-t-starts.with_a-dash", "10.254.9.0/30"), container("dddddddddd", strings.Repeat("x", 255), "10.254.9.4/30")}
		Expect(f.Apply(firewall.Change{Add: all})).To(Succeed())
		Expect(count("-t-starts.with_a-dash")).To(Equal(5))
		Expect(f.Apply(firewall.Change{Remove: all[1:2]})).To(Succeed())
		Expect(count("handle-2")).To(BeZero())
		Expect(count("handle-1")).To(Equal(5))
		Expect(f.Apply(firewall.Change{Remove: all})).To(Succeed())
		Expect(trim(save())).To(Equal(trim(empty)))
	})

	It("replaces the policy of an earlier server", func() {
		old := New(Config{Names: n, Iptables: program, Policy: firewall.Policy{Deny: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}})
		Expect(old.Start([]firewall.Container{nth(1)})).To(Succeed())
		Expect(count("10.1.0.0/16")).To(Equal(1))
		Expect(f.Start(nil)).To(Succeed())
		Expect(count("10.1.0.0/16")).To(BeZero())
		Expect(count("handle-1")).To(BeZero())
	})

	It("writes all anew when a change meets rules that are gone", func() {
		Expect(f.Start(nil)).To(Succeed())
		Expect(f.Apply(firewall.Change{Add: []firewall.Container{nth(1), nth(2)}})).To(Succeed())
		flush(program)
		Expect(f.Apply(firewall.Change{Remove: []firewall.Container{nth(1)}})).To(Succeed())
		Expect(count("handle-2")).To(Equal(5))
		Expect(count("handle-1")).To(BeZero())
		flush(program)
		Expect(f.Apply(firewall.Change{Add: []firewall.Container{nth(3)}})).To(Succeed())
		Expect(count("handle-2")).To(Equal(5))
		Expect(count("handle-3")).To(Equal(5))
		Expect(count("-j w--input")).To(Equal(1))
	})

	DescribeTable("restores what is missing",
		func(damage ...string) {
			Expect(f.Start([]firewall.Container{nth(1), nth(2)})).To(Succeed())
			good := trim(save())
			Expect(f.Restore(nth(1))).To(Succeed())
			Expect(trim(save())).To(Equal(good))
			f.rules = nil // what is listed is trusted for a second
			run(program, damage...)
			Expect(f.Restore(nth(1))).To(Succeed())
			Expect(trim(save())).To(Equal(good))
		},
		Entry("ways in", "-F", "INPUT"),
		Entry("ways in", "-F", "FORWARD"),
		Entry("ways in", "-t", "nat", "-F", "POSTROUTING"),
		Entry("rules", "-F", "w--forward"),
		Entry("rules", "-F", "w--input"),
		Entry("rules", "-t", "nat", "-F", "w--postrouting"),
	)

	It("writes nothing when all stands", func() {
		log := filepath.Join(GinkgoT().TempDir(), "log")
		f = New(Config{Names: n, Iptables: program, Restore: instead(program, "echo $1 >>"+log)})
		Expect(f.Start([]firewall.Container{nth(1), nth(2)})).To(Succeed())
		Expect(os.Truncate(log, 0)).To(Succeed())
		Expect(f.Restore(nth(1))).To(Succeed())
		Expect(f.Restore(nth(2))).To(Succeed())
		Expect(os.ReadFile(log)).To(BeEmpty())
	})

	It("restores a container that it did not know", func() {
		Expect(f.Start(nil)).To(Succeed())
		Expect(f.Restore(nth(7))).To(Succeed())
		Expect(count("handle-7")).To(Equal(5))
	})

	It("applies changes side by side, few restores for many changes", func() {
		log := filepath.Join(GinkgoT().TempDir(), "log")
		f = New(Config{Names: n, Iptables: program, Restore: instead(program, "echo >>"+log)})
		Expect(f.Start(nil)).To(Succeed())
		empty := save()
		change := func(make func(int) firewall.Change) int {
			Expect(os.WriteFile(log, nil, 0o600)).To(Succeed())
			var wg sync.WaitGroup
			for i := range 64 {
				wg.Go(func() {
					defer GinkgoRecover()
					Expect(f.Apply(make(i))).To(Succeed())
				})
			}
			wg.Wait()
			lines, err := os.ReadFile(log)
			Expect(err).NotTo(HaveOccurred())
			return bytes.Count(lines, []byte("\n"))
		}
		Expect(change(func(i int) firewall.Change { return firewall.Change{Add: []firewall.Container{nth(i)}} })).To(BeNumerically("<", 16))
		Expect(strings.Count(save(), "--comment handle-")).To(Equal(64 * 5))
		Expect(change(func(i int) firewall.Change { return firewall.Change{Remove: []firewall.Container{nth(i)}} })).To(BeNumerically("<", 16))
		Expect(trim(save())).To(Equal(trim(empty)))
	})

	It("tells everybody of a batch that it failed, and knows nothing of it later", func() {
		broken := filepath.Join(GinkgoT().TempDir(), "broken")
		f = New(Config{Names: n, Iptables: program, Restore: instead(program, "test -e "+broken+" && { echo no luck >&2; exit 3; }")})
		Expect(f.Start(nil)).To(Succeed())
		empty := save()
		Expect(os.WriteFile(broken, nil, 0o600)).To(Succeed())
		Expect(f.Apply(firewall.Change{Add: []firewall.Container{nth(1)}})).To(MatchError(HaveSuffix("tables-restore: exit status 3: no luck")))
		Expect(os.Remove(broken)).To(Succeed())
		Expect(f.Apply(firewall.Change{Remove: []firewall.Container{nth(1)}})).To(Succeed())
		Expect(trim(save())).To(Equal(trim(empty)))
	})

	It("leaves servers with other tags alone", func() {
		other := New(Config{Names: names("xy"), Iptables: program})
		Expect(other.Start([]firewall.Container{nth(5)})).To(Succeed())
		Expect(f.Start([]firewall.Container{nth(1)})).To(Succeed())
		Expect(count("w-xy-instance-" + nth(5).ID)).To(Equal(4))
		Expect(other.Uninstall()).To(Succeed())
		Expect(count("w-xy-")).To(BeZero())
		Expect(count("handle-1")).To(Equal(5))
	})
},
	Entry("iptables-nft", "iptables-nft"),
	Entry("iptables-legacy", "iptables-legacy"),
)

// flush is what a restart of the host's own firewall does.
func flush(program string) {
	GinkgoHelper()
	for _, table := range []string{"filter", "nat"} {
		run(program, "-t", table, "-F")
		run(program, "-t", table, "-X")
	}
}

// trim leaves rules and chains only, in the order of the alphabet of chains.
func trim(saved string) []string {
	var out []string
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "-A") {
			out = append(out, line)
		} else if strings.HasPrefix(line, ":w") {
			name, _, _ := strings.Cut(line, " ")
			out = append([]string{name}, out...)
		}
	}
	return out
}
