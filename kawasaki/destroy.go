package kawasaki

import (
	"fmt"

	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/internal/handle"
)

// Destroy ends a container's network. It marks the lease as resting, on
// record, and answers; what the kernel has not removed together with the
// container is removed soon after, at the latest by Stop or the next Start.
// An unknown handle is taken as done.
func (n *Networker) Destroy(log lager.Logger, h string) error {
	if err := handle.Validate(h); err != nil {
		return err
	}
	n.mu.Lock()
	a := n.live[h]
	n.mu.Unlock()
	if a != nil {
		<-a.leased
	}
	if a == nil || a.leaseErr != nil {
		if err := n.records.discard(h); err != nil {
			return fmt.Errorf("remove network records: %w", err)
		}
		return nil
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.live[h] != a {
		return nil // another Destroy was faster
	}
	if err := n.records.rest(a.lease); err != nil {
		return fmt.Errorf("mark lease as resting: %w", err)
	}
	delete(n.live, h)
	n.resting = append(n.resting, a)
	n.pool.Retire(a.lease.Subnet)
	n.worker.wake()
	log.Info("network-destroyed", lager.Data{"handle": h})
	return nil
}
