// Package firewall says, as plain values, what may pass between containers,
// the host and the world. What applies it (iptables today) turns a Policy and
// a set of Containers into rules of its own kind, whole.
//
// The contract, in both address families: a container reaches the outside and
// other containers unless a denied network forbids it; it opens no connection
// to the host itself, unless allowed; what it sends from an address not its
// own is dropped. Containers have no IPv6 address, so all IPv6 from them is
// dropped.
package firewall

import "net/netip"

// A Policy holds for all containers of one server.
type Policy struct {
	// AllowHostAccess lets containers open connections to the host.
	AllowHostAccess bool

	// Deny are networks that containers may not open connections to.
	Deny []netip.Prefix

	// HostDNS are resolvers that containers may ask (port 53) even if
	// they are addresses of the host.
	HostDNS []netip.Addr
}

// A Container is what the firewall has to know about one.
type Container struct {
	// ID is unique among the containers of one server, at any time.
	ID string

	// Handle tells people whose rule it is.
	Handle string

	// Bridge is the interface that the host receives the container's
	// packets on.
	Bridge string

	// Subnet is the network on that bridge; inside it nothing is filtered
	// and nothing is translated.
	Subnet netip.Prefix

	// Address is the only source that the container may use.
	Address netip.Addr
}

// A Change is applied whole or not at all.
type Change struct {
	Remove []Container
	Add    []Container
}
