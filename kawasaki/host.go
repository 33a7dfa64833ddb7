package kawasaki

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// maxMTU is the largest MTU of a link, whatever the host's is.
const maxMTU = 1500

// host is what containers get from the host they run on.
type host struct {
	externalIP netip.Addr
	mtu        int
}

// findHost asks the kernel for what the configuration leaves open.
func findHost(c Config, names firewall.Names) (host, error) {
	h := host{externalIP: c.ExternalIP, mtu: c.MTU}
	outward, err := defaultLink()
	if err != nil {
		return host{}, err
	}
	if h.mtu == 0 {
		h.mtu = maxMTU
		if outward != nil {
			h.mtu = outward.Attrs().MTU
		}
	}
	h.mtu = min(h.mtu, maxMTU)
	if !h.externalIP.IsValid() {
		if h.externalIP, err = addressOf(outward, names); err != nil {
			return host{}, err
		}
	}
	return h, nil
}

// defaultLink is the interface of the default route that the kernel prefers,
// nil if there is none.
func defaultLink() (netlink.Link, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var best *netlink.Route
	for _, r := range routes {
		if (r.Dst == nil || r.Dst.IP.IsUnspecified() && bytes.Count(r.Dst.Mask, []byte{0}) == len(r.Dst.Mask)) &&
			r.LinkIndex != 0 && (best == nil || r.Priority < best.Priority) {
			best = &r
		}
	}
	if best == nil {
		return nil, nil
	}
	link, err := netlink.LinkByIndex(best.LinkIndex)
	if err != nil {
		return nil, fmt.Errorf("find the interface of the default route: %w", err)
	}
	return link, nil
}

// addressOf is the first global IPv4 address of link, else of the host, else
// the loopback's. Containers' gateways are none of the host's.
func addressOf(link netlink.Link, names firewall.Names) (netip.Addr, error) {
	candidates := []netlink.Link{nil}
	if link != nil {
		candidates = []netlink.Link{link, nil}
	}
	for _, l := range candidates {
		addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addresses {
			if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip.IsGlobalUnicast() && !names.Owns(a.Label) {
				return ip, nil
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// forwardPackets makes the host a router.
func forwardPackets() error { return sysctl("net/ipv4/ip_forward", "1") }

// muteIPv6 keeps the kernel from having an IPv6 address on a link of the
// network namespace that the calling thread stands in.
func muteIPv6(link string) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil // the kernel speaks no IPv6
	}
	return sysctl(filepath.Join("net/ipv6/conf", link, "disable_ipv6"), "1")
}

// sysctl writes only what differs: some settings wake up half the kernel.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(bytes.TrimSpace(old)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// ipNet is the form that netlink takes prefixes in.
func ipNet(address netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, address.BitLen())}
}
