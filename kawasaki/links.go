package kawasaki

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/netns"
	"github.com/verger-garden/verger/kawasaki/firewall"
)

// A plumber makes and removes the links of a lease. It calls the kernel in
// this process and keeps nothing.
type plumber struct {
	names firewall.Names
	mtu   int
}

// bridge makes the bridge of a lease, or makes the one that stands what it
// should be.
func (p plumber) bridge(l Lease) error {
	name := p.names.Bridge(l.Subnet)
	snooping := false
	link := &netlink.Bridge{
		LinkAttrs: netlink.LinkAttrs{
			Name: name,
			MTU:  p.mtu,
			// One of its own, or it would change with the links on it.
			HardwareAddr: macOf(l.Gateway.As4()),
		},
		MulticastSnooping: &snooping,
	}
	if err := netlink.LinkAdd(link); errors.Is(err, fs.ErrExist) {
		old, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
		link.Index = old.Attrs().Index
	} else if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	if err := muteIPv6(name); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	gateway := &netlink.Addr{IPNet: ipNet(l.Gateway, l.Subnet.Bits())}
	if err := netlink.AddrAdd(link, gateway); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("bridge %s: address %s: %w", name, l.Gateway, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bridge %s: set up: %w", name, err)
	}
	return nil
}

// macOf is a locally administered hardware address that follows from an
// address, so that it is the same at every start.
func macOf(a [4]byte) net.HardwareAddr {
	return net.HardwareAddr{0x0a, 0x58, a[0], a[1], a[2], a[3]}
}

// attempts is how often connect tries when links vanish under its hands.
const attempts = 3

// connect puts a container's end of its link into the open namespace ns and
// the other end on the bridge. Where a subnet is reused at once, the kernel
// may just be removing links of the last holder, so what vanishes meanwhile
// is made once more.
func (p plumber) connect(l Lease, ns *os.File) error {
	var err error
	for range attempts {
		if err = p.tryConnect(l, ns); !vanished(err) {
			return err
		}
		if err := errors.Join(p.disconnect(l), p.bridge(l)); err != nil {
			return err
		}
	}
	return err
}

func vanished(err error) bool {
	_, notFound := errors.AsType[netlink.LinkNotFoundError](err)
	return notFound || errors.Is(err, unix.ENODEV)
}

func (p plumber) tryConnect(l Lease, ns *os.File) error {
	bridge, err := netlink.LinkByName(p.names.Bridge(l.Subnet))
	if err != nil {
		return fmt.Errorf("bridge %s: %w", p.names.Bridge(l.Subnet), err)
	}
	name := p.names.HostLink(l.ID)
	// Its peer is born inside: to move one there takes the kernel 20 ms.
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name, MTU: p.mtu, TxQLen: -1})
	veth.PeerName = p.names.ContainerLink(l.ID)
	veth.PeerNamespace = netlink.NsFd(int(ns.Fd()))
	// The bridge may remember the last holder of the address: with the same
	// hardware address, that is right for this one too.
	veth.PeerHardwareAddr = macOf(l.Address.As4())
	err = netlink.LinkAdd(veth)
	if errors.Is(err, fs.ErrExist) {
		// What an earlier attempt left leads to who knows where.
		err = errors.Join(p.disconnect(l), netlink.LinkAdd(veth))
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := muteIPv6(name); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("link %s: put on bridge: %w", name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("link %s: set up: %w", name, err)
	}
	if err := netns.DoFD(int(ns.Fd()), func() error { return inside(l, veth.PeerName) }); err != nil {
		return fmt.Errorf("link %s: %w", veth.PeerName, err)
	}
	for _, link := range []netlink.Link{veth, bridge} {
		if err := settle(link.Attrs().Index); err != nil {
			return fmt.Errorf("link %s: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

// settle waits until a link that is up also works: the kernel lets packets
// through only once a worker of its own has noticed the carrier, which on a
// busy host may be after the container's first packet. Since Linux 6.8 the
// question alone makes it notice.
func settle(index int) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp || time.Since(start) > time.Second {
			return nil
		}
	}
}

// inside sets up the container's end. It runs in the container's network
// namespace.
func inside(l Lease, name string) error {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer kernel.Close()

	if err := loopback(kernel); err != nil {
		return err
	}
	link, err := kernel.LinkByName(name)
	if err != nil {
		return err
	}
	if err := muteIPv6(name); err != nil {
		return err
	}
	if err := kernel.AddrAdd(link, &netlink.Addr{IPNet: ipNet(l.Address, l.Subnet.Bits())}); err != nil {
		return fmt.Errorf("address %s: %w", l.Address, err)
	}
	if err := kernel.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := kernel.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: l.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("default route via %s: %w", l.Gateway, err)
	}
	return nil
}

// loopback brings lo up if the runtime has not.
func loopback(kernel *netlink.Handle) error {
	lo, err := kernel.LinkByIndex(1)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := kernel.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// mend makes the bridge of a connected lease anew if somebody has removed it,
// and puts the link back on it. It tells whether there is a link at all.
func (p plumber) mend(l Lease) (connected bool, err error) {
	link, err := netlink.LinkByName(p.names.HostLink(l.ID))
	if vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("link %s: %w", p.names.HostLink(l.ID), err)
	}
	if err := p.bridge(l); err != nil {
		return true, err
	}
	bridge, err := netlink.LinkByName(p.names.Bridge(l.Subnet))
	if err == nil && link.Attrs().MasterIndex != bridge.Attrs().Index {
		err = netlink.LinkSetMaster(link, bridge)
	}
	if err != nil {
		return true, fmt.Errorf("link %s: put on bridge: %w", link.Attrs().Name, err)
	}
	return true, nil
}

// disconnect removes the link, if the kernel has not done so with the
// container's namespace.
func (p plumber) disconnect(l Lease) error { return removeLink(p.names.HostLink(l.ID)) }

// removeBridge removes the bridge of a subnet.
func (p plumber) removeBridge(subnet netip.Prefix) error { return removeLink(p.names.Bridge(subnet)) }

// removeLink takes a link that is gone already as done.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !vanished(err) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// strays are the links of this server that belong to none of the leases.
func (p plumber) strays(leases []Lease) ([]string, error) {
	known := map[string]bool{}
	for _, l := range leases {
		known[p.names.HostLink(l.ID)] = true
		known[p.names.Bridge(l.Subnet)] = true
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []string
	for _, l := range links {
		if name := l.Attrs().Name; p.names.Owns(name) && !known[name] {
			out = append(out, name)
		}
	}
	return out, nil
}
