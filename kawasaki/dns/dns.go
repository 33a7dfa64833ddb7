// Package dns writes the two files that tell a container's resolver what it
// needs: /etc/hosts and /etc/resolv.conf.
package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// hostname is how much of a handle, from its end, names the container in its
// own hosts file.
const hostname = 49

// Hosts renders /etc/hosts: the loopback, the container by the end of its
// handle, then the operator's lines as they are.
func Hosts(address netip.Addr, handle string, additional []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n%s %s\n", address, handle[max(0, len(handle)-hostname):])
	for _, line := range additional {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// Servers are the resolvers that the operator chose.
type Servers struct {
	Instead    []netip.Addr // of the host's, if any
	Additional []netip.Addr // after the others
}

// Resolv renders /etc/resolv.conf from the host's file. The host's loopback
// resolvers mean nothing in a container; if the host has no others, gateway,
// the host's address on the container's network, stands for them. Search
// domains and options are the host's.
func Resolv(host string, gateway netip.Addr, operator Servers) string {
	servers, rest := parse(host)
	switch {
	case len(operator.Instead) > 0:
		servers = operator.Instead
	case len(servers) > 0:
		servers = slices.DeleteFunc(servers, netip.Addr.IsLoopback)
		if len(servers) == 0 {
			servers = []netip.Addr{gateway}
		}
	}
	var b strings.Builder
	for _, server := range slices.Concat(servers, operator.Additional) {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	for _, line := range rest {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// parse splits a resolv.conf into its name servers and its other settings.
// What a resolver would not understand either is left out.
func parse(file string) (servers []netip.Addr, rest []string) {
	for line := range strings.Lines(file) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if server, err := netip.ParseAddr(words[1]); err == nil {
				servers = append(servers, server)
			}
		case "search", "domain", "options", "sortlist":
			rest = append(rest, strings.Join(words, " "))
		}
	}
	return servers, rest
}
