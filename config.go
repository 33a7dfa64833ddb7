package verger

import (
	"hash/fnv"
	"net/netip"
	"path/filepath"

	"code.cloudfoundry.org/lager/v3"
)

// Where things are unless a Config says otherwise.
const (
	DefaultStateDir = "/run/gdn"
	DefaultStoreDir = "/var/lib/gdn"
)

// DefaultNetworkPool is where containers get their addresses from unless a
// Config says otherwise.
var DefaultNetworkPool = netip.MustParsePrefix("10.254.0.0/22")

// A Config says what a Backend is made of. Only Runtime and InitBin are
// required.
type Config struct {
	// StateDir is where the state of containers lives, best on a tmpfs:
	// containers do not survive a reboot. One server per directory.
	// "": DefaultStateDir.
	StateDir string

	// StoreDir is where images live. One server per directory. "":
	// DefaultStoreDir.
	StoreDir string

	// Depot has a directory per container. "": StateDir/depot.
	Depot string

	// PropertiesPath is the directory with the properties of containers.
	// "": StateDir/properties.
	PropertiesPath string

	// Tag is in the names of all that is made on the host, to tell it from
	// what another server makes. "": no tag.
	Tag string

	// Runtime is the path of a runc-compatible OCI runtime.
	Runtime string

	// RuntimeExtraArgs come before the runtime's command.
	RuntimeExtraArgs []string

	// InitBin is the path of gdn-init, PID 1 of every container.
	InitBin string

	// Iptables and IptablesRestore are paths of programs. "": as in PATH.
	Iptables, IptablesRestore string

	// DefaultRootfs is the image of containers that name none. "": creating
	// such a container is an error.
	DefaultRootfs string

	// MaxContainers that may exist. 0: as many as the network has room for.
	MaxContainers uint64

	// DestroyContainersOnStartup: do not take over what the last server left.
	DestroyContainersOnStartup bool

	// DisablePrivilegedContainers: refuse to create them.
	DisablePrivilegedContainers bool

	// UIDMapStart is the first user id of the host that users of
	// unprivileged containers have, and UIDMapLength says how many there
	// are; their root has the highest of all. 0 and 0: from 1 to the highest.
	UIDMapStart, UIDMapLength uint32

	// GIDMapStart and GIDMapLength are the same for groups.
	GIDMapStart, GIDMapLength uint32

	// CleanupProcessDirsOnWait: forget a process when its exit code is first
	// collected. False: when its container is destroyed.
	CleanupProcessDirsOnWait bool

	// ReplayBuffer is how many bytes of each output stream are kept for a
	// client that lost its connection. 0: 256 KiB.
	ReplayBuffer int

	// NetworkPool is where containers get their addresses from, four each.
	// Zero: DefaultNetworkPool, or, for a server with a tag, another /22 of
	// 10.254.0.0/16 that follows from the tag.
	NetworkPool netip.Prefix

	// AllowHostAccess: containers may connect to this host.
	AllowHostAccess bool

	// DenyNetworks are those that containers may not reach.
	DenyNetworks []netip.Prefix

	// DNSServers replace the host's in containers, AdditionalDNSServers come
	// after them.
	DNSServers, AdditionalDNSServers []netip.Addr

	// AdditionalHostEntries are lines for the hosts file of containers.
	AdditionalHostEntries []string

	// ExternalIP is the address of this host that containers are reached by.
	// Zero: that of the default route.
	ExternalIP netip.Addr

	// MTU of container links. 0: that of the interface with the external IP.
	MTU int

	// Log gets one line per outcome. nil: silent.
	Log lager.Logger
}

// withDefaults is c with nothing left open that is decided here.
func (c Config) withDefaults() Config {
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.StoreDir == "" {
		c.StoreDir = DefaultStoreDir
	}
	if c.Depot == "" {
		c.Depot = filepath.Join(c.StateDir, "depot")
	}
	if c.PropertiesPath == "" {
		c.PropertiesPath = filepath.Join(c.StateDir, "properties")
	}
	if !c.NetworkPool.IsValid() {
		c.NetworkPool = defaultPool(c.Tag)
	}
	if c.Log == nil {
		c.Log = lager.NewLogger("verger") // without a sink
	}
	return c
}

// defaultPool keeps servers with different tags on one host apart, as far as
// 63 pools go; a pool that is in use already is refused at Start.
func defaultPool(tag string) netip.Prefix {
	if tag == "" {
		return DefaultNetworkPool
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(tag)) // never fails
	third := byte(4 * (1 + h.Sum32()%63))
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, third, 0}), 22)
}
