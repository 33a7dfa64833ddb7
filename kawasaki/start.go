package kawasaki

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"code.cloudfoundry.org/lager/v3"
	"github.com/vishvananda/netlink"

	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/kawasaki/firewall"
	"github.com/verger-garden/verger/kawasaki/subnets"
)

// Start makes the host ready: it checks the iptables programs, has the host
// forward packets, takes the recorded leases again and makes the firewall
// exactly what configuration and leases say, also for containers that an
// earlier server made. What rests or is left of nobody's is taken back. A
// lease that cannot be read is logged and set aside.
func (n *Networker) Start() error {
	var err error
	if n.host, err = findHost(n.config, n.names); err != nil {
		return err
	}
	// Readable, as the runtime reaches the DNS files as a container's root.
	if err := os.MkdirAll(n.config.Dir, 0o755); err != nil {
		return err
	}
	if err := n.checkPool(); err != nil {
		return err
	}
	leases, err := n.load()
	if err != nil {
		return err
	}
	var containers []firewall.Container
	for _, a := range n.live {
		containers = append(containers, a.lease.container(n.names))
	}
	if err := n.rules.Start(containers); err != nil {
		return err
	}
	if err := forwardPackets(); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	strays, err := n.plumber().strays(leases)
	if err != nil {
		return err
	}
	for _, name := range strays {
		if err := removeLink(name); err != nil {
			return err
		}
		n.log.Info("removed-stray-link", lager.Data{"link": name})
	}
	n.worker.running.Go(n.takeBack)
	if len(n.resting) > 0 {
		n.worker.wake()
	}
	return nil
}

// checkPool refuses a pool of which the host already routes a part to
// somewhere else: another server's containers, or the site's network.
func (n *Networker) checkPool() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		address, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		// A wider route leads here too, and gives way to ours.
		if bits < n.config.Pool.Bits() || !n.config.Pool.Contains(address.Unmap()) {
			continue
		}
		name := fmt.Sprintf("link %d", r.LinkIndex)
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		if !n.names.Owns(name) {
			return fmt.Errorf("network pool %s overlaps the route to %s by %s: choose another with --network-pool", n.config.Pool, r.Dst, name)
		}
	}
	return nil
}

// load takes all recorded leases again and returns them, resting ones
// included.
func (n *Networker) load() ([]Lease, error) {
	handles, err := n.records.handles()
	if err != nil {
		return nil, err
	}
	resting, err := n.records.resting()
	if err != nil {
		return nil, err
	}
	if n.pool, err = subnets.New(n.config.Pool, rest); err != nil {
		return nil, err
	}
	n.live, n.resting = map[string]*attachment{}, nil
	var leases []Lease
	for _, folder := range handles {
		l, err := n.take(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue // made and not yet used; Destroy removes it
		}
		if err != nil {
			n.log.Error("lease-set-aside", err, lager.Data{"handle": folder})
			if err := n.records.setAside(folder); err != nil {
				return nil, fmt.Errorf("set lease aside: %w", err)
			}
			continue
		}
		n.live[folder] = standing(l)
		leases = append(leases, l)
	}
	for _, folder := range resting {
		l, err := n.take(folder)
		if err != nil {
			// Start itself removes its rules and links, as nobody's.
			n.log.Error("resting-lease-dropped", err, lager.Data{"folder": folder})
			if err := n.records.discard(folder); err != nil {
				return nil, err
			}
			continue
		}
		n.pool.Retire(l.Subnet)
		n.resting = append(n.resting, standing(l))
		leases = append(leases, l)
	}
	return leases, nil
}

// take reads a lease and has the pool not hand it out. One of an earlier,
// different pool is in nobody's way.
func (n *Networker) take(folder string) (Lease, error) {
	l, err := n.records.read(folder)
	if err != nil {
		return Lease{}, err
	}
	if err := n.pool.Take(l.Subnet); err != nil && !errors.Is(err, subnets.ErrForeign) {
		return Lease{}, err
	}
	return l, nil
}

// Restore takes a container over from an earlier server. Start has taken its
// lease again; Restore makes sure that its bridge and its rules stand, and
// makes them if they do not. It fails if there is no lease. A container whose
// processes have ended has no link any more, which is no error.
func (n *Networker) Restore(log lager.Logger, h string) error {
	if err := handle.Validate(h); err != nil {
		return err
	}
	n.mu.Lock()
	a := n.live[h]
	n.mu.Unlock()
	if a == nil {
		return fmt.Errorf("restore network of %s: no lease in %s", h, n.records.file(h, leaseFile))
	}
	if <-a.leased; a.leaseErr != nil {
		return a.leaseErr
	}
	if err := n.rules.Restore(a.lease.container(n.names)); err != nil {
		return err
	}
	connected, err := n.plumber().mend(a.lease)
	if err == nil && !connected {
		// Its first process has ended, and the link with it.
		log.Info("network-link-gone", lager.Data{"handle": h, "link": n.names.HostLink(a.lease.ID)})
	}
	return err
}

// Stop takes back at once what rests, removes the bridges that nobody uses, and
// returns when nothing works in the background any more. Living containers keep
// their network.
func (n *Networker) Stop() error {
	n.worker.stop()
	n.builders.Wait()
	err := errors.Join(n.clear(), n.removeBridges())
	n.rules.Stop()
	return err
}

// Uninstall takes the chains for all containers away, after Stop. It refuses
// while there are leases.
func (n *Networker) Uninstall() error {
	handles, err := n.Handles()
	if err != nil {
		return err
	}
	if len(handles) > 0 {
		return fmt.Errorf("uninstall firewall: %d containers still have a network", len(handles))
	}
	return n.rules.Uninstall()
}
