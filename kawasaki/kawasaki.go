// Package kawasaki is the networker: it gives each container an address, a
// link to the host and a firewall, and takes them back. The name is
// Guardian's, whose chain and file names it keeps.
//
// What it does to the host can be undone from the recorded lease alone, so a
// restarted server needs no memory of the past. A lease is recorded before
// anything is made, and the record goes last. Only the bridge outlives it, for
// the next holder of the subnet or until nobody has wanted it for a while; what
// a crash leaves of such, the next start removes.
//
// What can be slow stays off the callers' path: the firewall of a container is
// written while the runtime starts it, and taken back after Destroy answered,
// when its subnet rests anyway.
package kawasaki

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/kawasaki/firewall"
	"github.com/verger-garden/verger/kawasaki/iptables"
	"github.com/verger-garden/verger/kawasaki/subnets"
)

// A PropertySetter stores what clients may read about a container.
type PropertySetter interface {
	// SetAll sets all of props at once.
	SetAll(handle string, props garden.Properties) error
}

// Config says how containers are connected.
type Config struct {
	// Dir is where leases and DNS files are kept, one folder per handle.
	// Required.
	Dir string

	// Tag is part of the names of links and chains: at most two letters
	// or digits. Servers with different tags live side by side.
	Tag string

	// Pool is where subnets come from; zero: 10.254.0.0/22.
	Pool netip.Prefix

	// Properties is told the addresses of each container; nil: nobody is.
	Properties PropertySetter

	// Iptables and IptablesRestore are programs by name or path; empty:
	// iptables, and Iptables with -restore added. What serves IPv6 has
	// the same names with ip6tables instead.
	Iptables, IptablesRestore string

	// AllowHostAccess lets containers open connections to the host.
	AllowHostAccess bool

	// DenyNetworks are closed to containers.
	DenyNetworks []netip.Prefix

	// DNSServers stand for the host's resolvers, AdditionalDNSServers come
	// after them. Containers may ask them even if they are the host's own
	// addresses.
	DNSServers, AdditionalDNSServers []netip.Addr

	// AdditionalHostEntries are lines for each container's /etc/hosts.
	AdditionalHostEntries []string

	// ExternalIP is told to containers' clients as the host's address;
	// zero: that of the interface with the default route, else of the
	// first that is no loopback, else 127.0.0.1.
	ExternalIP netip.Addr

	// MTU of links; zero: that of the interface with the default route.
	// Never above 1500.
	MTU int

	// ContainerRootUID and ContainerRootGID are the host's ids of root in
	// an unprivileged container. They own its DNS files.
	ContainerRootUID, ContainerRootGID int

	// BridgeIdle is how long the bridge of a container that is gone stays
	// for the next one; zero: 5 s. It is never less than the second for
	// which addresses rest.
	BridgeIdle time.Duration

	// Log takes what happens in the background; nil: nothing does.
	Log lager.Logger
}

const (
	// rest is how long a subnet is nobody's before it is handed out again.
	rest = time.Second

	// linger is how long the worker waits for more to take back at once.
	// By then the kernel has removed the containers' links by itself.
	linger = 300 * time.Millisecond

	// retry is how long the worker waits after it could not take back all.
	retry = time.Second

	// shortage is how long a create waits for a subnet that is being taken
	// back if there is no other.
	shortage = 10 * time.Second
)

var defaultPool = netip.MustParsePrefix("10.254.0.0/22")

// A Networker connects the containers of one server.
type Networker struct {
	config  Config
	names   firewall.Names
	pool    *subnets.Pool
	rules   *iptables.Firewall
	records records
	log     lager.Logger
	host    host // from Start on

	mu      sync.Mutex
	live    map[string]*attachment // by handle
	resting []*attachment          // for the worker to take back

	builders sync.WaitGroup
	worker   *worker
}

// New checks the configuration and touches nothing.
func New(c Config) (*Networker, error) {
	if c.Dir == "" {
		return nil, errors.New("kawasaki: no folder for leases")
	}
	names, err := firewall.NewNames(c.Tag)
	if err != nil {
		return nil, err
	}
	if c.Pool == (netip.Prefix{}) {
		c.Pool = defaultPool
	}
	pool, err := subnets.New(c.Pool, rest)
	if err != nil {
		return nil, err
	}
	if c.MTU < 0 {
		return nil, fmt.Errorf("mtu %d: must not be negative", c.MTU)
	}
	if c.BridgeIdle == 0 {
		c.BridgeIdle = bridgeIdle
	}
	c.BridgeIdle = max(c.BridgeIdle, rest)
	if c.Log == nil {
		c.Log = lager.NewLogger("kawasaki")
	}
	return &Networker{
		config: c,
		names:  names,
		pool:   pool,
		rules: iptables.New(iptables.Config{
			Names: names,
			Policy: firewall.Policy{
				AllowHostAccess: c.AllowHostAccess,
				Deny:            c.DenyNetworks,
				HostDNS:         slices.Concat(c.DNSServers, c.AdditionalDNSServers),
			},
			Iptables: c.Iptables,
			Restore:  c.IptablesRestore,
			Log:      c.Log,
		}),
		records: records{c.Dir},
		log:     c.Log,
		live:    map[string]*attachment{},
		worker:  newWorker(),
	}, nil
}

// Capacity is how many containers the pool has subnets for.
func (n *Networker) Capacity() uint64 { return n.pool.Capacity() }

// Handles lists every handle that has a lease or leftovers of one.
func (n *Networker) Handles() ([]string, error) { return n.records.handles() }
