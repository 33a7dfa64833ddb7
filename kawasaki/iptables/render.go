package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// A jump leads from a chain of the kernel's into ours. Inserted in order, each
// at its position, they stand before whatever else the host has there.
type jump struct {
	table, chain string
	position     int
	spec         []string
	target       string // chain of ours that spec names, if any
}

func jumps4(n firewall.Names) []jump {
	return []jump{
		{"filter", "INPUT", 1, []string{"-i", n.Bridges(), "-j", n.Input()}, n.Input()},
		{"filter", "FORWARD", 1, []string{"-i", n.Bridges(), "-j", n.Forward()}, n.Forward()},
		// Answers must not depend on the host's policy for FORWARD.
		{"filter", "FORWARD", 2, []string{"-o", n.Bridges(), "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"}, ""},
		{"nat", "POSTROUTING", 1, []string{"-j", n.Postrouting()}, n.Postrouting()},
	}
}

func jumps6(n firewall.Names) []jump {
	return []jump{
		{"filter", "INPUT", 1, []string{"-i", n.Bridges(), "-j", n.Input()}, n.Input()},
		{"filter", "FORWARD", 1, []string{"-i", n.Bridges(), "-j", n.Forward()}, n.Forward()},
	}
}

// Found is what of ours stands in the kernel before everything is written
// anew.
type Found struct {
	Chains map[string][]string // by table
	Jumps  []bool              // as in jumps4 or jumps6
}

// whole renders the restore input that makes the kernel's rules exactly those
// of the policy and the containers, whatever stood there before.
func whole(n firewall.Names, p firewall.Policy, containers []firewall.Container, found Found) string {
	s := newScript("nat", "filter")
	s.declare("nat", n.Postrouting())
	s.declare("filter", n.Input(), n.Host(), n.Forward(), n.Default())
	shared(s, n, p)
	for _, c := range containers {
		add(s, n, c)
	}
	s.hook(jumps4(n), found.Jumps)
	s.deleteRest(found.Chains)
	return s.String()
}

// whole6 is whole for IPv6, which containers may not use.
func whole6(n firewall.Names, found Found) string {
	s := newScript("filter")
	for _, chain := range []string{n.Input(), n.Forward()} {
		s.declare("filter", chain)
		s.rule("filter", "-A", chain, "-j", "DROP")
	}
	s.hook(jumps6(n), found.Jumps)
	s.deleteRest(found.Chains)
	return s.String()
}

// delta renders the restore input that applies one change to what whole and
// earlier deltas wrote.
func delta(n firewall.Names, change firewall.Change) string {
	s := newScript("nat", "filter")
	for _, c := range change.Remove {
		remove(s, n, c)
	}
	for _, c := range change.Add {
		add(s, n, c)
	}
	return s.String()
}

// gone renders the restore input that takes all of ours away.
func gone(jumps []jump, found Found) string {
	s := newScript("nat", "filter")
	for i, j := range jumps {
		if found.Jumps[i] {
			s.rule(j.table, append([]string{"-D", j.chain}, j.spec...)...)
		}
	}
	s.deleteRest(found.Chains)
	return s.String()
}

// shared writes the rules that hold for all containers. The last rule of
// input and forward meets only packets whose bridge and source are no
// container's.
func shared(s *script, n firewall.Names, p firewall.Policy) {
	s.rule("filter", "-A", n.Input(), "-j", "DROP")
	s.rule("filter", "-A", n.Forward(), "-j", "DROP")

	answers := []string{"-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"}
	s.rule("filter", append([]string{"-A", n.Host()}, answers...)...)
	if p.AllowHostAccess {
		s.rule("filter", "-A", n.Host(), "-j", "ACCEPT")
	} else {
		for _, server := range only4(p.HostDNS, func(a netip.Addr) netip.Addr { return a }) {
			for _, protocol := range []string{"udp", "tcp"} {
				s.rule("filter", "-A", n.Host(), "-d", server.String(), "-p", protocol, "--dport", "53", "-j", "ACCEPT")
			}
		}
		s.rule("filter", "-A", n.Host(), "-j", "REJECT", "--reject-with", "icmp-host-prohibited")
	}

	s.rule("filter", append([]string{"-A", n.Default()}, answers...)...)
	for _, network := range only4(p.Deny, netip.Prefix.Addr) {
		s.rule("filter", "-A", n.Default(), "-d", network.Masked().String(), "-j", "REJECT")
	}
	s.rule("filter", "-A", n.Default(), "-j", "ACCEPT")
}

