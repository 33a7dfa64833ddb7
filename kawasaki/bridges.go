package kawasaki

import (
	"errors"
	"net/netip"
	"time"
)

// To remove a bridge takes the kernel 20 to 45 ms, during which no other link
// can be made: a busy server would do little else. So a bridge outlives its
// lease, and the next holder of the subnet, which the pool prefers, finds it
// standing. One that nobody wants goes after a while.

// bridgeIdle is how long a bridge waits for the next holder of its subnet.
const bridgeIdle = 5 * time.Second

// breather is the least time between the removal of two bridges, so that
// creates hardly ever meet one.
const breather = 100 * time.Millisecond

// nextIdle fires when it is time to look for a bridge to remove; nil: none is
// idle.
func (n *Networker) nextIdle() <-chan time.Time {
	if rested, ok := n.pool.Rested(); ok {
		return time.After(max(n.config.BridgeIdle-rested, breather))
	}
	return nil
}

// removeIdle removes the bridge that has been idle longest, if that is long
// enough.
func (n *Networker) removeIdle() error {
	if subnet, ok := n.pool.Reclaim(n.config.BridgeIdle); ok {
		return n.removeBridge(subnet)
	}
	return nil
}

// removeBridges removes all idle bridges now.
func (n *Networker) removeBridges() error {
	var idle []netip.Prefix
	for subnet, ok := n.pool.Reclaim(0); ok; subnet, ok = n.pool.Reclaim(0) {
		idle = append(idle, subnet)
	}
	var errs []error
	for _, subnet := range idle {
		errs = append(errs, n.removeBridge(subnet))
	}
	return errors.Join(errs...)
}

// removeBridge removes the bridge of a reclaimed subnet. If that does not
// work, the bridge is idle for another while.
func (n *Networker) removeBridge(subnet netip.Prefix) error {
	if err := n.plumber().removeBridge(subnet); err != nil {
		n.pool.Release(subnet)
		return err
	}
	n.pool.Return(subnet)
	return nil
}