// only4 drops what is not IPv4: containers have no IPv6 to be denied.
func only4[T any](all []T, addr func(T) netip.Addr) []T {
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return !addr(v).Is4() })
}

func add(s *script, n firewall.Names, c firewall.Container) {
	chain := n.Instance(c.ID)
	s.declare("filter", chain)
	s.rule("filter", append([]string{"-A", chain}, insideSubnet(c)...)...)
	s.rule("filter", append([]string{"-A", chain}, otherwise(n, c)...)...)
	for _, r := range entries(n, c) {
		s.rule(r.table, append([]string{"-I", r.chain, "1"}, r.spec...)...)
	}
}

func remove(s *script, n firewall.Names, c firewall.Container) {
	for _, r := range entries(n, c) {
		s.rule(r.table, append([]string{"-D", r.chain}, r.spec...)...)
	}
	s.rule("filter", "-F", n.Instance(c.ID))
	s.rule("filter", "-X", n.Instance(c.ID))
}

// entries are the rules of one container in shared chains.
func entries(n firewall.Names, c firewall.Container) []jump {
	from := []string{"-s", c.Address.String() + "/32", "-i", c.Bridge}
	return []jump{
		{table: "nat", chain: n.Postrouting(), spec: comment([]string{"-s", c.Subnet.String(), "!", "-d", c.Subnet.String()}, c, "-j", "MASQUERADE")},
		{table: "filter", chain: n.Input(), spec: comment(from, c, "-g", n.Host())},
		{table: "filter", chain: n.Forward(), spec: comment(from, c, "-g", n.Instance(c.ID))},
	}
}

func insideSubnet(c firewall.Container) []string {
	return comment([]string{"-s", c.Subnet.String(), "-d", c.Subnet.String()}, c, "-j", "ACCEPT")
}

func otherwise(n firewall.Names, c firewall.Container) []string {
	return comment(nil, c, "-g", n.Default())
}

func comment(match []string, c firewall.Container, target ...string) []string {
	return slices.Concat(match, []string{"-m", "comment", "--comment", quote(c.Handle)}, target)
}

// quote makes one word of any text for iptables-restore, which knows double
// quotes and a backslash inside them. A comment has at most 255 bytes.
func quote(text string) string {
	if len(text) > 255 {
		text = text[:255]
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			b.WriteByte('?')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// A script collects restore input, table by table: first the chains, which
// a declaration creates or empties, then the rules, then chains to delete.
type script struct {
	tables []string
	chains map[string][]string
	rules  map[string][]string
}

func newScript(tables ...string) *script {
	return &script{tables, map[string][]string{}, map[string][]string{}}
}

func (s *script) declare(table string, chains ...string) {
	s.chains[table] = append(s.chains[table], chains...)
}

func (s *script) rule(table string, words ...string) {
	s.rules[table] = append(s.rules[table], strings.Join(words, " "))
}

// hook puts the jumps in front, also those that stand there already.
func (s *script) hook(jumps []jump, exist []bool) {
	for i, j := range jumps {
		if exist[i] {
			s.rule(j.table, append([]string{"-D", j.chain}, j.spec...)...)
		}
	}
	for _, j := range jumps {
		s.rule(j.table, append([]string{"-I", j.chain, fmt.Sprint(j.position)}, j.spec...)...)
	}
}

// deleteRest empties and deletes the chains that found has and the script
// does not declare.
func (s *script) deleteRest(found map[string][]string) {
	for _, table := range s.tables {
		var rest []string
		for _, chain := range found[table] {
			if !slices.Contains(s.chains[table], chain) {
				rest = append(rest, chain)
			}
		}
		s.declare(table, rest...)
		for _, chain := range rest {
			s.rule(table, "-X", chain)
		}
	}
}

func (s *script) String() string {
	var b strings.Builder
	for _, table := range s.tables {
		if len(s.chains[table])+len(s.rules[table]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		for _, chain := range s.chains[table] {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, rule := range s.rules[table] {
			b.WriteString(rule)
			b.WriteByte('\n')
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
